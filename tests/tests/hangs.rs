//! What hangs is named, and ended by systemd's watchdog; what waits is left alone. Everything that
//! hangs here hangs for real: a file that nobody writes to, a program that does not end.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::status::Status;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::world::{Node, NodeBgp, Resource};
use calico_e2e::{run, wait};

const SOON: Duration = Duration::from_secs(20);

/// The watchdog's limit in these tests: who is silent for half of it is named, and a program may
/// take a third.
const UNIT: &str = "[Service]\nWatchdogSec=6s\nRestartSec=0\n";

/// False, saying why, where no machine can be booted.
fn can_boot() -> bool {
    if let Some(program) = machine::missing() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
        }
        return false;
    }
    run::can_run()
}

/// As `curl --unix-socket /run/calico/agent.sock http://agent<path>`, from outside of the machine.
fn ask(machine: &Machine, path: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(machine.root().join("run/calico/agent.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.with_context(|| head.to_owned())?, body.to_owned()))
}

fn status(machine: &Machine) -> Result<Status> {
    Status::parse(&ask(machine, "/status")?.1)
}

/// A running agent under systemd, ready.
fn begin(label: &str) -> Result<(Cluster, Machine)> {
    let cluster = Cluster::new(label)?;
    let machine = Image::boot_first_host(&cluster, UNIT)?;
    cluster.etcd.put_all(&tutorial::base())?;
    // BIRD would read the file that the agent shall hang on.
    machine.run(&["systemctl", "mask", "--runtime", "calico-bird.path"])?;
    machine.run(&["systemctl", "start", "calico-agent"])?;
    ensure!(ask(&machine, "/live")? == (200, "live\n".to_owned()));
    ensure!(ask(&machine, "/ready")? == (200, "ready\n".to_owned()));
    Ok((cluster, machine))
}

fn restarts(machine: &Machine) -> Result<u32> {
    machine.property("calico-agent", "NRestarts")?.parse().context("NRestarts")
}

#[test]
fn a_loop_that_hangs_is_named_and_ends_in_a_restart() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let (cluster, machine) = begin("hang")?;
    let rules = machine.run(&["iptables-save"])?.matches("cali").count();
    ensure!(rules > 0, "nothing is enforced");

    // Whoever reads this file waits until somebody writes.
    let config = "/var/lib/calico/bird/bird.cfg";
    // In one step: an agent that finds no file writes it again.
    let swap = "mkdir -p ${0%/*}; mkfifo $0.fifo; mv -f $0.fifo $0";
    machine.run(&["sh", "-ec", swap, config])?;
    let bgp = NodeBgp { ipv4: "172.18.18.103/24".to_owned(), ipv6: "fd00::103/64".to_owned() };
    cluster.etcd.put_all(&[Resource::new("calico-03", Node { bgp }).pair()])?;

    // Named before systemd acts: in the answers…
    // There is a second for it; the one that systemd starts then hangs, too.
    let (said, ready, document) = wait::until("a loop that hangs", SOON * 2, || {
        let (code, said) = ask(&machine, "/live")?;
        let all = (said, ask(&machine, "/ready")?.0, status(&machine)?);
        let still = ask(&machine, "/live")?.0;
        Ok((code == 503 && still == 503).then_some(all))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    ensure!(said.starts_with("bird: no sign of life for"), "{said}");
    ensure!(ready == 200, "what is in force is in force");
    ensure!(document.is_degraded() && document.0["hanging"][0]["name"] == "bird", "{document:?}");
    wait::until_true("the line of systemctl status", SOON, || {
        let line = machine.property("calico-agent", "StatusText");
        line.is_ok_and(|line| line == "no sign of life from bird")
    })?;

    // …and in the journal. Then systemd ends it, and what comes back hangs as well.
    wait::until("restart by the watchdog", SOON, || Ok((restarts(&machine)? >= 1).then_some(())))
        .with_context(|| machine.journal("calico-agent"))?;
    let journal = machine.journal("calico-agent");
    let at = |text: &str| journal.find(text).with_context(|| format!("no {text} in\n{journal}"));
    ensure!(at("no sign of life; systemd will restart the agent")? < at("Watchdog timeout")?);
    ensure!(at("Watchdog timeout")? < at("ABRT")?, "{journal}");
    let named = machine.run(&["journalctl", "--no-pager", "-p", "err", "-u", "calico-agent"])?;
    ensure!(named.contains("bird"), "{named}");
    ensure!(machine.run(&["iptables-save"])?.matches("cali").count() >= rules, "torn down");

    // The cause is gone: it comes back, and stays.
    machine.run(&["rm", config])?;
    wait::until("an agent that lives", SOON * 2, || {
        let well = ask(&machine, "/live").is_ok_and(|answer| answer.0 == 200)
            && machine.root().join(&config[1..]).is_file();
        Ok(well.then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    let before = restarts(&machine)?;
    std::thread::sleep(Duration::from_secs(8));
    ensure!(restarts(&machine)? == before, "{}", machine.journal("calico-agent"));
    ensure!(ask(&machine, "/live")?.0 == 200);
    Ok(())
}

#[test]
fn a_program_that_never_ends_is_a_problem_and_no_hang() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let (mut cluster, machine) = begin("stuck")?;
    // First in PATH.
    let programs: Vec<String> = ["iptables", "ip6tables"]
        .iter()
        .flat_map(|base| ["", "-nft", "-legacy"].map(|flavour| format!("{base}{flavour}-restore")))
        .map(|name| format!("/usr/local/sbin/{name}"))
        .collect();
    for program in &programs {
        std::fs::write(machine.root().join(&program[1..]), "#!/bin/sh\nexec sleep 1000\n")?;
        machine.run(&["chmod", "755", program])?;
    }
    let pods: Vec<_> = PODS.iter().filter(|pod| pod.host == "calico-01").collect();
    for pod in &pods {
        cluster.place_pod(pod)?;
    }
    wait::until("a problem that names the program", SOON, || {
        let problems = status(&machine)?.problems().join("\n");
        Ok((problems.contains("-restore") && problems.contains("did not finish")).then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    // It goes on trying, for longer than the watchdog waits, and lives.
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        let live = ask(&machine, "/live")?;
        ensure!(live.0 == 200, "{live:?}\n{}", machine.journal("calico-agent"));
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(restarts(&machine)? == 0, "{}", machine.journal("calico-agent"));
    // Of each family once as a problem and once for each endpoint, however often it is tried.
    let journal = machine.run(&["journalctl", "--no-pager", "-q", "-u", "calico-agent"])?;
    ensure!((1..=6).contains(&journal.matches("did not finish").count()), "{journal}");
    ensure!(!journal.contains("reason=Retry"), "{journal}");
    let sleeping = machine.exec(&["pgrep", "-xc", "sleep"])?.stdout;
    ensure!(sleeping.trim().parse::<u32>()? <= 2, "{sleeping} programs were left behind");

    for program in &programs {
        machine.run(&["rm", program])?;
    }
    for pod in pods {
        let file = machine.root().join("run/calico/endpoint-status").join(pod.status_file());
        wait::until_true(pod.name, SOON, || file.exists())
            .with_context(|| machine.journal("calico-agent"))?;
    }
    wait::until("no problem", SOON, || Ok(status(&machine)?.problems().is_empty().then_some(())))
        .or_else(|error| {
            // No BIRD runs here: that is the one that may stay.
            let problems = status(&machine)?.problems();
            ensure!(problems.iter().all(|problem| problem.contains("BIRD")), "{error}");
            Ok(())
        })
}

/// Systemd has other work at times, and its socket takes a few messages only.
#[test]
fn a_systemd_that_does_not_read_holds_nothing_up() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("mute")?;
    let socket = cluster.run().dir().join("notify");
    let systemd = UnixDatagram::bind(&socket)?;
    let filler = UnixDatagram::unbound()?;
    filler.set_nonblocking(true)?;
    while filler.send_to(b"FILL=1\n", &socket).is_ok() {}
    let variable = ("NOTIFY_SOCKET".to_owned(), socket.display().to_string());
    cluster.hosts[0].env.push(variable);
    cluster.etcd.put_all(&tutorial::before_pods())?;
    cluster.start_agents(Flavour::Nftables)?;
    for pod in &PODS {
        cluster.add_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    cluster.check(false)?;

    // It reads again, and hears what counts: all in one, not one after the other.
    systemd.set_read_timeout(Some(SOON))?;
    let mut buffer = [0; 4096];
    let mut hear = |what: &str| {
        wait::until(what, SOON, || {
            let length = systemd.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            Ok(text.contains(what).then_some(text))
        })
    };
    let told = hear("READY=1\n")?;
    ensure!(told.contains("STATUS="), "{told}");
    let begin = Instant::now();
    cluster.hosts[0].stop_agent()?;
    ensure!(begin.elapsed() < SOON);
    hear("STOPPING=1\n").map(drop)
}
