//! A host on which the original Felix worked until a moment ago: our agent takes over under traffic; and
//! the way back (`back`).
//! Nothing that is allowed by both is lost, nothing that is denied by both passes, and afterwards
//! the host is as one on which no Felix ever was, but for what is not ours.
//!
//! What each Felix left is data beside this file: sets, then tables, in the tools' own form.

mod back;
mod flows;
mod old;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::flow;
use calico_e2e::foreign;
use calico_e2e::host::Flavour;
use calico_e2e::kernel::Snapshot;
use calico_e2e::netns::Place;
use calico_e2e::tutorial::{self, HOSTS, PODS};
use calico_e2e::world::{FelixConfiguration, Resource};
use calico_e2e::{own_table, run, wait};

use old::Generation;

/// How long flows run before something happens, and after.
const WARM: Duration = Duration::from_millis(500);

/// Our lines and those of a Felix, in a form that two snapshots can be compared in: nft's handles,
/// counters, and the seeds and order of hashes are the kernel's affair. A neighbour that was right is
/// taken as it is, without our mark, and so is a blackhole: whoever drops these packets, they are
/// dropped. A route of the other BIRD stays beside that of ours: who wrote it nobody can tell; `reset`
/// takes both.
fn normal(ns: &Place) -> Result<Vec<String>> {
    let text = Snapshot::take(ns)?.without_counters().to_string();
    // nft lists what iptables shows, too, with handles; of our own table its lines are added below.
    let of_nft = text.find("## nft\n").context("no part of nft")?;
    let (before, rest) = text.split_at(of_nft);
    let after = rest.find("\n## ").map_or("", |end| &rest[end..]);
    let mut lines: Vec<String> = before
        .lines()
        .chain(after.lines())
        .filter(|line| {
            let bird = line.contains("proto bird") && !line.starts_with("blackhole ");
            !bird || line.contains("metric 32")
        })
        .map(|line| line.split(" PERMANENT").next().unwrap_or(line))
        .map(|line| line.split(" initval ").next().unwrap_or(line))
        .map(|line| match line.starts_with("blackhole ") {
            true => line.replace("proto bird", "proto 80"),
            false => line.to_owned(),
        })
        .collect();
    lines.extend(own_table::lines(ns)?);
    lines.sort();
    Ok(lines)
}

