//! From nothing, and again over what is there: until the agent says that everything is in the kernel.

use std::time::Duration;

use anyhow::Result;
use calico_e2e::host::Flavour;

use crate::Size;
use crate::process::Usage;
use crate::report::{Report, Row, Spread};
use crate::stage::{Endpoint, Stage};

const TITLE: &str = "start: until all of it is in the kernel";

/// Endpoints of a host, and of the others.
struct World {
    local: u32,
    remote: u32,
    /// From nothing: seconds on nftables and on iptables, MiB, processor seconds.
    budget: Option<(f64, f64, f64, f64)>,
}

/// Every dataplane.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    let small = World { local: 500, remote: 5_000, budget: Some((0.3, 0.8, 25.0, 0.4)) };
    let large = World { local: 100, remote: 100_000, budget: None };
    for world in size.of(vec![&small], vec![&small, &large]) {
        for flavour in flavours {
            measure(world, *flavour, size, report)?;
        }
    }
    Ok(())
}

fn measure(world: &World, flavour: Flavour, size: Size, report: &mut Report) -> Result<()> {
    let World { local, remote, budget } = *world;
    let mut stage = Stage::new("benchs", flavour)?;
    let locals = (0..local).map(|n| Endpoint::local(n).pair("0"));
    let all: Vec<_> = locals.chain((0..remote).map(|n| Endpoint::remote(n).pair("0"))).collect();
    stage.cluster.etcd.put_all(&all)?;
    stage.wire(local)?;
    let world = format!("{local} + {remote} endpoints");
    let (mut read, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let begin = std::time::Instant::now();
        let prefix = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
        anyhow::ensure!(stage.cluster.etcd.get_prefix(prefix)?.len() == all.len());
        read.push(begin.elapsed());
    }
    let read = Spread::of(&mut read);
    let cold = stage.start()?;
    let usage = used(&mut stage, "from nothing", &world, flavour, report)?;
    let ours = Spread::one(cold.as_secs_f64() * 1e3);
    let mut row = Row::new("start", format!("from nothing, {world}"), ours).on(flavour.name());
    row = row.beside("reading them from etcd", read);
    if let Some((nftables, iptables, memory, cpu)) = budget {
        let seconds = if flavour.is_nftables() { nftables } else { iptables };
        let kept =
            cold.as_secs_f64() <= seconds && usage.peak <= memory && usage.cpu.as_secs_f64() <= cpu;
        row = row.within(format!("≤ {seconds} s, {memory} MiB, {cpu} CPU s"), kept);
    }
    report.add(TITLE, row);
    for _ in 0..size.of(3, 5) {
        stage.stop()?;
        warm.push(stage.start()?);
    }
    used(&mut stage, "again", &world, flavour, report)?;
    let row = Row::new("start", format!("again, {world}"), Spread::of(&mut warm));
    report.add(TITLE, row.on(flavour.name()).beside("reading them from etcd", read));
    Ok(())
}

/// What the agent has used since it was started.
fn used(
    stage: &mut Stage,
    how: &str,
    world: &str,
    flavour: Flavour,
    report: &mut Report,
) -> Result<Usage> {
    // The last of it is written beside the news that it is ready.
    std::thread::sleep(Duration::from_millis(300));
    let usage = Usage::of(stage.pid()?)?;
    // To the kernel, or to the program that tells it.
    let status = stage.host().status()?;
    let counters = ["iptables_bytes", "ipset_bytes", "nftables_bytes"];
    let sent = counters.into_iter().map(|name| status.counter("felix", name));
    let sent = sent.sum::<Result<u64>>()? as f64 / 1e3;
    for (what, unit, value) in [
        ("processor", "s", usage.cpu.as_secs_f64()),
        ("memory at most", "MiB", usage.peak),
        ("of that its own", "MiB", usage.own),
        ("sent to the kernel", "kB", sent),
    ] {
        let row = Row::new("start", format!("{how}, {world}: {what}"), Spread::one(value));
        report.add(TITLE, row.in_unit(unit).on(flavour.name()));
    }
    Ok(usage)
}
