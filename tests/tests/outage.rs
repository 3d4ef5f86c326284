//! A long time without etcd, under systemd: nothing is restarted, nothing grows, little is said, and
//! all is well again at once. `CALICO_OUTAGE_SECONDS` says how long (20).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::dataplane;
use calico_e2e::host::Flavour;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::status::Status;
use calico_e2e::tutorial::{self, HTTP, PODS};
use calico_e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(10);

/// Shorter than the shortest outage, so that a loop that forgets to answer is noticed.
const UNIT: &str = "[Service]\nWatchdogSec=8s\n";

/// Lines that an outage may cost, however long it is: that it waits, and why no status is reported.
const LINES: usize = 8;

/// Of one core.
const CPU: f64 = 0.05;
const GROWTH_KIB: u64 = 4 << 10;

fn length() -> Duration {
    let seconds = std::env::var("CALICO_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Memory in KiB and processor time so far, of the agent.
fn consumed(machine: &Machine) -> Result<(u64, Duration)> {
    let pid = machine.property("calico-agent", "MainPID")?;
    let status = machine.run(&["cat", &format!("/proc/{pid}/status")])?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let memory = line.split_whitespace().next().context("no number")?.parse()?;
    let stat = machine.run(&["cat", &format!("/proc/{pid}/stat")])?;
    // Behind the program's name: utime and stime are fields 14 and 15, in hundredths of a second.
    let fields = stat.rsplit_once(')').context("no stat")?.1;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = times.sum::<Result<u64, _>>()?;
    Ok((memory, Duration::from_millis(ticks * 10)))
}

fn lines(machine: &Machine) -> Result<usize> {
    let journal = machine.run(&["journalctl", "--no-pager", "-q", "-b", "-u", "calico-agent"])?;
    Ok(journal.lines().count())
}

fn status(machine: &Machine) -> Result<Status> {
    let output = machine.exec(&["calico-agent", "status", "--output", "json"])?;
    Status::parse(&output.stdout)
}

fn a_long_time_without_etcd(label: &str, flavour: Flavour) -> Result<()> {
    if let Some(program) = machine::missing() {
        dataplane::skip(label, &format!("{program} is not installed (scripts/setup --tests)"));
        return Ok(());
    }
    let mut cluster = Cluster::new(label)?;
    let (name, value) = flavour.setting();
    let unit = format!("{UNIT}Environment={name}={value}\n");
    let machine = Image::boot_first_host(&cluster, &unit)?;
    cluster.etcd.put_all(&tutorial::base())?;
    machine.run(&["systemctl", "enable", "calico-agent", "calico-bird"])?;
    machine.run(&["systemctl", "restart", "--no-block", "calico-agent", "calico-bird"])?;
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    let pods: Vec<_> = PODS.iter().filter(|pod| pod.host == "calico-01").collect();
    for pod in &pods {
        cluster.place_pod(pod)?;
        let file = machine.root().join("run/calico/endpoint-status").join(pod.status_file());
        wait::until_true(pod.name, SOON, || file.exists())
            .with_context(|| machine.journal("calico-agent"))?;
    }
    let (run, host) = (cluster.run().name(), &cluster.hosts[0]);
    dataplane::read_back(run, host.spec.name, flavour, host.ns())?;
    // What else happens at the start is over.
    std::thread::sleep(Duration::from_secs(2));
    let (memory, cpu) = consumed(&machine)?;
    let said = lines(&machine)?;

    // First nobody answers at all, then the port is closed.
    let begun = Instant::now();
    let wire = cluster.hosts[0].ns();
    let cut = "table inet cut {\nchain input { type filter hook input priority 0; \
               tcp sport 2379 drop; }\n}\n";
    wire.command("nft").args(["-f", "-"]).input(cut).run()?;
    let check = |cluster: &Cluster| -> Result<()> {
        let from = cluster.pod("frontend-1")?.ns().name();
        let host = cluster.hosts[0].spec.v4.into();
        let open = ask_from(from, host, Service::Tcp(HTTP), PATIENT)?;
        ensure!(open.reached(), "{open:?}");
        let closed = cluster.pod("backend-1")?.spec.v4.into();
        let closed = ask_from(from, closed, Service::Tcp(HTTP), BRIEF)?;
        ensure!(closed == Answer::Silence, "{closed:?}");
        Ok(())
    };
    while begun.elapsed() < length() / 2 {
        check(&cluster)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    cluster.etcd.stop()?;
    cluster.hosts[0].ns().command("nft").args(["delete", "table", "inet", "cut"]).run()?;
    while begun.elapsed() < length() {
        check(&cluster)?;
        std::thread::sleep(Duration::from_secs(1));
    }

    let waiting = status(&machine)?;
    ensure!(waiting.0["datastore"]["waiting"].is_string(), "it waits for nothing: {waiting:?}");
    let journal = machine.journal("calico-agent");
    ensure!(machine.property("calico-agent", "NRestarts")? == "0", "{journal}");
    ensure!(!journal.contains("no sign of life"), "{journal}");
    let news = lines(&machine)? - said;
    ensure!((1..=LINES).contains(&news), "said {news} lines:\n{journal}");
    let (grown, busy) = consumed(&machine)?;
    let busy = (busy - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    ensure!(busy < CPU, "{busy} of a core");
    ensure!(grown < memory + GROWTH_KIB, "grew from {memory} to {grown} KiB");

    cluster.etcd.start()?;
    let over = Instant::now();
    let (key, _) = PODS[1].endpoint().pair();
    let revision = cluster.etcd.delete(&key)?;
    wait::until("in sync again", RECOVERY, || {
        let now = status(&machine)?;
        let in_sync = now.0["datastore"]["in_sync"] == true;
        Ok((in_sync && now.applied_revision() >= revision).then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    show(begun.elapsed(), over.elapsed(), news, busy, memory, grown);
    ensure!(machine.property("calico-agent", "NRestarts")? == "0");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_long_time_without_etcd, "out";
}

#[expect(clippy::print_stderr, reason = "what was measured")]
fn show(whole: Duration, after: Duration, lines: usize, busy: f64, memory: u64, grown: u64) {
    eprintln!(
        "{:.0} s without etcd: in sync {:.1} s after, {lines} lines said, {:.2} % of a core, \
         {memory} KiB before and {grown} KiB after",
        whole.as_secs_f32(),
        after.as_secs_f32(),
        busy * 100.0
    );
}
