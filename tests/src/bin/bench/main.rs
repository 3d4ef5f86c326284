//! `calico-bench`: how long a new endpoint takes from etcd to its status file, for which the CNI plugin
//! waits, beside what the system's own tools take for the same writes to the kernel, in one run.
//!
//! The interfaces are there before (`wired before`), or made right before the endpoint is written, as
//! the plugin does it (`just wired`): then the agent has the news of both to deal with.
//!
//! `make bench` runs it. The reference writes what the agent writes for an endpoint that joins an
//! existing class (set members, one MAC rule, routes, neighbours, of both families) with `ipset`,
//! `iptables-restore` and `ip`, into a copy of the agent's tables in a namespace of its own. It
//! knows the answer already; the agent also has to hear of it from etcd and to calculate it.
//! Then the same for whole pods: an ADD of the plugin, step by step.
#![expect(clippy::print_stdout, reason = "it talks to the terminal")]

mod pod;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::etcd::Writer;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::netns::Netns;
use calico_e2e::process::Command;
use calico_e2e::tutorial::{self, PODS, PodSpec};
use calico_e2e::wait;
use clap::Parser;

#[derive(Parser)]
#[command(name = "calico-bench", about = "From etcd to the kernel, beside the raw tools")]
struct Cli {
    /// How many endpoints are added one after the other.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(10..=2000))]
    endpoints: u16,
    /// How many pods are added one after the other; 0: none.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pods: u16,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    println!("one endpoint more, {} times: median and 99th percentile, ms", cli.endpoints);
    println!("etcd → endpoint-status file");
    println!(
        "{:<10}{:>18}{:>18}{:>18}{:>10}",
        "", "just wired", "wired before", "raw tools", "ratio"
    );
    for (flavour, name) in [(Flavour::Legacy, "legacy"), (Flavour::Nft, "nft")] {
        let Times { mut fresh, mut ours, mut raw } = measure(flavour, name, cli.endpoints)?;
        let fresh = percentiles(&mut fresh);
        let (ours, raw) = (percentiles(&mut ours), percentiles(&mut raw));
        println!(
            "{name:<10}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>10.2}",
            fresh.0,
            fresh.1,
            ours.0,
            ours.1,
            raw.0,
            raw.1,
            ours.0 / raw.0
        );
    }
    if cli.pods > 0 {
        pod::measure(cli.pods)?;
    }
    Ok(())
}

/// What one run took.
struct Times {
    /// The agent, with an interface that was just made.
    fresh: Vec<Duration>,
    /// The agent, with an interface that it knew.
    ours: Vec<Duration>,
    /// The raw tools.
    raw: Vec<Duration>,
}

