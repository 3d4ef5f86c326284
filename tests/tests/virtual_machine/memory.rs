//! The limits of the units, where somebody enforces them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::virtual_machine::{VirtualMachine, until};

use super::{SOON, Stage, number, prepared};

/// What the units say.
const LIMIT: u64 = 1 << 30;

#[test]
fn an_agent_that_meets_its_limit_is_started_again_and_nothing_is_let_through() -> Result<()> {
    let Some(prepared) = prepared() else { return Ok(()) };
    let stage = Stage::whole(&prepared, "vmmem")?;
    let machine = &stage.machine;

    // In force, and far away.
    for (unit, tasks) in [("calico-agent", 512), ("calico-bird", 32)] {
        machine.wait_for_unit(unit, "active", SOON)?;
        ensure!(machine.number(unit, "MemoryMax")? == LIMIT, "{unit}");
        ensure!(group(machine, unit, "memory.max")? == LIMIT, "{unit}");
        ensure!(group(machine, unit, "pids.max")? == tasks, "{unit}");
        let pid = machine.property(unit, "MainPID")?;
        let score = machine.run(&format!("cat /proc/{pid}/oom_score_adj"))?;
        ensure!(score.trim() == "-900", "{unit}: {score}");
        let used = group(machine, unit, "memory.current")?;
        ensure!(used < LIMIT / 4, "{unit} uses {used}");
        say(&format!("{unit}: {} KiB of {} in use", used >> 10, LIMIT >> 10));
    }
    ensure!(machine.property("calico-agent", "NRestarts")? == "0");

    // Met: the kernel kills it, systemd starts it, and it is not ready; BIRD does not notice, and each packet
    // gets what it got.
    let bird = machine.property("calico-bird", "MainPID")?;
    let group_of = machine.property("calico-agent", "ControlGroup")?;
    let anonymous =
        machine.run(&format!("sed -n 's/^anon //p' /sys/fs/cgroup{group_of}/memory.stat"))?;
    let half = number(&anonymous)? / 2;
    machine.run(&format!("systemctl set-property --runtime calico-agent MemoryMax={half}"))?;
    until(
        "restart",
        SOON,
        || Ok((machine.number("calico-agent", "NRestarts")? >= 1).then_some(())),
    )
    .with_context(|| machine.journal("calico-agent"))?;
    stage.packets()?;
    let kernel = machine.run("journalctl -b -k -o cat")?;
    let killed = kernel.lines().filter(|line| line.contains("emory cgroup out of memory"));
    let killed: Vec<&str> = killed.filter(|line| line.contains("Killed process")).collect();
    ensure!(killed.iter().any(|line| line.contains("(calico-agent)")), "{kernel}");
    ensure!(!killed.iter().any(|line| line.contains("(bird)")), "{killed:?}");
    let told = machine.run("journalctl -b -o cat -u calico-agent")?;
    ensure!(told.contains("Failed with result 'oom-kill'"), "{told}");
    ensure!(machine.property("calico-agent", "ActiveState")? != "active");
    ensure!(machine.property("calico-agent", "ActiveState")? != "failed");
    ensure!(machine.property("calico-bird", "MainPID")? == bird, "BIRD was restarted");

    // With room again it is ready, and stays.
    machine.run(&format!("systemctl set-property --runtime calico-agent MemoryMax={LIMIT}"))?;
    machine.wait_for_unit("calico-agent", "active", SOON)?;
    ensure!(group(machine, "calico-agent", "memory.max")? == LIMIT);
    let restarts = machine.number("calico-agent", "NRestarts")?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(machine.number("calico-agent", "NRestarts")? == restarts, "it is still restarted");
    stage.packets()?;
    stage.nothing_is_wrong()
}

/// A number in the unit's control group.
fn group(machine: &VirtualMachine, unit: &str, file: &str) -> Result<u64> {
    let group = machine.property(unit, "ControlGroup")?;
    number(&machine.run(&format!("cat /sys/fs/cgroup{group}/{file}"))?)
}

#[expect(clippy::print_stdout, reason = "a figure")]
fn say(text: &str) {
    println!("{text}");
}
