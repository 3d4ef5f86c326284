//! Many at once: a thousand new remote endpoints, and updates that never end.

use std::time::{Duration, Instant};

use anyhow::Result;
use calico_e2e::host::Flavour;

use crate::Size;
use crate::control::Control;
use crate::process::Usage;
use crate::report::{Report, Row, Spread};
use crate::stage::{Endpoint, Stage};

const TITLE: &str = "many at once";
const BURST: u32 = 1_000;
/// Updates a second, in so many transactions of ten.
const TURNS: u32 = 100;
const EACH: u32 = 10;
const LIMIT: Duration = Duration::from_secs(30);

/// Every dataplane.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    for flavour in flavours {
        let mut stage = Stage::new("benchb", *flavour)?;
        let local = Endpoint::local(0);
        stage.cluster.etcd.put_all(&[local.pair("0")])?;
        stage.wire(1)?;
        stage.start()?;
        let mut control = Control::listen(&stage.cluster.etcd)?;
        burst(&stage, &mut control, flavour.name(), size, report)?;
        churn(&mut stage, &mut control, flavour.name(), size, report)?;
    }
    Ok(())
}

/// A thousand endpoints are written as fast as etcd takes them: until the last one may send.
fn burst(
    stage: &Stage,
    control: &mut Control,
    name: &str,
    size: Size,
    report: &mut Report,
) -> Result<()> {
    let (mut ours, mut watch) = (Vec::new(), Vec::new());
    for _ in 0..size.of(2, 10) {
        let all: Vec<_> = (0..BURST).map(Endpoint::remote).collect();
        let last = Endpoint::remote(BURST - 1);
        let pairs: Vec<_> = all.iter().map(|one| one.pair("0")).collect();
        let knock = stage.knock(last, Endpoint::local(0))?;
        std::thread::sleep(Duration::from_millis(3));
        knock.none_came()?;
        control.forget();
        let begin = Instant::now();
        stage.cluster.etcd.put_all(&pairs)?;
        let passed = knock.first()?;
        watch.push(control.heard(&last.key(), LIMIT)? - begin);
        ours.push(passed - begin);
        drop(knock);
        let keys: Vec<String> = all.iter().map(|one| one.key()).collect();
        for some in keys.chunks(100) {
            stage.cluster.etcd.exchange(some, &[])?;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let row = Row::new("burst", format!("{BURST} remote endpoints"), Spread::of(&mut ours));
    report.add(TITLE, row.on(name).beside("watch", Spread::of(&mut watch)));
    Ok(())
}

/// A thousand updates a second that mean nothing, and now and then a new endpoint between them.
fn churn(
    stage: &mut Stage,
    control: &mut Control,
    name: &str,
    size: Size,
    report: &mut Report,
) -> Result<()> {
    let all: Vec<_> = (0..BURST).map(|n| Endpoint::remote(n).pair("0")).collect();
    stage.cluster.etcd.put_all(&all)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = Usage::of(stage.pid()?)?;
    let (mut ours, mut watch) = (Vec::new(), Vec::new());
    let (begin, seconds) = (Instant::now(), size.of(5, 30));
    for turn in 0..seconds * TURNS {
        let first = turn * EACH % BURST;
        let label = format!("{turn}");
        let some: Vec<_> =
            (first..first + EACH).map(|n| Endpoint::remote(n).pair(&label)).collect();
        if turn % 25 == 24 {
            let one = Endpoint::remote(BURST + turn);
            let knock = stage.knock(one, Endpoint::local(0))?;
            control.forget();
            let written = Instant::now();
            let (key, value) = one.pair("0");
            stage.cluster.etcd.put_all(&[some, vec![(key.clone(), value)]].concat())?;
            ours.push(knock.first()? - written);
            watch.push(control.heard(&key, LIMIT)? - written);
        } else {
            stage.cluster.etcd.put_all(&some)?;
        }
        let due = begin + Duration::from_secs(1) / TURNS * (turn + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let (took, after) = (begin.elapsed(), Usage::of(stage.pid()?)?);
    let rate = f64::from(seconds * TURNS * EACH) / took.as_secs_f64();
    let what = format!("one more of {rate:.0} updates a second");
    let row = Row::new("churn", what, Spread::of(&mut ours)).on(name);
    report.add(TITLE, row.beside("watch", Spread::of(&mut watch)));
    let cpu = (after.cpu - before.cpu).as_secs_f64() / took.as_secs_f64() * 100.0;
    let row = Row::new("churn", "of a processor meanwhile", Spread::one(cpu)).in_unit("%");
    report.add(TITLE, row.on(name));
    Ok(())
}