fn measure(flavour: Flavour, name: &str, count: u16) -> Result<Times> {
    let mut cluster = Cluster::new("bench")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let host = &mut cluster.hosts[0];
    host.flavour = flavour;
    host.start_agent()?;
    let specs: Vec<PodSpec> = (0..count).map(spec).collect();
    wire(host.ns(), &specs)?;
    let host = &cluster.hosts[0];
    let mut etcd = cluster.etcd.writer()?;
    let (mut fresh, mut ours) = (Vec::new(), Vec::new());
    for spec in &specs {
        ours.push(arrival(host, spec, &mut etcd)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    // Again, one after the other, each on an interface that was not there a moment ago.
    for spec in &specs {
        cluster.etcd.delete(&spec.endpoint().key())?;
        let file = spec.status_file();
        wait::until_true("the end of it", Duration::from_secs(10), || {
            !host.has_status_file(&file)
        })?;
        host.ns().ip(&format!("link del {}\n", spec.interface()))?;
        std::thread::sleep(Duration::from_millis(20));
        wire(host.ns(), std::slice::from_ref(spec))?;
        fresh.push(arrival(host, spec, &mut etcd)?);
    }
    // Half of the endpoints are in the copy, so that both sides meet tables of a like size.
    wait::until_true("the agent", Duration::from_secs(10), || host.status().is_ok())?;
    let raw = reference(&cluster, name, &specs)?;
    Ok(Times { fresh, ours, raw })
}

/// Writes an endpoint; how long it took until its file was there.
fn arrival(host: &Host, spec: &PodSpec, etcd: &mut Writer) -> Result<Duration> {
    let (key, value) = spec.endpoint().pair();
    let begin = Instant::now();
    etcd.put(&key, &value)?;
    let end = begin + Duration::from_secs(10);
    while !host.has_status_file(&spec.status_file()) {
        ensure!(Instant::now() < end, "{} is not programmed", spec.container_id);
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(begin.elapsed())
}

fn spec(n: u16) -> PodSpec {
    let [high, low] = n.to_be_bytes();
    let id: &'static str = format!("b{n:06x}0-0000-4000-8000-000000000000").leak();
    let mac: &'static str = format!("ca:fe:00:00:{high:02x}:{low:02x}").leak();
    PodSpec {
        name: id,
        container_id: id,
        mac,
        v4: Ipv4Addr::new(192, 168, 100 + high, low),
        v6: Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 1, n),
        ..PODS[0]
    }
}

/// The host sides of the pods. The other ends stay in the same namespace: nothing is sent.
fn wire(ns: &Netns, specs: &[PodSpec]) -> Result<()> {
    let lines = specs.iter().map(|spec| {
        let interface = spec.interface();
        let peer = interface.replace("cali", "peer");
        format!(
            "link add {interface} type veth peer name {peer}\n\
             link set {interface} up\nlink set {peer} up\n"
        )
    });
    ns.ip(&lines.collect::<String>())
}

fn reference(cluster: &Cluster, flavour: &str, specs: &[PodSpec]) -> Result<Vec<Duration>> {
    let host = cluster.hosts[0].ns();
    let copy = Netns::new(cluster.run(), "copy")?;
    wire(&copy, specs)?;
    let sets = host.command("ipset").arg("save").run()?;
    copy.command("ipset").arg("restore").input(&sets).run()?;
    let tools = [format!("iptables-{flavour}"), format!("ip6tables-{flavour}")];
    for tool in &tools {
        let rules = host.command(format!("{tool}-save")).run()?;
        copy.command(format!("{tool}-restore")).input(&rules).run()?;
    }
    let class = |family: &str| -> Result<String> {
        let prefix = format!("create cali{family}0c:");
        let line = sets.lines().find(|line| line.starts_with(&prefix));
        let name = line.and_then(|line| line.split(' ').nth(1)).context("no class set")?;
        Ok(name.to_owned())
    };
    let (class4, class6) = (class("4")?, class("6")?);
    let timed = |command: Command| -> Result<Duration> {
        let begin = Instant::now();
        command.run()?;
        Ok(begin.elapsed())
    };
    let mut times = Vec::new();
    for spec in specs {
        let (v4, v6, interface) = (spec.v4, spec.v6, spec.interface());
        let members = format!(
            "del {class4} {v4},{interface}\nadd {class4} {v4},{interface}\n\
             del {class6} {v6},{interface}\nadd {class6} {v6},{interface}\n"
        );
        let rule = format!(
            "*raw\n-A cali-mac -i {interface} -m mac ! --mac-source {} -j DROP\nCOMMIT\n",
            spec.mac
        );
        let routes = format!(
            "route add {v4}/32 dev {interface} scope link\nroute add {v6}/128 dev {interface}\n\
             neigh replace {v4} lladdr {mac} dev {interface} nud permanent\n\
             neigh replace {v6} lladdr {mac} dev {interface} nud permanent\n",
            mac = spec.mac
        );
        let mut sum = timed(copy.command("ipset").args(["restore", "-exist"]).input(&members))?;
        for tool in &tools {
            let restore = copy.command(format!("{tool}-restore")).arg("--noflush");
            sum += timed(restore.input(&rule))?;
        }
        sum += timed(copy.command("ip").args(["-batch", "-"]).input(&routes))?;
        times.push(sum);
    }
    Ok(times)
}

/// Median and 99th percentile in milliseconds.
fn percentiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| {
        times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    (at(50), at(99))
}
