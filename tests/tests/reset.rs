//! `calico-agent reset`: the host is as it was before the agent came, and what is not ours is
//! untouched, counters included.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::foreign::{self, PORT};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::kernel::Snapshot;
use calico_e2e::probe::shout;
use calico_e2e::process::Output;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{own_table, wait};

/// `cli::exit` of the agent.
const RUNNING: i32 = 5;

/// The kernel without what belongs to nobody: the empty frames of tables, their own counters, and the
/// kernel's order of hashes.
fn kernel(host: &Host) -> Result<Snapshot> {
    let frames = ["*", ":PREROUTING", ":INPUT", ":FORWARD", ":OUTPUT", ":POSTROUTING", "COMMIT"];
    let frames_of_nft = ["table ip ", "table ip6 ", "chain ", "type ", "}"];
    Ok(Snapshot::take(host.ns())?.filter(|line| {
        let frame = frames.iter().any(|frame| line.starts_with(frame));
        let line = line.trim();
        !frame && !line.is_empty() && !frames_of_nft.iter().any(|frame| line.starts_with(frame))
    }))
}

/// Files below, whatever they hold.
fn files(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.insert(path.display().to_string());
        }
    }
    Ok(())
}

/// What the lines of an answer name.
fn named<'a>(output: &'a Output, verb: &str) -> Vec<&'a str> {
    output.stdout.lines().filter_map(|line| line.strip_prefix(verb)).collect()
}

