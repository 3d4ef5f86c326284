//! The units under a real systemd: ready only when policy is in force, restarted after a crash,
//! hardened, BIRD beside it, fields in the journal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::process::Output;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{run, wait};

const SOON: Duration = Duration::from_secs(20);

/// Makes the policy on disk one of another boot.
const OTHER_BOOT: &str = r#"
cd /var/lib/calico
sed '$d; 1s/"boot":"[^"]*"/"boot":"another"/' policy.json >other
printf '{"sha256":"%s"}\n' "$(sha256sum <other | cut -d' ' -f1)" >>other
mv other policy.json
"#;

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

/// A machine in the first host's place; `drop_in` changes the agent's unit.
fn boot(cluster: &Cluster, drop_in: &str) -> Result<Machine> {
    Image::boot_first_host(cluster, drop_in)
}

#[test]
fn the_units_do_their_work_under_systemd() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let mut cluster = Cluster::new("sysd")?;
    let mut machine = boot(&cluster, "")?;

    // Without etcd the unit is starting, for as long as it takes, and says what it waits for.
    cluster.etcd.stop()?;
    // The commands of the README, on a host where the distribution's BIRD runs as its package
    // leaves it: enabling gives its name to our unit, so for systemd ours runs already.
    machine.run(&["systemctl", "restart", "bird"])?;
    let stock = machine.property("bird", "MainPID")?;
    ensure!(stock != "0", "the distribution's BIRD does not run");
    machine.run(&["systemctl", "enable", "calico-agent", "calico-bird"])?;
    machine.run(&["systemctl", "restart", "--no-block", "calico-agent", "calico-bird"])?;
    wait::until("status line", SOON, || {
        let line = machine.property("calico-agent", "StatusText")?;
        Ok(line.contains("waiting for the datastore").then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "activating");

    // With it: ready, and what the unit calls ready is in the kernel.
    cluster.etcd.start()?;
    cluster.etcd.put_all(&tutorial::base())?;
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    let rules = machine.run(&["iptables-save"])?;
    ensure!(rules.contains("-A FORWARD") && rules.contains("-j cali-FORWARD"), "{rules}");
    ensure!(machine.property("calico-agent", "NRestarts")? == "0");

    // BIRD started by itself when its configuration came, and the distribution's stays away.
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    wait::until("one BIRD", SOON, || {
        let pids = machine.exec(&["pidof", "bird"])?.stdout;
        let pids: Vec<&str> = pids.split_whitespace().collect();
        Ok((pids.len() == 1 && pids != [stock.as_str()]).then_some(()))
    })?;
    // It runs a moment before it listens.
    wait::until("BIRD's socket, if it is ours", SOON, || {
        Ok(machine.run(&["ls", "/run/calico/bird"])?.contains("bird.ctl").then_some(()))
    })?;
    // Under a user of its own, whose socket the agent may open without root's right to.
    let user = machine.run(&["sh", "-c", "ps -o user:20= -p $(pidof bird)"])?;
    ensure!(user.trim() == "calico-bird", "BIRD runs as {user}");
    let alone = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let ask = ["birdc", "-s", "/run/calico/bird.ctl", "show", "status"];
    machine.run(&[&alone[..], &ask].concat())?;
    let stranger = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let denied = machine.exec(&[&alone[..], &stranger, &ask].concat())?;
    ensure!(!denied.status.success(), "everybody may ask BIRD: {}", denied.stdout);

    // The second host is an ordinary one; pods on both, through the machine's kernel.
    let second = cluster.host("calico-02")?;
    second.flavour = Flavour::Auto;
    second.start_agent()?;
    second.start_bird(SOON)?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.check(false).with_context(|| machine.journal("calico-agent"))?;

    // Asked by hand, with the environment of a shell: nothing is wrong and nothing is to be done.
    // (But that this container has /proc/sys/net read-only, which nobody else would say.)
    let read_only = |said: &Output| {
        let failed: Vec<&str> = said.stdout.lines().filter(|l| l.starts_with("  fail")).collect();
        let right = |line: &&str| line.contains("kernel parameters: /proc/sys/net/ipv4/ip_forward");
        said.status.code() == Some(1) && failed.len() == 1 && failed.iter().all(right)
    };
    let said = machine.exec(&["calico-agent", "check"])?;
    let quiet = read_only(&said) && !said.stdout.contains("  warn");
    ensure!(quiet, "{}{}", said.stdout, said.stderr);
    let units = ["calico-agent: enabled, active", "calico-bird: enabled, active"];
    ensure!(units.iter().all(|line| said.stdout.contains(line)), "{}", said.stdout);
    let said = machine.exec(&["calico-agent", "plan"])?;
    let quiet = said.stdout.is_empty() && said.status.code() == Some(0);
    ensure!(quiet, "{}{}", said.stdout, said.stderr);
    // With the rights of the unit: what cannot be tried there is said, and nothing fails.
    let unit = machine.property("calico-agent", "FragmentPath")?;
    let script = format!(
        "sed -e 's/^Type=.*/Type=oneshot/' -e '/^Restart/d; /^Watchdog/d; /^Notify/d; /^ExecReload/d' \
           -e 's/^ExecStart=.*/ExecStart=calico-agent check/' {unit} > /run/systemd/system/once.service
         systemctl daemon-reload
         systemctl start once && journalctl -u once -o cat --no-pager"
    );
    let said = machine.exec(&["sh", "-c", &script])?;
    ensure!(said.status.code() == Some(0), "{}\n{}", said.stderr, machine.journal("once"));
    let said = said.stdout;
    ensure!(said.contains("warn  not tried: ") && !said.contains("  fail"), "{said}");

    // Fields: everything about one endpoint is found by its name.
    let field = format!("CALICO_ENDPOINT=cni/default/{}/eth0", PODS[0].container_id);
    let found = machine.run(&["journalctl", "--no-pager", "-o", "json", &field])?;
    ensure!(
        found.contains("endpoint is up"),
        "nothing under {field}:\n{}",
        machine.journal("calico-agent")
    );
    // An event by its id, and what the catalog has to say about it.
    machine.run(&["journalctl", "--update-catalog"])?;
    let ready = "MESSAGE_ID=3e633a5d2be64e7e9dd89325a34b96f7";
    let found = machine.run(&["journalctl", "--no-pager", "-x", "-b", ready])?;
    let told = "ready: the desired state is in force";
    let explained = "All that the datastore asks of this host is in the kernel";
    ensure!(found.contains(told) && found.contains(explained), "{found}");
    ensure!(!found.contains("calico-agent starts"), "{found}");

    reloaded(&machine)?;
    cluster.check(false)?;

    // A crash: systemd starts it again; what was enforced stays enforced meanwhile and after.
    let pid = machine.property("calico-agent", "MainPID")?;
    machine.run(&["kill", "-9", &pid])?;
    cluster.check(false)?;
    wait::until("restarted agent", SOON, || {
        let restarts = machine.property("calico-agent", "NRestarts")?;
        let state = machine.property("calico-agent", "ActiveState")?;
        Ok((restarts == "1" && state == "active").then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    cluster.check(false)?;

    // Stopped on purpose: pods keep what they had.
    machine.run(&["systemctl", "stop", "calico-agent"])?;
    ensure!(machine.property("calico-agent", "Result")? == "success");
    let journal = machine.journal("calico-agent");
    ensure!(journal.contains("ending; the kernel stays as it is"), "{journal}");
    cluster.check(false)?;
    // BIRD goes on, and its socket is where it was; and the other way round.
    machine.run(&ask)?;
    machine.run(&["systemctl", "start", "calico-agent"])?;
    machine.run(&["systemctl", "stop", "calico-bird"])?;
    machine.run(&["calico-agent", "status"]).or_else(|error| {
        // 3: degraded, for want of BIRD.
        error.to_string().contains("status: 3").then(String::new).ok_or(error)
    })?;
    machine.run(&["systemctl", "start", "calico-bird"])?;
    machine.run(&["systemctl", "stop", "calico-agent"])?;

    // A reboot while etcd is away: BGP comes up with the configuration that was kept, the agent with
    // the policy that was, which says how old it is; and goes on when etcd is back. The network
    // namespace is not the machine's, so it is emptied by hand; and below the unit's own /proc/sys
    // the boot is that of the machine beneath, so the file is made one of another boot.
    cluster.etcd.stop()?;
    cluster.hosts[0].power_cycle()?;
    machine.run(&["sh", "-ec", OTHER_BOOT])?;
    machine.reboot()?;
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    ensure!(machine.property("bird", "Id")? == "calico-bird.service", "bird.service is not ours");
    wait::until("BGP sessions after the reboot", SOON, || {
        let sessions =
            machine.run(&["birdc", "-s", "/run/calico/bird.ctl", "show", "protocols"])?;
        Ok((sessions.matches("Established").count() == 2).then_some(()))
    })
    .with_context(|| machine.journal("calico-bird"))?;
    cluster.check(false).with_context(|| machine.journal("calico-agent"))?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "activating");
    // The boot did not wait for it.
    machine.wait_for_unit("multi-user.target", "active", SOON)?;
    let line = machine.property("calico-agent", "StatusText")?;
    ensure!(
        line.starts_with("policy of 2")
            && line.contains("old) from disk, waiting for the datastore")
    );
    cluster.etcd.start()?;
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    ensure!(!machine.property("calico-agent", "StatusText")?.contains("from disk"));
    cluster.check(false)?;
    Ok(())
}

/// `systemctl reload`: a new file counts, a bad one leaves the last good one in force; nothing is
/// started anew.
fn reloaded(machine: &Machine) -> Result<()> {
    let path = machine.root().join("etc/calico/agent.toml");
    let pid = machine.property("calico-agent", "MainPID")?;
    let lines = |wanted: &str| -> Result<usize> {
        let args = ["journalctl", "-b", "-u", "calico-agent", "-o", "cat", "--no-pager"];
        Ok(machine.run(&args)?.matches(wanted).count())
    };
    let debug = || -> Result<usize> {
        let args = ["journalctl", "-b", "-u", "calico-agent", "-p", "debug..debug", "-o", "json"];
        Ok(machine.run(&args)?.lines().count())
    };
    let reload = |text: &str, said: &str, well: bool| -> Result<()> {
        let before = lines(said)?;
        std::fs::write(&path, text)?;
        let reloaded = machine.exec(&["systemctl", "reload", "calico-agent"])?;
        ensure!(reloaded.status.success() == well, "{text}: {reloaded:?}");
        wait::until(said, SOON, || Ok((lines(said)? > before).then_some(())))
            .with_context(|| machine.journal("calico-agent"))
    };
    let more = || -> Result<()> {
        let before = debug()?;
        wait::until("a line of debug", SOON, || Ok((debug()? > before).then_some(())))
    };
    ensure!(debug()? == 0, "the level is not info");
    reload("[felix]\nlog_severity_screen = \"debug\"\n", "read agent.toml again", true)?;
    more()?;
    let bad = "[felix]\nlog_severity_screen = \"error\"\nnonsense = 1\n";
    reload(bad, "what was read before stays", false)?;
    more().context("a bad file counted")?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "active");
    // The reason, where an operator looks: in the journal of the unit, in the status, and by hand.
    let mistake = "agent.toml:3:1: ";
    let journal = machine.journal("calico-agent");
    ensure!(journal.matches(mistake).count() >= 2, "{journal}");
    wait::until("the status says so", SOON, || {
        let status = machine.exec(&["calico-agent", "status"])?;
        let told = status.stdout.contains(mistake) && status.status.code() == Some(3);
        Ok(told.then_some(()))
    })?;
    let by_hand = machine.exec(&["calico-agent", "reload"])?;
    ensure!(by_hand.status.code() == Some(1) && by_hand.stderr.contains(mistake), "{by_hand:?}");
    // The signal does the same.
    let good = "[felix]\nlog_severity_screen = \"info\"\n";
    let before = lines("read agent.toml again")?;
    std::fs::write(&path, good)?;
    machine.run(&["kill", "-HUP", &pid])?;
    wait::until("the signal", SOON, || {
        Ok((lines("read agent.toml again")? > before).then_some(()))
    })?;
    reload(good, "read agent.toml again", true)?;
    wait::until("nothing is wrong any more", SOON, || {
        let status = machine.exec(&["calico-agent", "status"])?;
        Ok((!status.stdout.contains("agent.toml")).then_some(()))
    })?;
    ensure!(machine.property("calico-agent", "MainPID")? == pid, "a reload is no restart");
    Ok(std::fs::remove_file(path)?)
}

#[test]
fn the_watchdog_tells_an_agent_that_waits_from_one_that_hangs() -> Result<()> {
    if !can_boot() {
        return Ok(());
    }
    let mut cluster = Cluster::new("dog")?;
    let machine = boot(&cluster, "[Service]\nWatchdogSec=2s\nRestartSec=0\n")?;
    cluster.etcd.put_all(&tutorial::base())?;
    machine.run(&["systemctl", "start", "calico-agent"])?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "active");

    // Three times the limit without etcd: every loop waits, and answers.
    cluster.etcd.stop()?;
    std::thread::sleep(Duration::from_secs(6));
    ensure!(machine.property("calico-agent", "NRestarts")? == "0", "a waiting agent was restarted");

    // Stopped by a signal it answers nothing: systemd ends it and starts another.
    let pid = machine.property("calico-agent", "MainPID")?;
    machine.run(&["kill", "-STOP", &pid])?;
    wait::until("restart by the watchdog", SOON, || {
        Ok((machine.property("calico-agent", "NRestarts")? == "1").then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    let journal = machine.journal("calico-agent");
    ensure!(journal.contains("Watchdog timeout"), "{journal}");
    cluster.etcd.start()?;
    machine.wait_for_unit("calico-agent", "active", SOON)
}
