//! What reaches the kernel grows with what changed, not with what is there. Two witnesses: the
//! agent's own counters, and the kernel's notifications, which do not depend on the agent's honesty.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::kernel::{Snapshot, Witness};
use calico_e2e::tutorial::{self, PODS, PodSpec};
use calico_e2e::{own_table, wait};

/// More pods of a network on `calico-01`. Addresses from the middle of its blocks.
fn more(names: &'static [&'static str], ids: &'static [&'static str]) -> Vec<PodSpec> {
    let specs = names.iter().zip(ids).enumerate();
    specs
        .map(|(n, (name, container_id))| {
            let last = 20 + u8::try_from(n).unwrap_or(0);
            let v6 = Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, last.into());
            let v4 = Ipv4Addr::new(192, 168, 0, last);
            PodSpec { name, container_id, v4, v6, mac: "ca:fe:1d:52:bb:ff", ..PODS[0] }
        })
        .collect()
}

const NAMES: [&str; 12] =
    ["m-0", "m-1", "m-2", "m-3", "m-4", "m-5", "m-6", "m-7", "m-8", "m-9", "m-10", "m-11"];
const IDS: [&str; 12] = [
    "a0000000-0000-4000-8000-000000000000",
    "a1000000-0000-4000-8000-000000000000",
    "a2000000-0000-4000-8000-000000000000",
    "a3000000-0000-4000-8000-000000000000",
    "a4000000-0000-4000-8000-000000000000",
    "a5000000-0000-4000-8000-000000000000",
    "a6000000-0000-4000-8000-000000000000",
    "a7000000-0000-4000-8000-000000000000",
    "a8000000-0000-4000-8000-000000000000",
    "a9000000-0000-4000-8000-000000000000",
    "aa000000-0000-4000-8000-000000000000",
    "ab000000-0000-4000-8000-000000000000",
];

/// Adds a pod and returns what was sent for it, once nothing more comes.
fn cost(cluster: &mut Cluster, spec: &PodSpec) -> Result<Vec<(String, u64)>> {
    let before = cluster.hosts[0].status()?.writes()?;
    cluster.place_pod(spec)?;
    let host = &cluster.hosts[0];
    wait::until_true("the new pod", Duration::from_secs(10), || {
        host.has_status_file(&spec.status_file())
    })?;
    // Until two answers a while apart agree.
    let mut last = Vec::new();
    let after = wait::until("a quiet agent", Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_millis(300));
        let now = cluster.hosts[0].status()?.writes()?;
        let quiet = now == last;
        last.clone_from(&now);
        Ok(quiet.then_some(now))
    })?;
    let pairs = after.into_iter().zip(before);
    Ok(pairs.map(|((name, after), (_, before))| (name, after.saturating_sub(before))).collect())
}

fn one_endpoint_costs_the_same_among_many(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    let pods = more(&NAMES, &IDS);
    let (first, last) = (pods.first().context("pods")?, pods.last().context("pods")?);
    let with_two = cost(&mut cluster, first)?;
    for spec in &pods[1..pods.len() - 1] {
        cluster.place_pod(spec)?;
    }
    cluster.wait_until_programmed()?;
    let with_twelve = cost(&mut cluster, last)?;
    let total = |cost: &[(String, u64)]| cost.iter().map(|(_, n)| n).sum::<u64>();
    ensure!(total(&with_two) > 0, "the counters do not count: {with_two:?}");
    // The same joins the same class: what is sent may not depend on how many are there.
    ensure!(with_two == with_twelve, "2 endpoints: {with_two:?}, 13 endpoints: {with_twelve:?}");

    // A label that no selector looks for changes nothing in the kernel.
    let host = &cluster.hosts[0];
    let mut witness = Witness::start(host.ns(), cluster.run().dir())?;
    let before = host.status()?.writes()?;
    let (key, value) = first.endpoint().label("colour", "blue").pair();
    let revision = cluster.etcd.put(&key, &value)?;
    cluster.wait_for_revision(host, revision)?;
    ensure!(host.status()?.writes()? == before, "a label without meaning was written");
    let seen = witness.writes()?;
    ensure!(seen.is_empty(), "the kernel saw {seen:#?}");

    // What the kernel hears of one endpoint that goes is about this endpoint alone.
    let revision = cluster.etcd.delete(&key)?;
    cluster.wait_for_revision(host, revision)?;
    let (v4, v6, interface) = (first.v4.to_string(), first.v6.to_string(), first.interface());
    let seen = witness.writes()?;
    ensure!(!seen.is_empty(), "the witness is blind");
    for line in &seen {
        let about = [&v4, &v6, &interface].into_iter().any(|part| line.contains(part.as_str()));
        let other = pods[1..].iter().chain(&PODS).any(|p| line.contains(&p.interface()));
        ensure!(about || !other, "about another endpoint: {line}\n{seen:#?}");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: one_endpoint_costs_the_same_among_many, "sma";
}

/// A rule's packet counter and the rule, of `[3:96] -A …`.
fn counted(line: &str) -> Option<(u64, String)> {
    let (counters, rule) = line.strip_prefix('[')?.split_once("] ")?;
    Some((counters.split(':').next()?.parse().ok()?, rule.to_owned()))
}

/// The same of a rule as nft prints it, with its handle. Elements count too, in no fixed order.
fn counted_by_nft(line: &str) -> Option<(u64, String)> {
    let (before, _) = line.split_once("counter packets ")?;
    let (_, handle) = line.split_once(" # handle ")?;
    Some((own_table::packets(line)?, format!("{} {handle}", before.trim())))
}

fn a_restart_on_an_unchanged_world_writes_nothing(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    // A change that means nothing is a revision that says when all before it is done.
    let mark = |round: &str| [PODS[0].endpoint().label("round", round).pair()];
    cluster.put_and_wait(&mark("1"))?;
    cluster.wait_until_ready()?;
    let before = Snapshot::take(cluster.hosts[0].ns())?;
    cluster.hosts[0].stop_agent()?;
    let dir = cluster.run().dir().to_owned();
    // Packets of BGP and etcd are counted by the jumps to our chains.
    let stopped = Snapshot::take(cluster.hosts[0].ns())?;
    let difference = before.without_counters().difference(&stopped.without_counters());
    ensure!(difference.is_empty(), "stopping changed the kernel: {difference:#?}");
    let mut witness = Witness::start(&cluster.hosts[0].ns().place(), &dir)?;
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    cluster.put_and_wait(&mark("2"))?;
    let seen = witness.writes()?;
    ensure!(seen.is_empty(), "written at a start on an unchanged world: {seen:#?}");
    let writes = cluster.hosts[0].status()?.writes()?;
    ensure!(writes.iter().all(|(_, n)| *n == 0), "{writes:?}");

    // A rule written again would begin to count at zero, and have a new handle.
    let after = Snapshot::take(cluster.hosts[0].ns())?;
    let difference = before.without_counters().difference(&after.without_counters());
    ensure!(difference.is_empty(), "{difference:#?}");
    let (before, after) = (before.to_string(), after.to_string());
    let of = if flavour.is_nftables() { counted_by_nft } else { counted };
    let rules = |text: &str| -> Vec<(u64, String)> { text.lines().filter_map(of).collect() };
    let (before, after) = (rules(&before), rules(&after));
    ensure!(before.len() == after.len() && before.len() > 20, "{} rules", before.len());
    for ((was, rule), (is, same)) in before.iter().zip(&after) {
        ensure!(rule == same, "{rule} became {same}");
        ensure!(is >= was, "{rule} counted {was} before and {is} after");
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: a_restart_on_an_unchanged_world_writes_nothing, "unc";
}
