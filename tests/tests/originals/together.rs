//! Both plugins at work on both hosts, more pods on one host than a block has addresses, each pod
//! disconnected by whoever comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use calico_e2e::holdings::Holdings;
use calico_e2e::rkt::{Sandbox, draw_uuid};
use calico_e2e::wait;

use super::chance::Chance;
use super::judge::judge;
use super::programs::{Lab, Maker, Originals, pool};

/// How many ADDs and DELs unless `CALICO_STORM` says otherwise.
const CALLS: usize = 160;
/// Workers of each kind by host, each with one pod at most: 14 pods for 16 addresses, 10 of them on
/// a host whose block has 8.
const WORKERS: [usize; 2] = [5, 2];
const BLOCKS: &str = "/calico/ipam/v2/assignment/";
/// How long the collector may take for the records that the other plugin's DELs left.
const SETTLED: Duration = Duration::from_secs(60);

/// A pod, and whose plugin connected it.
struct Pod {
    sandbox: Sandbox,
    maker: Maker,
    host: usize,
}

struct Storm {
    lab: Lab,
    calls: usize,
    begun: AtomicUsize,
    /// Who has each address, from the answer of its ADD until its DEL begins.
    given: Mutex<BTreeMap<IpAddr, String>>,
    count: Mutex<Count>,
    /// Everybody has a pod at this moment.
    full: Barrier,
}

#[derive(Default)]
struct Count {
    /// ADDs of ours, of theirs.
    adds: [usize; 2],
    /// By the maker, then by who disconnected.
    dels: [[usize; 2]; 2],
    /// Handles of ours, of theirs.
    handles: [BTreeSet<String>; 2],
    complaints: Vec<String>,
}

impl Storm {
    fn count(&self, change: impl FnOnce(&mut Count)) {
        change(&mut self.count.lock().expect("nobody panics while counting"));
    }

    /// One of the threads: the pod that it has at the end.
    fn work(&self, host: usize, maker: Maker, mut chance: Chance) -> Result<Option<Pod>> {
        let mut pod = self.add(host, maker, &mut chance);
        self.full.wait();
        while self.begun.fetch_add(1, Ordering::Relaxed) < self.calls {
            pod = match pod? {
                None => self.add(host, maker, &mut chance),
                Some(pod) => self.del(pod, &mut chance).map(|()| None),
            };
        }
        pod
    }

    fn add(&self, host: usize, maker: Maker, chance: &mut Chance) -> Result<Option<Pod>> {
        let rkt = self.lab.rkts[host].of(maker);
        let network = *chance.one(&["network1", "network2"]);
        let mut sandbox = rkt.prepare(self.lab.cluster.run(), &draw_uuid()?)?;
        let added = rkt.connect(&mut sandbox, &[(network, "")]);
        let handle = format!("{network}.{}", sandbox.uuid);
        self.count(|count| {
            count.adds[maker as usize] += 1;
            count.handles[maker as usize].insert(handle.clone());
        });
        if let Err(error) = added {
            self.count(|count| count.complaints.push(format!("ADD of {maker:?}: {error:#}")));
            return Ok(None);
        }
        let mut given = self.given.lock().expect("nobody panics while giving");
        for address in addresses(&sandbox)? {
            if let Some(other) = given.insert(address, handle.clone()) {
                let what = format!("{address}: of {other} and of {handle}, which is {maker:?}");
                self.count(|count| count.complaints.push(what));
            }
        }
        Ok(Some(Pod { sandbox, maker, host }))
    }

    fn del(&self, pod: Pod, chance: &mut Chance) -> Result<()> {
        let Pod { mut sandbox, maker, host } = pod;
        for address in addresses(&sandbox)? {
            self.given.lock().expect("nobody panics while giving").remove(&address);
        }
        let by = *chance.one(&Maker::ALL);
        let rkt = self.lab.rkts[host].of(by);
        sandbox.hand_over(rkt);
        let rebooted = chance.percent(25);
        let refusals =
            if rebooted { rkt.remove_after_reboot(sandbox)? } else { rkt.remove(sandbox)? };
        self.count(|count| {
            count.dels[maker as usize][by as usize] += 1;
            let what = |refusal| format!("DEL of {maker:?}'s pod by {by:?}: {refusal}");
            count.complaints.extend(refusals.iter().map(what));
        });
        Ok(())
    }

