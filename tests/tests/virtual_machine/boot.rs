//! The order of a boot: who waits for whom, and who for nobody.

use anyhow::{Context, Result, ensure};
use calico_e2e::tutorial;
use calico_e2e::virtual_machine::{Kernel, VirtualMachine, until};

use super::{SOON, Stage, prepared};

#[test]
fn a_boot_waits_for_nobody_and_ready_is_when_policy_is_in_force() -> Result<()> {
    let Some(prepared) = prepared() else { return Ok(()) };
    // The first boot of a host that nobody told anything, without etcd.
    let mut stage = Stage::boot(&prepared, "vmboot", true, |_| Ok(()))?;
    booted(&stage.machine)?;
    let line = waits_for_the_datastore(&stage.machine)?;
    ensure!(!line.contains("from disk"), "{line}");
    ensure!(!in_force(&stage.machine)?, "something is in force that nobody wants");
    in_order(&stage.machine)?;
    modules_are_loaded(&stage.machine)?;

    // etcd comes: ready, long after the boot, and what is called ready is in the kernel.
    stage.cluster.etcd.start()?;
    stage.cluster.etcd.put_all(&tutorial::before_pods())?;
    stage.machine.wait_for_unit("calico-agent", "active", SOON)?;
    ensure!(in_force(&stage.machine)?, "ready, and nothing is in force");
    let ready = stage.machine.number("calico-agent", "ActiveEnterTimestampMonotonic")?;
    let boot = stage.machine.number("multi-user.target", "ActiveEnterTimestampMonotonic")?;
    ensure!(
        boot < ready,
        "multi-user.target was reached at {boot}, and the agent ready at {ready}"
    );
    let told =
        stage.machine.run("journalctl -b -o cat MESSAGE_ID=3e633a5d2be64e7e9dd89325a34b96f7")?;
    ensure!(told.contains("ready: the desired state is in force"), "{told}");
    stage.machine.wait_for_unit("calico-bird", "active", SOON)?;
    stage.second_host()?;
    stage.add_pods()?;
    stage.packets()?;
    stage.nothing_is_wrong()?;

    // A boot with etcd.
    let id = |stage: &Stage| stage.machine.run("cat /proc/sys/kernel/random/boot_id");
    let before = id(&stage)?;
    stage.machine.reboot(Kernel::Debian)?;
    ensure!(id(&stage)? != before, "that was no boot");
    booted(&stage.machine)?;
    stage.machine.wait_for_unit("calico-agent", "active", SOON)?;
    ensure!(in_force(&stage.machine)?, "ready, and nothing is in force");
    in_order(&stage.machine)?;
    peers(&stage.machine)?;

    // And one without, of a host that was told: BGP with the configuration of then, pods with the policy of
    // then, and nobody waits.
    stage.cluster.etcd.stop()?;
    stage.machine.reboot(Kernel::Debian)?;
    booted(&stage.machine)?;
    let line = waits_for_the_datastore(&stage.machine)?;
    ensure!(line.starts_with("policy of 2") && line.contains("from disk"), "{line}");
    until("policy from disk in the kernel", SOON, || Ok(in_force(&stage.machine)?.then_some(())))
        .with_context(|| stage.machine.journal("calico-agent"))?;
    peers(&stage.machine)?;
    stage.wire_pods()?;
    stage.packets()?;
    ensure!(stage.machine.property("calico-agent", "ActiveState")? == "activating");
    stage.cluster.etcd.start()?;
    stage.machine.wait_for_unit("calico-agent", "active", SOON)?;
    let line = stage.machine.property("calico-agent", "StatusText")?;
    ensure!(!line.contains("from disk"), "{line}");
    stage.packets()
}

/// The boot is over: what anybody waits for is reached, whatever the agent does. Only its own start may be
/// left.
fn booted(machine: &VirtualMachine) -> Result<()> {
    machine.wait_for_unit("multi-user.target", "active", SOON)?;
    until("end of the boot", SOON, || {
        let jobs = machine.run("systemctl list-jobs --no-legend --plain")?;
        let others =
            jobs.lines().any(|job| !job.is_empty() && !job.contains("calico-agent.service"));
        Ok((!others).then_some(()))
    })
    .with_context(|| machine.journal("calico-agent"))?;
    let failed = machine.run("systemctl list-units --failed --no-legend --plain")?;
    ensure!(failed.trim().is_empty(), "{failed}");
    Ok(())
}

/// The agent is starting, and says why it takes so long.
fn waits_for_the_datastore(machine: &VirtualMachine) -> Result<String> {
    let line = until("status line", SOON, || {
        let line = machine.property("calico-agent", "StatusText")?;
        Ok(line.contains("waiting for the datastore").then_some(line))
    });
    let line = line.with_context(|| machine.journal("calico-agent"))?;
    ensure!(machine.property("calico-agent", "ActiveState")? == "activating");
    Ok(line)
}

/// True when rules of the agent are in the kernel.
fn in_force(machine: &VirtualMachine) -> Result<bool> {
    let rules = machine.run("nft list ruleset; iptables-legacy-save")?;
    Ok(rules.contains("cali-FORWARD") || rules.contains("inet calico"))
}

/// The agent was started after what prepares the machine for it: modules, directories, kernel parameters
/// (all before sysinit.target), and the rules of others, which begin with a flush.
fn in_order(machine: &VirtualMachine) -> Result<()> {
    let begin = machine.number("calico-agent", "InactiveExitTimestampMonotonic")?;
    for unit in [
        "systemd-modules-load.service",
        "systemd-tmpfiles-setup.service",
        "systemd-sysctl.service",
        "sysinit.target",
        "nftables.service",
        "network.target",
    ] {
        let done = machine.number(unit, "ActiveEnterTimestampMonotonic")?;
        ensure!(done > 0 && done <= begin, "{unit} at {done} µs, the agent at {begin} µs");
    }
    Ok(())
}

/// What the package has in modules-load.d is in the kernel: built in, or loaded by systemd. What it does not
/// name and nobody uses is not.
fn modules_are_loaded(machine: &VirtualMachine) -> Result<()> {
    let missing = machine.run(
        "for module in $(grep -v '^#' /usr/lib/modules-load.d/calico.conf); do
             [ -d /sys/module/$module ] || grep -q /$module.ko /lib/modules/$(uname -r)/modules.builtin ||
                 echo $module
         done",
    )?;
    ensure!(missing.is_empty(), "not loaded: {missing}");
    // By its identifier: which unit a process belongs to that has ended, the journal may not find out.
    let told = machine.run("journalctl -b -o cat -t systemd-modules-load")?;
    ensure!(told.contains("Inserted module 'iptable_raw'"), "{told}");
    ensure!(!machine.sh("test -d /sys/module/ipip")?.status.success(), "somebody loads everything");
    Ok(())
}

/// BIRD has its session with the other host.
fn peers(machine: &VirtualMachine) -> Result<()> {
    until("BGP session", SOON, || {
        let said = machine.sh("birdc -s /run/calico/bird.ctl show protocols")?;
        Ok(said.stdout.contains("Established").then_some(()))
    })
    .with_context(|| machine.journal("calico-bird"))
}
