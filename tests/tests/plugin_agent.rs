//! The plugin and the agent of its host: without one, with one that cannot write, with one that is
//! killed and started again just then.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::holdings::Holdings;
use calico_e2e::host::Flavour;
use calico_e2e::rkt::{Refusal, Rkt, draw_uuid};
use calico_e2e::tutorial;
use calico_e2e::{run, wait};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

/// "The policy is not in the kernel."
const NOT_PROTECTED: u32 = 104;

fn lab(label: &str, flavour: Flavour) -> Result<Cluster> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_ready()?;
    Ok(cluster)
}

/// An ADD that must fail: its error, how long it took, and that it left nothing.
fn refused(cluster: &Cluster, more: &Value) -> Result<(Refusal, Duration)> {
    let rkt = Rkt::new(&cluster.hosts[0])?;
    rkt.network("network1", more)?;
    let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
    let begin = Instant::now();
    let added = rkt.connect(&mut pod, &[("network1", "")]);
    let took = begin.elapsed();
    let error = added.err().context("a pod started without protection")?;
    let refusal = error.downcast::<Refusal>()?;
    let held = Holdings::read(&cluster.etcd, &cluster.hosts)?;
    ensure!(held.is_empty(), "left behind: {held}\nafter {refusal}");
    let inside = pod.ns().command("ip").args(["-o", "link", "show"]).run()?;
    ensure!(!inside.contains("eth0"), "{inside}");
    Ok((refusal, took))
}

/// The control: on the same host, the same conf.
fn accepted(cluster: &Cluster, more: &Value) -> Result<()> {
    let rkt = Rkt::new(&cluster.hosts[0])?;
    rkt.network("network1", more)?;
    let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
    rkt.connect(&mut pod, &[("network1", "")]).with_context(|| cluster.logs())?;
    let held = Holdings::read(&cluster.etcd, &cluster.hosts)?;
    ensure!(held.endpoints.len() == 1 && held.addresses.len() == 1, "{held}");
    ensure!(held.records.len() == 1 && held.interfaces.len() == 1, "{held}");
    let refusals = rkt.remove(pod)?;
    ensure!(refusals.is_empty(), "{refusals:?}");
    let held = Holdings::read(&cluster.etcd, &cluster.hosts)?;
    ensure!(held.is_empty(), "{held}");
    Ok(())
}

fn without_an_agent_no_pod_starts(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = lab(label, flavour)?;
    accepted(&cluster, &json!({}))?;
    cluster.hosts[0].stop_agent()?;
    let (refusal, took) = refused(&cluster, &json!({ "policy_setup_timeout_seconds": 5 }))?;
    ensure!(refusal.code == Some(NOT_PROTECTED), "{refusal}");
    ensure!(refusal.to_string().contains("calico-agent"), "it does not say what to do: {refusal}");
    ensure!(took < Duration::from_secs(10), "{took:?}");
    // A crash leaves the status files and the lock's file behind: none of them is trusted.
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    cluster.hosts[0].kill_agent();
    let (refusal, _) = refused(&cluster, &json!({ "policy_setup_timeout_seconds": 1 }))?;
    ensure!(refusal.code == Some(NOT_PROTECTED), "{refusal}");
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    accepted(&cluster, &json!({}))
}

calico_e2e::on_each_dataplane! {
    full: without_an_agent_no_pod_starts, "noa";
}

#[test]
fn an_agent_that_cannot_write_protects_nobody() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = lab("nowrite", Flavour::Legacy)?;
    // The first pod of a network needs chains, and they need the lock.
    let path = cluster.hosts[0].xtables_lock();
    let file = File::options().create(true).append(true).open(path)?;
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let conf = json!({ "policy_setup_timeout_seconds": 2 });
    let (refusal, took) = refused(&cluster, &conf)?;
    ensure!(refusal.code == Some(NOT_PROTECTED), "{refusal}");
    ensure!(took > Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    drop(lock);
    wait::until("a pod that starts", Duration::from_secs(40), || {
        accepted(&cluster, &json!({})).map(Some)
    })
}

fn an_agent_that_is_restarted_during_add_still_protects(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let mut cluster = lab(label, flavour)?;
    let rkt = Rkt::new(&cluster.hosts[0])?;
    rkt.network("network1", &json!({}))?;
    for round in 0..8 {
        let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
        // Before the plugin looks, while it works, while it waits.
        let after = Duration::from_millis(round * 6);
        let added = std::thread::scope(|scope| {
            let adding = scope.spawn(|| rkt.connect(&mut pod, &[("network1", "")]));
            std::thread::sleep(after);
            cluster.hosts[0].kill_agent();
            let started = cluster.hosts[0].start_agent();
            let added = adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            started.and(added)
        });
        added.with_context(|| format!("killed after {after:?}\n{}", cluster.logs()))?;
        let host = &cluster.hosts[0];
        let file = format!("cni default%2F{} eth0", pod.uuid);
        ensure!(host.has_status_file(&file), "ADD returned without {file}");
        let refusals = rkt.remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
        cluster.wait_until_ready()?;
    }
    let held = Holdings::read(&cluster.etcd, &cluster.hosts)?;
    ensure!(held.is_empty(), "{held}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: an_agent_that_is_restarted_during_add_still_protects, "rea";
}