fn the_host_is_as_it_was(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    for pod in PODS.iter() {
        cluster.wire_pod(pod)?;
    }
    let first = &cluster.hosts[0];
    for pod in PODS.iter().filter(|pod| pod.host == first.spec.name) {
        cluster.pod(pod.name)?.add_cni_routes(first)?;
    }
    let (v4, v6) = (first.spec.v4, first.spec.v6);
    // It stays as the agent sets it, and the kernel has routes of its own because of it.
    first.ns().sysctl("ipv6/conf/all/forwarding", "1")?;
    foreign::make(first.ns(), flavour.iptables())?;
    first.ns().ip("route add 10.77.2.0/24 via 172.18.18.1 proto bird\n")?;
    let sink = Server::start(first.ns().name(), &[v4.into(), v6.into()], &[], &[PORT])?;
    let outside = cluster.outside().name();
    shout(outside, (OUTSIDE_V4, 0).into(), (v4, PORT).into(), "count")?;
    shout(outside, (OUTSIDE_V6, 0).into(), SocketAddr::from((v6, PORT)), "count")?;
    wait::until_true("foreign traffic", Duration::from_secs(2), || {
        sink.arrivals(b"count").len() == 6
    })?;
    drop(sink);
    let before = kernel(first)?;
    ensure!(before.to_string().matches("[3:").count() >= 8, "counters that count: {before}");
    let nothing = first.reset(&[])?;
    ensure!(nothing.stdout.starts_with("nothing to remove\n"), "{nothing:?}");
    ensure!(kernel(first)? == before, "an empty host was touched");
    let groups = own_table::groups(first.ns())?;

    cluster.etcd.put_all(&tutorial::base())?;
    cluster.etcd.put_all(&tutorial::workloads())?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_programmed()?;
    cluster.check(true)?;
    let first = &cluster.hosts[0];
    wait::until_true("a stored policy", Duration::from_secs(10), || {
        first.stored_policy().exists()
    })?;

    // Beside an agent it does nothing and says whose pid.
    // (Our own rules count what pods send by themselves: router solicitations.)
    let working = kernel(first)?.without_counters();
    ensure!(working != before.without_counters(), "nothing was programmed");
    let refused = first.reset(&[])?;
    ensure!(refused.status.code() == Some(RUNNING) && refused.stdout.is_empty(), "{refused:?}");
    let pid = cluster.hosts[0].agent()?.pid();
    ensure!(refused.stderr.contains(&format!("(pid {pid})")), "{}", refused.stderr);
    let now = kernel(&cluster.hosts[0])?.without_counters();
    ensure!(now == working, "reset touched what an agent has: {:#?}", working.difference(&now));

    // BIRD alone would write its routes again.
    cluster.wait_for_routes()?;
    cluster.hosts[0].stop_agent()?;
    let alone = kernel(&cluster.hosts[0])?.without_counters();
    let refused = cluster.hosts[0].reset(&[])?;
    ensure!(refused.status.code() == Some(RUNNING), "{refused:?}");
    ensure!(refused.stderr.contains("systemctl stop calico-bird"), "{}", refused.stderr);
    let now = kernel(&cluster.hosts[0])?.without_counters();
    ensure!(now == alone, "reset touched what BIRD has: {:#?}", alone.difference(&now));

    // etcd is needed for nothing.
    cluster.hosts[0].stop_bird()?;
    cluster.etcd.stop()?;
    let host = &cluster.hosts[0];
    let left = kernel(host)?.without_counters();
    let mut there = BTreeSet::new();
    files(&host.run_dir(), &mut there)?;
    files(&host.state_dir(), &mut there)?;
    let dry = host.reset(&["--dry-run"])?;
    let mut still = BTreeSet::new();
    files(&host.run_dir(), &mut still)?;
    files(&host.state_dir(), &mut still)?;
    ensure!(dry.status.success(), "{dry:?}");
    let looked = kernel(host)?.without_counters();
    ensure!(looked == left && still == there, "it wrote: {:#?}", left.difference(&looked));
    let planned = named(&dry, "would remove ");
    // A table of our own is one thing, and each pod's interface is in a group.
    if flavour.is_nftables() {
        ensure!(planned.contains(&"nftables table inet calico"), "{}", dry.stdout);
        let groups = planned.iter().filter(|line| line.starts_with("group 0x4a11")).count();
        ensure!(groups == 2 && planned.len() > 10, "{}", dry.stdout);
    } else {
        ensure!(planned.len() > 50, "{}", dry.stdout);
    }

    // A configuration of another version, or with a mistake, does not keep what is ours here.
    let configuration = host.config_dir().join("agent.toml");
    std::fs::write(&configuration, "[felix]\nno_such_key = 1\n")?;
    let done = host.reset(&[])?;
    std::fs::remove_file(&configuration)?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(done.stderr.contains(":2:1: unknown key `no_such_key`"), "{}", done.stderr);
    ensure!(named(&done, "removed ") == planned, "planned:\n{}\n{}", dry.stdout, done.stdout);
    ensure!(done.stdout.contains("etcd"), "it must say what stays: {}", done.stdout);
    let after = kernel(host)?;
    ensure!(after == before, "{:#?}", before.difference(&after));
    ensure!(own_table::groups(host.ns())? == groups, "{:?}", own_table::groups(host.ns())?);
    let mut kept = BTreeSet::new();
    files(&host.run_dir(), &mut kept)?;
    files(&host.state_dir(), &mut kept)?;
    let gone: Vec<String> = there.difference(&kept).map(|path| format!("file {path}")).collect();
    let said: Vec<&str> = planned.into_iter().filter(|line| line.starts_with("file ")).collect();
    ensure!(gone == said, "gone: {gone:?}\nsaid: {said:?}");
    let kept: BTreeSet<_> = kept.iter().filter_map(|path| Path::new(path).file_name()).collect();
    ensure!(kept == ["agent.lock", "nodename", "programs.lock"].map(OsStr::new).into(), "{kept:?}");

    let again = host.reset(&[])?;
    ensure!(again.status.success() && again.stdout.starts_with("nothing to remove\n"), "{again:?}");
    ensure!(kernel(host)? == before, "the second reset touched something");

    // The way back.
    cluster.etcd.start()?;
    cluster.hosts[0].start_agent()?;
    cluster.hosts[0].start_bird(calico_e2e::cluster::CONVERGENCE)?;
    cluster.wait_until_ready()?;
    cluster.wait_for_routes()?;
    cluster.check(true).context("after the reset")
}

calico_e2e::on_each_dataplane! {
    smoke: the_host_is_as_it_was, "rst";
}
