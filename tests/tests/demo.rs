//! The demo's tables on each dataplane, and the demo program itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, agent_binary};
use calico_e2e::process::Command;
use calico_e2e::{kernel, netns, run, tutorial, wait};
use nix::sys::signal::Signal;

/// The demo with the agent that these tests test.
fn demo() -> Result<Command> {
    Ok(Command::new(env!("CARGO_BIN_EXE_calico-demo")).env("CALICO_AGENT_BIN", agent_binary()?))
}

fn both_tables_are_right(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    for host in &cluster.hosts {
        let chains = kernel::chains(host.ns())?;
        ensure!(chains.only() == Some(flavour), "the wrong dataplane: {chains}");
    }
    // And back: what a policy changed, its removal undoes.
    for (key, _) in tutorial::policies().iter().filter(|(key, _)| !key.contains("/workload")) {
        cluster.etcd.delete(key)?;
    }
    cluster.check(false)
}

calico_e2e::on_each_dataplane! {
    smoke: both_tables_are_right, "demo";
}

#[test]
fn the_program_ends_with_success_when_all_is_right() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let demo = demo()?.arg("--policy").limit(Duration::from_secs(120));
    let output = demo.output()?;
    ensure!(output.status.success(), "{}", output.stdout);
    for part in
        ["what passes = what should", "with policies", "calico-agent status    # on calico-02"]
    {
        ensure!(output.stdout.contains(part), "no {part:?} in\n{}", output.stdout);
    }
    ensure!(!output.stdout.contains("\n≠ "), "{}", output.stdout);
    Ok(())
}

#[test]
fn the_program_ends_with_failure_when_an_agent_does() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let output = demo()?.env("CALICO_AGENT_BIN", "/bin/false").output()?;
    ensure!(output.status.code() == Some(1), "{}: {}", output.status, output.stdout);
    ensure!(output.stdout.contains("the agent on calico-01 ended"), "{}", output.stdout);
    Ok(())
}

#[test]
fn an_interrupt_cleans_up() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    // While it builds its first host, its wire, its pods: each time something else is under way.
    for namespaces in [1, 3, 4, 6] {
        interrupted_at(namespaces).with_context(|| format!("at {namespaces} namespaces"))?;
    }
    Ok(())
}

fn interrupted_at(namespaces: usize) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let mut demo = demo()?.start(log.path())?;
    let name = format!("demo{}-0", demo.pid());
    let mine = || run::namespaces(&name);
    wait::until_true("namespaces", Duration::from_secs(20), || mine().len() >= namespaces)?;
    let seen = mine();
    demo.signal(Signal::SIGINT)?;
    let status = demo.wait(Duration::from_secs(10))?;
    ensure!(status.code() == Some(130), "{status}: {}", demo.log());
    let left: Vec<_> = netns::list().into_iter().filter(|ns| seen.contains(ns)).collect();
    ensure!(left.is_empty() && mine().is_empty(), "left behind: {left:?} {:?}", mine());
    let left = run::list().into_iter().find(|(run, _)| *run == name);
    ensure!(left.is_none(), "the directory is left: {left:?}");
    Ok(())
}

#[test]
fn what_was_kept_runs_on_until_it_is_cleaned() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let demo = demo()?.arg("--keep").limit(Duration::from_secs(120));
    let output = demo.output()?;
    // The command that the demo prints to remove it.
    let last = output.stdout.lines().rev().find(|line| line.contains(" clean demo"));
    let line = last.with_context(|| output.stdout.clone())?;
    let name = line.rsplit(' ').next().unwrap_or_default().to_owned();
    // The commands that it prints must work as printed.
    let script: String = {
        let (_, tries) = output.stdout.split_once("Left running. Try:").unwrap_or_default();
        let shells = |line: &&str| {
            !line.ends_with(" bash") && !line.contains(" less ") && !line.contains(" del ")
        };
        tries.lines().filter(shells).map(|line| format!("{line}\n")).collect()
    };
    let kept = run::namespaces(&name);
    ensure!(kept.len() == 8, "not all is there: {kept:?}");
    let tried = Command::new("bash").args(["-e", "-c", &script]).output()?;
    let said = format!("{script}\n{}{}", tried.stdout, tried.stderr);
    let left: Vec<_> = netns::list().into_iter().filter(|ns| kept.contains(ns)).collect();
    run::destroy(&name);
    ensure!(tried.status.success() && left.is_empty(), "{left:?} after\n{said}");
    // frontend-1 may not reach backend-2, but the outside sees its host's address.
    ensure!(tried.stdout.contains("172.18.18.101"), "{said}");
    Ok(())
}