fn takes_over(label: &str, generation: &Generation, was: &str, now: Flavour) -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::base())?;
    // calico/node said it of every host that it registered.
    for host in HOSTS {
        let spec = FelixConfiguration {
            endpoint_to_host: Some("Return".to_owned()),
            ..FelixConfiguration::default()
        };
        let (key, value) = Resource::new(format!("node.{}", host.name), spec).pair();
        cluster.etcd.put(&key, &value)?;
    }
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    if generation.policy {
        cluster.etcd.put_all(&tutorial::policies())?;
    }
    let host = cluster.hosts[0].ns().place();
    foreign::make(&host, was)?;
    for pod in PODS.iter().filter(|pod| pod.host == "calico-01") {
        cluster.pod(pod.name)?.add_cni_routes(&cluster.hosts[0])?;
    }
    old::load(&host, generation, was)?;
    let others = foreign::snapshot(&host)?;
    ensure!(others.to_string().contains("FOREIGN"), "{others}");
    // The other host is ours already; it learns the way to this one's pods from BIRD only later.
    let other = cluster.hosts[1].ns();
    other.ip(&format!(
        "route add 192.168.0.0/26 via {} proto static metric 5\n\
         route add fd80:24e2:f998:72d6::/122 via {} proto static metric 5\n",
        cluster.hosts[0].spec.v4, cluster.hosts[0].spec.v6
    ))?;
    cluster.hosts[1].flavour = now;
    cluster.hosts[1].start_agent()?;
    cluster.hosts[1].start_bird(CONVERGENCE)?;
    let second = &cluster.hosts[1];
    wait::until("the other host", CONVERGENCE, || Ok(second.status()?.is_ready().then_some(())))?;

    let names: Vec<String> = cluster.sites().into_iter().map(|site| site.name).collect();
    names.iter().for_each(|name| cluster.stop_server(name));
    // A program that another test starts just now may still hold the sockets that were closed.
    let flows = wait::until("free ports", Duration::from_secs(5), || {
        flow::Flows::start(&flows::all(generation.policy), &cluster.sites()).map(Some)
    })?;
    std::thread::sleep(WARM);
    cluster.hosts[0].flavour = now;
    cluster.hosts[0].start_agent()?;
    cluster.hosts[0].start_bird(CONVERGENCE)?;
    cluster.wait_until_ready()?;
    let left = || old::left(&host, generation);
    // The sets that the old rules used go a moment after them.
    wait::until_true("tables and sets without leftovers", CONVERGENCE, || {
        left().is_ok_and(|left| left.iter().all(|line| line.starts_with("route: ")))
    })
    .with_context(|| format!("{:#?}\n{}", left(), cluster.logs()))?;
    std::thread::sleep(WARM);
    let tallies = flows.finish()?;
    let wrong: Vec<String> =
        tallies.iter().filter(|tally| tally.wrong() > 0).map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), cluster.logs());
    ensure!(tallies.iter().all(|tally| tally.sent >= 10), "hardly anything was sent");
    names.iter().try_for_each(|name| cluster.start_server(name))?;
    cluster.check(generation.policy)?;

    // Routes that BIRD may be about to bring have a grace of ten seconds.
    wait::until_true("routes without leftovers", Duration::from_secs(20), || {
        left().is_ok_and(|left| left.is_empty())
    })
    .with_context(|| format!("{:#?}", left()))?;
    let after = foreign::snapshot(&host)?;
    ensure!(after == others, "foreign things were touched: {:#?}", others.difference(&after));
    let sysctls = |key: &str| host.read_sysctl(&format!("ipv4/conf/{}/{key}", PODS[0].interface()));
    ensure!(sysctls("proxy_arp")? == "1" && sysctls("route_localnet")? == "1");

    // As a fresh agent makes it: everything away, and made anew.
    let taken = normal(&host)?;
    cluster.hosts[0].stop_bird()?;
    cluster.hosts[0].stop_agent()?;
    let answer = cluster.hosts[0].reset(&[])?;
    ensure!(answer.status.success(), "{answer:?}");
    ensure!(old::anything(&host)?.is_empty(), "{:#?}", old::anything(&host)?);
    cluster.hosts[0].start_agent()?;
    cluster.hosts[0].start_bird(CONVERGENCE)?;
    cluster.wait_until_ready()?;
    let fresh = wait::until("the same as fresh", Duration::from_secs(5), || {
        let fresh = normal(&host)?;
        Ok((fresh == taken).then_some(()))
    });
    if fresh.is_err() {
        let fresh = normal(&host)?;
        let only = |a: &[String], b: &[String], sign: char| -> Vec<String> {
            a.iter().filter(|l| !b.contains(l)).map(|l| format!("{sign} {l}")).collect()
        };
        let mut all = only(&taken, &fresh, '-');
        all.extend(only(&fresh, &taken, '+'));
        anyhow::bail!("not as a fresh agent makes it:\n{}", all.join("\n"));
    }
    let after = foreign::snapshot(&host)?;
    ensure!(after == others, "reset touched: {:#?}", others.difference(&after));
    cluster.check(generation.policy)
}

#[test]
fn felix_1_4_on_legacy_iptables() -> Result<()> {
    takes_over("to14l", &old::FELIX_1_4, "legacy", Flavour::Legacy)
}

#[test]
fn felix_2_6_on_legacy_iptables_and_we_on_nft() -> Result<()> {
    takes_over("to26x", &old::FELIX_2_6, "legacy", Flavour::Nft)
}

#[test]
fn felix_2_6_on_legacy_iptables() -> Result<()> {
    takes_over("to26l", &old::FELIX_2_6, "legacy", Flavour::Legacy)
}

#[test]
fn felix_3_on_legacy_iptables() -> Result<()> {
    takes_over("to3l", &old::FELIX_3, "legacy", Flavour::Legacy)
}

#[test]
fn felix_3_on_nft() -> Result<()> {
    takes_over("to3n", &old::FELIX_3, "nft", Flavour::Nft)
}

#[test]
fn felix_3_on_nft_and_we_on_legacy() -> Result<()> {
    takes_over("to3x", &old::FELIX_3, "nft", Flavour::Legacy)
}

#[test]
fn felix_2_6_on_legacy_iptables_and_we_on_nftables() -> Result<()> {
    takes_over("to26o", &old::FELIX_2_6, "legacy", Flavour::Nftables)
}

#[test]
fn felix_3_on_nft_and_we_on_nftables() -> Result<()> {
    takes_over("to3o", &old::FELIX_3, "nft", Flavour::Nftables)
}
