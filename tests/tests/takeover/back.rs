//! The way back, as docs/migrate.md tells it: our agent and BIRD end under traffic, what they programmed stays in
//! force, and what stands in for calico/node takes over: its rules, put in as Felix does it, and its BIRD.
//! Then what the page says is removed. No packet is wrong from the first step to the last.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::document;
use calico_e2e::flow::Flows;
use calico_e2e::foreign;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::netns::Place;
use calico_e2e::process::Process;
use calico_e2e::tutorial::{self, HOSTS, PODS};
use calico_e2e::world::{FelixConfiguration, Resource};
use calico_e2e::{run, wait};

use crate::flows;
use crate::old::{self, Generation};

const PAGE: &str = "docs/migrate.md";
/// How long packets flow before and after each step.
const WARM: Duration = Duration::from_millis(500);

/// BIRD of calico/node in the place of ours: the same sessions, and routes in the kernel with the metric
/// that BIRD 1.6 gives them.
fn start_old_bird(host: &Host) -> Result<Process> {
    let config = std::fs::read_to_string(host.state_dir().join("bird/bird.cfg"))?;
    let mut text = String::new();
    for line in config.lines() {
        text += line;
        text.push('\n');
        if line.starts_with("protocol kernel ") {
            text += "  metric 0;\n";
        }
    }
    let path = host.dir().join("old-bird.cfg");
    std::fs::write(&path, text)?;
    let command = host.ns().command("bird").args(["-f", "-R", "-c"]).arg(path);
    command.arg("-s").arg(host.bird_socket()).start(&host.dir().join("old-bird.log"))
}

/// The routes that a host has from BIRD, with a metric or without.
fn learned(ns: &Place, metric: bool) -> Result<usize> {
    let mut count = 0;
    for family in ["-4", "-6"] {
        let routes = ns.command("ip").args([family, "route", "show", "proto", "bird"]).run()?;
        count += routes.lines().filter(|line| line.contains("metric 32") == metric).count();
    }
    Ok(count)
}

/// A command of the page, on a host that has no systemd.
fn does(host: &Host, command: &str) -> Result<()> {
    let socket = host.bird_socket();
    let command = command.replace("/run/calico/bird.ctl", &socket.to_string_lossy());
    host.ns().command("sh").args(["-ec", &command]).run().map(drop)
}

/// How our BIRD ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As the page says.
    Page,
    /// As `systemctl stop` does it.
    Stop,
}

fn goes_back(
    label: &str,
    generation: &Generation,
    was: Flavour,
    then: &str,
    end: End,
) -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::on(label, was)?;
    cluster.etcd.put_all(&tutorial::base())?;
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
    let ns = cluster.hosts[0].ns().place();
    foreign::make(&ns, then)?;
    let others = foreign::snapshot(&ns)?;
    cluster.start_agents(was)?;
    cluster.wait_until_ready()?;
    cluster.check(generation.policy)?;

    let names: Vec<String> = cluster.sites().into_iter().map(|site| site.name).collect();
    names.iter().for_each(|name| cluster.stop_server(name));
    let running = wait::until("free ports", Duration::from_secs(5), || {
        Flows::start(&flows::all(generation.policy), &cluster.sites()).map(Some)
    })?;
    std::thread::sleep(WARM);

    // Ours end. Nobody programs anything for a while.
    let away = document::block(PAGE, "sh", "graceful restart")?.commands();
    let bird = away.first().and_then(|line| line.split(" && ").next()).context("no command")?;
    ensure!(bird.starts_with("birdc "), "{bird}");
    if end == End::Page {
        does(&cluster.hosts[0], bird)?;
        wait::until_true("end of BIRD", CONVERGENCE, || !cluster.hosts[0].bird_socket().exists())?;
    }
    cluster.hosts[0].stop_bird()?;
    cluster.hosts[0].stop_agent()?;
    std::thread::sleep(2 * WARM);

    // The other one begins.
    old::start(&ns, generation, then)?;
    std::thread::sleep(WARM);
    let old_bird = start_old_bird(&cluster.hosts[0])?;
    wait::until_true("routes of the other BIRD", CONVERGENCE, || {
        learned(&ns, false).is_ok_and(|count| count == 2)
    })
    .with_context(|| old_bird.log())?;
    std::thread::sleep(WARM);

    // What the page says is left of ours.
    let tidies = document::block(PAGE, "sh", "ip route flush proto 80")?.commands();
    for command in &tidies {
        let table = command.starts_with("nft ");
        if !table || was == Flavour::Nftables {
            does(&cluster.hosts[0], command)?;
        }
    }
    std::thread::sleep(2 * WARM);
    let tallies = running.finish()?;
    let wrong: Vec<String> =
        tallies.iter().filter(|tally| tally.wrong() > 0).map(ToString::to_string).collect();
    if end == End::Stop {
        ensure!(!wrong.is_empty(), "no packet is wrong, however BIRD ends");
        return Ok(());
    }
    ensure!(wrong.is_empty(), "{}\n{}\n{}", wrong.join("\n"), cluster.logs(), old_bird.log());
    ensure!(tallies.iter().all(|tally| tally.sent >= 10), "hardly anything was sent");

    // All of it is the other's.
    ensure!(learned(&ns, true)? == 0, "routes of our BIRD are left");
    let left: BTreeSet<String> = old::anything(&ns)?.into_iter().collect();
    let strange: Vec<&String> = left.iter().filter(|line| !old::is_of(generation, line)).collect();
    ensure!(strange.is_empty(), "left of ours: {strange:#?}");
    ensure!(
        left.iter().any(|line| line.contains("cali:oLd_")),
        "nothing is the other's: {left:#?}"
    );
    let after = foreign::snapshot(&ns)?;
    ensure!(after == others, "foreign things were touched: {:#?}", others.difference(&after));
    drop(old_bird);
    Ok(())
}

#[test]
fn back_to_felix_2_6_on_legacy_iptables() -> Result<()> {
    goes_back("ba26l", &old::FELIX_2_6, Flavour::Legacy, "legacy", End::Page)
}

#[test]
fn back_to_felix_3_on_nft() -> Result<()> {
    goes_back("ba3n", &old::FELIX_3, Flavour::Nft, "nft", End::Page)
}

#[test]
fn back_to_felix_3_on_nft_from_nftables() -> Result<()> {
    goes_back("ba3o", &old::FELIX_3, Flavour::Nftables, "nft", End::Page)
}

#[test]
fn a_bird_that_takes_leave_takes_the_way_to_its_pods_away() -> Result<()> {
    goes_back("ba3s", &old::FELIX_3, Flavour::Nftables, "nft", End::Stop)
}
