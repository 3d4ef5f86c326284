//! The units under a real systemd: ready only when policy is in force, restarted after a crash,
//! hardened, BIRD beside it, fields in the journal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{run, wait};

const SOON: Duration = Duration::from_secs(20);

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
    ensure!(machine.run(&["ls", "/run/calico"])?.contains("bird.ctl"), "BIRD is not ours");

    // The second host is an ordinary one; pods on both, through the machine's kernel.
    let second = cluster.host("calico-02")?;
    second.flavour = Flavour::Auto;
    second.start_agent()?;
    second.start_bird(SOON)?;
    for pod in &PODS {
        cluster.add_pod(pod)?;
    }
    cluster.check(false).with_context(|| machine.journal("calico-agent"))?;

    // Fields: everything about one endpoint is found by its name.
    let field = format!("CALICO_ENDPOINT=cni/default/{}/eth0", PODS[0].container_id);
    let found = machine.run(&["journalctl", "--no-pager", "-o", "json", &field])?;
    ensure!(
        found.contains("endpoint is up"),
        "nothing under {field}:\n{}",
        machine.journal("calico-agent")
    );

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
    cluster.check(false)?;

    // A reboot while etcd is away: BGP comes up with the configuration that was kept, the agent
    // waits, and goes on when etcd is back.
    cluster.etcd.stop()?;
    machine.reboot()?;
    machine.wait_for_unit("calico-bird", "active", SOON)?;
    ensure!(machine.property("bird", "Id")? == "calico-bird.service", "bird.service is not ours");
    wait::until("BGP sessions after the reboot", SOON, || {
        let sessions =
            machine.run(&["birdc", "-s", "/run/calico/bird.ctl", "show", "protocols"])?;
        Ok((sessions.matches("Established").count() == 2).then_some(()))
    })
    .with_context(|| machine.journal("calico-bird"))?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "activating");
    cluster.etcd.start()?;
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    cluster.check(false)?;
    Ok(())
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
