//! With nothing to do: processor, wake-ups and processes started.

use std::time::Duration;

use anyhow::Result;
use calico_e2e::host::Flavour;

use crate::Size;
use crate::process::Usage;
use crate::report::{Report, Row, Spread};
use crate::stage::{Endpoint, Stage};

const TITLE: &str = "with nothing to do, 500 local and 5000 remote endpoints";

/// Every dataplane, all of them in the same minute: hosts with nothing to do are not in each other's way.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    let mut stages = Vec::new();
    for flavour in flavours {
        let mut stage = Stage::new("benchi", *flavour)?;
        let locals = (0..500).map(|n| Endpoint::local(n).pair("0"));
        let all: Vec<_> = locals.chain((0..5000).map(|n| Endpoint::remote(n).pair("0"))).collect();
        stage.cluster.etcd.put_all(&all)?;
        stage.wire(500)?;
        stage.start()?;
        stages.push((*flavour, stage));
    }
    // What follows a start (looks after the first writes, reports) is over.
    std::thread::sleep(Duration::from_secs(size.of(5, 15)));
    let mut used = || stages.iter_mut().map(|(_, stage)| Usage::of(stage.pid()?)).collect();
    let seconds = size.of(12, 60);
    let (before, forks): (Result<Vec<_>>, _) = (used(), forks()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, forked): (Result<Vec<_>>, _) = (used(), self::forks()? - forks);
    for ((flavour, _), (before, after)) in stages.iter().zip(before?.iter().zip(after?)) {
        let cpu = (after.cpu - before.cpu).as_secs_f64() / seconds as f64 * 100.0;
        let wakeups = (after.wakeups - before.wakeups) as f64 / seconds as f64;
        let on = |row: Row| row.on(flavour.name());
        let row = Row::new("idle", "of a processor", Spread::one(cpu)).in_unit("%");
        report.add(TITLE, on(row.within("≤ 0.1 %", cpu <= 0.1)));
        let row = Row::new("idle", "woken", Spread::one(wakeups)).in_unit("a second");
        report.add(TITLE, on(row));
    }
    // Threads count, and those of others too: it can only be too many.
    let what = "processes and threads begun on this machine meanwhile";
    report.add(TITLE, Row::new("idle", what, Spread::one(forked as f64)).in_unit("in all"));
    Ok(())
}

/// How many processes and threads this machine has begun (`/proc/stat`).
fn forks() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("processes "));
    Ok(line.unwrap_or_default().trim().parse()?)
}
