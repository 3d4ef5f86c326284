//! `calico-bench`: how long a new endpoint takes from etcd to the kernel, beside what the system's own
//! tools take for the same writes, in one run.
//!
//! `make bench` runs it. The reference writes what the agent writes for an endpoint that joins an
//! existing class (set members, one MAC rule, routes, neighbours, of both families) with `ipset`,
//! `iptables-restore` and `ip`, into a copy of the agent's tables in a namespace of its own. It
//! knows the answer already; the agent also has to hear of it from etcd and to calculate it.
#![expect(clippy::print_stdout, reason = "it talks to the terminal")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
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
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    println!("one endpoint more, {} times: median and 99th percentile, ms", cli.endpoints);
    println!("{:<10}{:>18}{:>18}{:>10}", "", "etcd → kernel", "raw tools", "ratio");
    for (flavour, name) in [(Flavour::Legacy, "legacy"), (Flavour::Nft, "nft")] {
        let (mut ours, mut raw) = measure(flavour, name, cli.endpoints)?;
        let (ours, raw) = (percentiles(&mut ours), percentiles(&mut raw));
        println!(
            "{name:<10}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>10.2}",
            ours.0,
            ours.1,
            raw.0,
            raw.1,
            ours.0 / raw.0
        );
    }
    Ok(())
}

/// Times of the agent and of the raw tools.
fn measure(flavour: Flavour, name: &str, count: u16) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let mut cluster = Cluster::new("bench")?;
    cluster.etcd.put_all(&tutorial::base())?;
    let host = &mut cluster.hosts[0];
    host.flavour = flavour;
    host.start_agent()?;
    let specs: Vec<PodSpec> = (0..count).map(spec).collect();
    wire(host.ns(), &specs)?;
    let host = &cluster.hosts[0];
    let mut etcd = cluster.etcd.writer()?;
    let mut ours = Vec::new();
    for spec in &specs {
        let (key, value) = spec.endpoint().pair();
        let begin = Instant::now();
        etcd.put(&key, &value)?;
        let end = begin + Duration::from_secs(10);
        while !host.has_status_file(&spec.status_file()) {
            ensure!(Instant::now() < end, "{} is not programmed", spec.container_id);
            std::thread::sleep(Duration::from_micros(50));
        }
        ours.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Half of the endpoints are in the copy, so that both sides meet tables of a like size.
    wait::until_true("the agent", Duration::from_secs(10), || host.status().is_ok())?;
    let raw = reference(&cluster, name, &specs)?;
    Ok((ours, raw))
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
    let lines = specs.iter().enumerate().map(|(n, spec)| {
        let interface = spec.interface();
        format!(
            "link add {interface} type veth peer name peer{n}\n\
             link set {interface} up\nlink set peer{n} up\n"
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
