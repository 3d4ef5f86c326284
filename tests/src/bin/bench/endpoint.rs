//! How long a new endpoint takes from etcd to its status file, for which the CNI plugin waits, beside
//! what the system's own tools take for the same writes to the kernel, in one run.
//!
//! The interfaces are there before (`wired before`), or made right before the endpoint is written, as
//! the plugin does it (`just wired`): then the agent has the news of both to deal with.
//!
//! The reference writes what the agent writes for an endpoint that joins an
//! existing class (set members, one MAC rule, routes, neighbours, of both families) with `ipset`,
//! `iptables-restore` and `ip`, into a copy of the agent's tables in a namespace of its own. It
//! knows the answer already; the agent also has to hear of it from etcd and to calculate it.

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

use crate::Size;
use crate::report::{Report, Row, Spread};

const TITLE: &str = "one endpoint more: etcd → endpoint-status file, beside the raw tools";

/// Every dataplane that has raw tools.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    for flavour in flavours {
        let tools = match flavour {
            Flavour::Legacy => "legacy",
            Flavour::Nft => "nft",
            // The raw tools are those of iptables and its address sets.
            Flavour::Auto | Flavour::Nftables => continue,
        };
        let Times { mut fresh, mut ours, mut raw } = measure(*flavour, tools, size.of(50, 500))?;
        let raw = Spread::of(&mut raw);
        for (what, times) in [("just wired", &mut fresh), ("wired before", &mut ours)] {
            let row = Row::new("endpoint", what, Spread::of(times)).on(flavour.name());
            report.add(TITLE, row.beside("raw tools", raw));
        }
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