    /// Waits until what is held is exactly what `live` has, and the agents have programmed it.
    fn settle(&self, live: &[Pod]) -> Result<()> {
        let mut wanted = (BTreeSet::new(), BTreeMap::new());
        for pod in live {
            let Pod { sandbox, host, .. } = pod;
            wanted.0.insert(format!("{}/eth0", sandbox.uuid));
            let network = &sandbox.attached.first().context("a pod without a network")?.network;
            let handle = format!("{network}.{}", sandbox.uuid);
            wanted.1.extend(addresses(sandbox)?.into_iter().map(|a| (a, handle.clone())));
            let file = format!("cni default%2F{} eth0", sandbox.uuid);
            let what = format!("policy of {:?}'s pod", pod.maker);
            wait::until_true(&what, SETTLED, || self.lab.host(*host).has_status_file(&file))?;
        }
        let ours = live.iter().filter(|pod| pod.maker == Maker::Ours).count();
        wait::until("holdings of the pods that live, and no others", SETTLED, || {
            let held = Holdings::read(&self.lab.cluster.etcd, &self.lab.cluster.hosts)?;
            let wrong = held.contradictions();
            ensure!(wrong.is_empty(), "{wrong:?}");
            ensure!(held.addresses == wanted.1, "{:?}, not {:?}", held.addresses, wanted.1);
            ensure!(held.endpoints == wanted.0, "{:?}, not {:?}", held.endpoints, wanted.0);
            let Holdings { interfaces, records, .. } = &held;
            ensure!(interfaces.len() == live.len(), "interfaces: {interfaces:?}");
            ensure!(records.len() == ours, "records: {records:?}");
            Ok(Some(()))
        })
        .with_context(|| self.lab.cluster.logs())
    }
}

fn addresses(sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
    let all = sandbox.attached.iter().flat_map(|a| [&a.result.ip4, &a.result.ip6]).flatten();
    let addresses = all.map(|ip| ip.ip.split('/').next().unwrap_or_default().parse());
    addresses.collect::<Result<_, _>>().context("an address of an answer")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_address_is_given_twice_by_two_kinds_of_plugin() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let calls = number("CALICO_STORM").map_or(Ok(CALLS), usize::try_from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("CALICO_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("CALICO_SEED={seed} CALICO_STORM={calls}");
    // Two blocks of each family, and all hosts want both.
    let pools = [pool("small-v4", "10.65.0.0/28", 29), pool("small-v6", "fd65::/124", 125)];
    let lab = Lab::new(originals, "origstorm", &pools)?;
    let since = lab.cluster.etcd.put("/calico/e2e-begin", "")?;
    let full = Barrier::new(2 * WORKERS.iter().sum::<usize>());
    let (begun, given, count) = Default::default();
    let storm = Storm { lab, calls, begun, given, count, full };
    let begin = Instant::now();
    let mut live = std::thread::scope(|scope| {
        let kinds = Maker::ALL.into_iter().flat_map(|maker| [(0, maker), (1, maker)]);
        let all = kinds.flat_map(|(host, maker)| (0..WORKERS[host]).map(move |_| (host, maker)));
        let workers = all.enumerate().map(|(worker, (host, maker))| {
            let (storm, chance) = (&storm, Chance::new(seed.wrapping_add(worker as u64 * 7919)));
            scope.spawn(move || storm.work(host, maker, chance))
        });
        let workers: Vec<_> = workers.collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Option<Pod>>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).transpose()
        };
        workers.into_iter().filter_map(join).collect::<Result<Vec<Pod>>>()
    })?;
    let took = begin.elapsed();
    let complaints = std::mem::take(&mut storm.count.lock().expect("all have ended").complaints);
    ensure!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), storm.lab.cluster.logs());
    storm.settle(&live)?;
    let left = live.len();
    let mut chance = Chance::new(seed);
    while let Some(pod) = live.pop() {
        storm.del(pod, &mut chance)?;
    }
    storm.settle(&[])?;

    let story = judge(&storm.lab.cluster.etcd.history(BLOCKS, since)?)?;
    let Count { adds, dels, handles, complaints } = &*storm.count.lock().expect("all have ended");
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    println!(
        "{calls} calls and the rest in {took:.1?}; ADDs of ours {}, of theirs {}; DELs of ours by \
         ours {}, by theirs {}, of theirs by ours {}, by theirs {}; {left} pods at the end; {} \
         versions of blocks, {} addresses given, {} of them in another host's block; \
         CALICO_SEED={seed}",
        adds[0],
        adds[1],
        dels[0][0],
        dels[0][1],
        dels[1][0],
        dels[1][1],
        story.versions,
        story.given,
        story.borrowed,
    );
    // What this test is for must have happened.
    let workers: usize = WORKERS.iter().sum();
    ensure!(adds.iter().all(|adds| *adds >= workers), "{adds:?}");
    ensure!(dels.iter().flatten().all(|dels| *dels > 0), "{dels:?}");
    ensure!(adds.iter().sum::<usize>() == dels.iter().flatten().sum::<usize>());
    ensure!(story.given >= adds.iter().sum(), "{story:?}");
    ensure!(story.borrowed > 0, "nobody borrowed");
    let shared = |owners: &&BTreeSet<String>| handles.iter().all(|of| !of.is_disjoint(owners));
    ensure!(story.owners.values().filter(shared).count() == story.owners.len(), "{story:?}");
    ensure!(story.owners.len() == 4, "{story:?}");
    Ok(())
}
