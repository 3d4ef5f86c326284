//! Values that are too many, too large, or nonsense.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::world::{Pair, RESOURCES};

use crate::lab::{Lab, RECOVERY, complaints};

/// Malformed values at once.
const NONSENSE: usize = 10_000;

/// What a host's log may grow by for all of them together.
const LINES: usize = 60;

/// What its memory may grow by: each is kept by its name and its reason, not by its value.
const GROWTH_KIB: u64 = 40 << 10;

fn values_that_nobody_can_read(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;

    // As large as etcd takes them (1.5 MiB a request): one that is right, one that is not.
    let begun = Instant::now();
    lab.cluster.etcd.put_all(&[network_set(60_000)])?;
    let garbage = (policy_key("garbage"), "{\"spec\":".to_owned() + &"\"x\",".repeat(270_000));
    ensure!(garbage.1.len() > 1 << 20, "too small");
    lab.cluster.etcd.put_all(std::slice::from_ref(&garbage))?;
    let revision = lab.flip(RECOVERY)?;
    lab.in_sync(revision, begun, RECOVERY)?;
    lab.note("two values of 1 MiB, one of them garbage", None, begun.elapsed())?;
    for host in &lab.cluster.hosts {
        let status = host.status()?;
        ensure!(status.rejected() == [garbage.0.clone()], "{:?}", status.rejected());
        let log = complaints(host);
        ensure!(log.iter().all(|line| line.len() < 1000), "the log holds the value");
    }

    let before: Vec<_> = lab.cluster.hosts.iter().map(|host| complaints(host).len()).collect();
    let memory = memory(&mut lab)?;
    let begun = Instant::now();
    let nonsense: Vec<Pair> = (0..NONSENSE)
        .map(|i| (policy_key(&format!("nonsense-{i:05}")), format!("{{\"spec\": {i}")))
        .collect();
    lab.cluster.etcd.put_all(&nonsense)?;
    let revision = lab.flip(RECOVERY)?;
    lab.in_sync(revision, begun, RECOVERY)?;
    lab.note("10,000 malformed values", None, begun.elapsed())?;
    for (host, before) in lab.cluster.hosts.iter().zip(&before) {
        let rejected: BTreeSet<String> = host.status()?.rejected().into_iter().collect();
        ensure!(rejected.len() == NONSENSE + 1, "{} are named", rejected.len());
        ensure!(nonsense.iter().all(|(key, _)| rejected.contains(key)), "not all are named");
        let said = complaints(host).len() - before;
        ensure!((1..=LINES).contains(&said), "said {said} times:\n{}", host.logs());
    }
    let now = self::memory(&mut lab)?;
    for (before, now) in memory.iter().zip(&now) {
        ensure!(now - before.min(now) < GROWTH_KIB, "grew from {before} to {now} KiB");
    }

    // Gone again, and so is what was said of them.
    lab.cluster.etcd.delete_prefix(&policy_key("nonsense-"))?;
    lab.cluster.etcd.delete(&garbage.0)?;
    lab.cluster.etcd.delete(&network_set(0).0)?;
    let begun = Instant::now();
    let revision = lab.flip(RECOVERY)?;
    lab.in_sync(revision, begun, RECOVERY)?;
    for host in &lab.cluster.hosts {
        ensure!(host.status()?.rejected().is_empty(), "still rejected");
        let lines = std::fs::read_to_string(host.agent_log())?.lines().count();
        ensure!(lines < 400, "{lines} lines");
    }
    lab.finish()
}

calico_e2e::on_each_dataplane! {
    full: values_that_nobody_can_read, "efv";
}

fn policy_key(name: &str) -> String {
    format!("{RESOURCES}/globalnetworkpolicies/default.{name}")
}

/// A set of `count` addresses, which no policy asks for.
fn network_set(count: u32) -> Pair {
    let nets = (0..count).map(|i| format!("\"10.{}.{}.{}/32\"", i >> 16, i >> 8 & 255, i & 255));
    let nets = nets.collect::<Vec<_>>().join(",");
    let value = format!(
        "{{\"kind\":\"GlobalNetworkSet\",\"apiVersion\":\"projectcalico.org/v3\",\
         \"metadata\":{{\"name\":\"many\"}},\"spec\":{{\"nets\":[{nets}]}}}}"
    );
    (format!("{RESOURCES}/globalnetworksets/many"), value)
}

/// Resident memory of each agent, in KiB.
fn memory(lab: &mut Lab) -> Result<Vec<u64>> {
    lab.cluster.hosts.iter_mut().map(resident).collect()
}

fn resident(host: &mut Host) -> Result<u64> {
    let pid = host.agent()?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).context("no VmRSS")
}
