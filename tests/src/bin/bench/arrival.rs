//! One endpoint more: from its write to the first packet that passes, beside a watch of etcd that does
//! nothing with the news. Nothing else happens at the time.
//!
//! A remote endpoint becomes a member of a set that a local one's policy names; a local one gets its
//! policy and its route. Both need a packet of the other kind to be seen.

use std::time::{Duration, Instant};

use anyhow::Result;
use calico_e2e::etcd::Writer;
use calico_e2e::host::Flavour;

use crate::Size;
use crate::control::Control;
use crate::report::{Report, Row, Spread};
use crate::stage::{Endpoint, Stage};

const TITLE: &str = "one endpoint more: written → first packet, beside a watch of etcd";
/// What packets need that is not ours: the next one is sent that much later at most.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two samples, so that each finds an agent with nothing to do: on iptables-nft the kernel takes
/// some 35 ms to delete the rule of the one before.
const PAUSE: Duration = Duration::from_millis(50);
/// The quick form takes fewer samples where they take long, but so many at least.
const QUICK: Duration = Duration::from_secs(2);
const LEAST: usize = 25;
/// Far behind every endpoint that stays.
const REMOTE: u32 = 90_000;

/// Every dataplane at every size.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    let sizes = size.of(vec![10, 500], vec![10, 500, 2000]);
    let samples = size.of(150, 500);
    for flavour in flavours {
        let mut stage = Stage::new("bencha", *flavour)?;
        // The one that packets go to, and the one that they come from.
        let (local, remote) = (Endpoint::local(0), Endpoint::remote(0));
        stage.cluster.etcd.put_all(&[local.pair("0"), remote.pair("0")])?;
        stage.wire(1)?;
        stage.start()?;
        let mut etcd = stage.cluster.etcd.writer()?;
        let mut control = Control::listen(&stage.cluster.etcd)?;
        for &locals in &sizes {
            let all: Vec<_> = (1..locals).map(|n| Endpoint::local(n).pair("0")).collect();
            stage.wire(locals + samples)?;
            stage.cluster.etcd.put_all(&all)?;
            stage.settle(locals)?;
            control.forget();
            let mut take = |whose: fn(u32) -> Endpoint, first: u32| -> Result<[Spread; 2]> {
                let (mut ours, mut watch) = (Vec::new(), Vec::new());
                let begin = Instant::now();
                for number in first..first + samples {
                    if !size.full && ours.len() >= LEAST && begin.elapsed() > QUICK {
                        break;
                    }
                    let one = whose(number);
                    let (from, to) = if first == REMOTE { (one, local) } else { (remote, one) };
                    let (passed, heard) = sample(&stage, &mut etcd, &mut control, one, (from, to))?;
                    ours.push(passed);
                    watch.push(heard);
                    stage.cluster.etcd.delete(&one.key())?;
                    // What goes takes longer than what comes, and is not what is measured.
                    stage.gone(one)?;
                    std::thread::sleep(PAUSE);
                }
                Ok([Spread::of(&mut ours), Spread::of(&mut watch)])
            };
            for (what, whose, first, more) in [
                ("remote", Endpoint::remote as fn(u32) -> Endpoint, REMOTE, 1.0),
                ("local", Endpoint::local, locals, 2.0),
            ] {
                let [ours, watch] = take(whose, first)?;
                let row = Row::new("arrival", format!("{what}, {locals} local endpoints"), ours);
                let (p50, p99) = (watch.p50 + more, watch.p99 * 3.0 + more);
                let kept = ours.p50 <= p50 && ours.p99 <= p99;
                let says = format!("p50 ≤ watch + {more} ms, p99 ≤ 3 × watch + {more} ms");
                let row = row.on(flavour.name()).beside("watch", watch).within(says, kept);
                report.add(TITLE, row);
            }
        }
    }
    Ok(())
}

/// From the write until the first packet, and until the control heard.
fn sample(
    stage: &Stage,
    etcd: &mut Writer,
    control: &mut Control,
    one: Endpoint,
    (from, to): (Endpoint, Endpoint),
) -> Result<(Duration, Duration)> {
    let (key, value) = one.pair("0");
    let knock = stage.knock(from, to)?;
    std::thread::sleep(Duration::from_millis(3));
    knock.none_came()?;
    let begin = Instant::now();
    etcd.put(&key, &value)?;
    let passed = knock.first()?;
    let heard = control.heard(&key, LIMIT)?;
    drop(knock);
    // The deletion of the one before is of another key.
    Ok((passed - begin, heard - begin))
}
