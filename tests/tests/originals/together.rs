//! Both plugins at work on both hosts, more pods on one host than a block has addresses, each pod
//! disconnected by whoever comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use calico_e2e::holdings::Holdings;
use calico_e2e::rkt::{Refusal, Sandbox, draw_uuid};
use calico_e2e::wait;
use serde_json::json;

use super::chance::Chance;
use super::judge::{Story, judge};
use super::programs::{Lab, Maker, Originals, pool};

/// How many ADDs and DELs unless `CALICO_STORM` says otherwise.
const CALLS: usize = 160;
/// Workers of each kind by host, each with one pod at most: 14 pods, 10 of them on one host.
const WORKERS: [usize; 2] = [5, 2];
const NO_ADDRESS: u32 = 100;
/// Written to learn the revision.
const MARK: &str = "/calico/e2e-mark";
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
    /// There may be too few addresses.
    scarce: bool,
}

#[derive(Default)]
struct Count {
    /// ADDs of ours, of theirs.
    adds: [usize; 2],
    /// By the maker, then by who disconnected.
    dels: [[usize; 2]; 2],
    /// Handles of ours, of theirs.
    handles: [BTreeSet<String>; 2],
    /// From which revision on a handle may have nothing: before its DEL begins.
    ends: BTreeMap<String, i64>,
    /// Host sides of pods that the original disconnected.
    left_by_them: BTreeSet<String>,
    /// ADDs that got no address, of ours, of theirs.
    refused: [usize; 2],
    complaints: Vec<String>,
}

/// What the original says when there is no address, or no pool any more.
const THEIR_WORDS: [&str; 5] = [
    "no more free addresses",
    "free ips which is less than",
    "No IPs available",
    "no configured Calico pools",
    "cannot find a qualified ippool",
];

impl Storm {
    fn new(lab: Lab, calls: usize, scarce: bool) -> Self {
        let full = Barrier::new(2 * WORKERS.iter().sum::<usize>());
        let (begun, given, count) = Default::default();
        Self { lab, calls, begun, given, count, full, scarce }
    }

    /// All workers: the pods that they have at the end.
    fn run(&self, seed: u64) -> Result<Vec<Pod>> {
        let live = std::thread::scope(|scope| {
            let kinds = Maker::ALL.into_iter().flat_map(|maker| [(0, maker), (1, maker)]);
            let all =
                kinds.flat_map(|(host, maker)| (0..WORKERS[host]).map(move |_| (host, maker)));
            let workers = all.enumerate().map(|(worker, (host, maker))| {
                let chance = Chance::new(seed.wrapping_add(worker as u64 * 7919));
                scope.spawn(move || self.work(host, maker, chance))
            });
            let workers: Vec<_> = workers.collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Option<Pod>>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).transpose()
            };
            workers.into_iter().filter_map(join).collect()
        });
        let mut count = self.count.lock().expect("all have ended");
        let complaints = std::mem::take(&mut count.complaints);
        ensure!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), self.lab.cluster.logs());
        live
    }

    /// Why there is no pod: nothing, if that may be.
    fn complaint(&self, maker: Maker, error: &anyhow::Error) -> Option<String> {
        let refused = error.downcast_ref::<Refusal>().is_some_and(|refusal| match maker {
            Maker::Ours => refusal.code == Some(NO_ADDRESS),
            Maker::Theirs => THEIR_WORDS.iter().any(|words| refusal.msg.contains(words)),
        });
        if self.scarce && refused {
            self.count(|count| count.refused[maker as usize] += 1);
            return None;
        }
        // Its DEL, not ours, frees an address before the route to it is gone, and its next ADD may be
        // faster. That an address has two owners the judge would find.
        let mut too_early = false;
        if let (Maker::Theirs, Some(refusal)) = (maker, error.downcast_ref::<Refusal>())
            && refusal.msg.contains("already exists for an interface other")
        {
            self.count(|count| {
                too_early = count.left_by_them.iter().any(|name| refusal.msg.contains(name));
                count.refused[maker as usize] += usize::from(too_early);
            });
        }
        if too_early {
            return None;
        }
        Some(format!("ADD of {maker:?}: {error:#}"))
    }

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
            let complaint = self.complaint(maker, &error);
            self.count(|count| count.complaints.extend(complaint));
            self.count(|count| count.ends.extend([(handle, 0)]));
            if maker == Maker::Theirs {
                self.clear_up(host, &sandbox, network)?;
            }
            rkt.remove(sandbox)?;
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

    /// An ADD of the original that finds an IPv4 address and no pool for IPv6 keeps the first. Ours
    /// keeps nothing, so for it nobody comes.
    fn clear_up(&self, host: usize, sandbox: &Sandbox, network: &str) -> Result<()> {
        let ours = &self.lab.rkts[host].ours;
        let conf = std::fs::read(sandbox.dir().join(format!("net/10-calico-{network}.conf")))?;
        let plugin = ours.plugins().join("calico");
        ours.call(sandbox, &plugin, "DEL", "eth0", "").input(conf).run().map(drop)
    }

    fn del(&self, pod: Pod, chance: &mut Chance) -> Result<()> {
        let Pod { mut sandbox, maker, host } = pod;
        for address in addresses(&sandbox)? {
            self.given.lock().expect("nobody panics while giving").remove(&address);
        }
        let end = self.lab.cluster.etcd.put(MARK, "")?;
        let handle = handle(&sandbox)?;
        let by = *chance.one(&Maker::ALL);
        self.count(|count| {
            count.ends.insert(handle, end);
            if by == Maker::Theirs {
                count.left_by_them.insert(format!("cali{}", &sandbox.uuid[..11]));
            }
        });
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
            let handle = handle(sandbox)?;
            wanted.1.extend(addresses(sandbox)?.into_iter().map(|a| (a, handle.clone())));
            let file = format!("cni default%2F{} eth0", sandbox.uuid);
            let what = format!("policy of {:?}'s pod", pod.maker);
            wait::until_true(&what, SETTLED, || self.lab.host(*host).has_status_file(&file))?;
        }
        let ours = live.iter().filter(|pod| pod.maker == Maker::Ours);
        let recorded: BTreeSet<String> = ours
            .map(|Pod { sandbox, host, .. }| {
                format!("{}/{}_eth0.json", self.lab.host(*host).spec.name, sandbox.uuid)
            })
            .collect();
        wait::until("holdings of the pods that live, and no others", SETTLED, || {
            let held = Holdings::read(&self.lab.cluster.etcd, &self.lab.cluster.hosts)?;
            let wrong = held.contradictions();
            ensure!(wrong.is_empty(), "{wrong:?}");
            let lost: Vec<_> =
                wanted.1.iter().filter(|(a, h)| held.addresses.get(a) != Some(h)).collect();
            ensure!(lost.is_empty(), "given to a pod, but not in a block: {lost:?}");
            let kept: Vec<_> =
                held.addresses.iter().filter(|(a, _)| !wanted.1.contains_key(a)).collect();
            let of = |maker: Maker| {
                let count = self.count.lock().expect("nobody panics while counting");
                kept.iter().filter(|(_, h)| count.handles[maker as usize].contains(*h)).count()
            };
            let (ours, theirs) = (of(Maker::Ours), of(Maker::Theirs));
            ensure!(
                kept.is_empty(),
                "kept for nobody: {kept:?}; by ours {ours}, by theirs {theirs}"
            );
            ensure!(held.endpoints == wanted.0, "{:?}, not {:?}", held.endpoints, wanted.0);
            let Holdings { interfaces, records, .. } = &held;
            ensure!(interfaces.len() == live.len(), "interfaces: {interfaces:?}");
            ensure!(records == &recorded, "records: {records:?}, not {recorded:?}");
            Ok(Some(()))
        })
        .with_context(|| self.lab.cluster.logs())
    }
}

fn handle(sandbox: &Sandbox) -> Result<String> {
    let network = &sandbox.attached.first().context("a pod without a network")?.network;
    Ok(format!("{network}.{}", sandbox.uuid))
}

fn addresses(sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
    let all = sandbox.attached.iter().flat_map(|a| [&a.result.ip4, &a.result.ip6]).flatten();
    let addresses = all.map(|ip| ip.ip.split('/').next().unwrap_or_default().parse());
    addresses.collect::<Result<_, _>>().context("an address of an answer")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// How many calls, and what they are drawn from.
fn dice() -> Result<(usize, u64)> {
    let calls = number("CALICO_STORM").map_or(Ok(CALLS), usize::try_from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("CALICO_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("CALICO_SEED={seed} CALICO_STORM={calls}");
    Ok((calls, seed))
}

/// Removes what lives, and looks back.
fn finish(storm: &Storm, mut live: Vec<Pod>, seed: u64, since: i64) -> Result<Story> {
    storm.settle(&live)?;
    let mut chance = Chance::new(seed);
    while let Some(pod) = live.pop() {
        storm.del(pod, &mut chance)?;
    }
    storm.settle(&[])?;
    let count = storm.count.lock().expect("all have ended");
    let Count { adds, dels, refused, complaints, ends, .. } = &*count;
    let story = judge(&storm.lab.cluster.etcd.history(BLOCKS, since)?, ends)?;
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    println!(
        "ADDs of ours {}, of theirs {}; without an address {}, {}; DELs of ours by ours {}, by \
         theirs {}, of theirs by ours {}, by theirs {}; {} versions of blocks, {} addresses given, \
         {} of them in another host's block; CALICO_SEED={seed}",
        adds[0],
        adds[1],
        refused[0],
        refused[1],
        dels[0][0],
        dels[0][1],
        dels[1][0],
        dels[1][1],
        story.versions,
        story.given,
        story.borrowed,
    );
    let total = |counts: &[usize]| counts.iter().sum::<usize>();
    ensure!(total(adds) == total(dels.as_flattened()) + total(refused));
    ensure!(story.given >= total(dels.as_flattened()), "{story:?}");
    // What these tests are for must have happened.
    ensure!(adds.iter().all(|adds| *adds >= total(&WORKERS)), "{adds:?}");
    ensure!(dels.iter().flatten().all(|dels| *dels > 0), "{dels:?}");
    ensure!(story.borrowed > 0, "nobody borrowed");
    Ok(story)
}

#[test]
fn no_address_is_given_twice_by_two_kinds_of_plugin() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let (calls, seed) = dice()?;
    // Two blocks of eight of each family, and all hosts want both: enough for everybody.
    let pools = [pool("small-v4", "10.65.0.0/28", 29), pool("small-v6", "fd65::/124", 125)];
    let lab = Lab::new(originals, "origstorm", &pools)?;
    let since = lab.cluster.etcd.put(MARK, "")?;
    let storm = Storm::new(lab, calls, false);
    let begin = Instant::now();
    let live = storm.run(seed)?;
    println!(
        "{calls} calls and the first pods in {:.1?}, {} at the end",
        begin.elapsed(),
        live.len()
    );
    let story = finish(&storm, live, seed, since)?;
    let count = storm.count.lock().expect("all have ended");
    let shared =
        |owners: &&BTreeSet<String>| count.handles.iter().all(|of| !of.is_disjoint(owners));
    ensure!(story.owners.len() == 4, "{story:?}");
    ensure!(story.owners.values().filter(shared).count() == 4, "{story:?}");
    Ok(())
}

/// Fewer addresses than pods, blocks of two, and an administrator who deletes a pool with its blocks
/// and makes it again.
#[test]
fn the_last_addresses_of_pools_that_come_and_go_are_given_once() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let (calls, seed) = dice()?;
    let pools = [pool("tiny-v4", "10.65.0.0/29", 31), pool("tiny-v6", "fd65::/125", 127)];
    let lab = Lab::new(originals, "origscarce", &pools)?;
    let since = lab.cluster.etcd.put(MARK, "")?;
    let storm = Storm::new(lab, calls, true);
    let over = AtomicBool::new(false);
    let (live, rounds) = std::thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(&storm.lab, &over));
        let live = storm.run(seed);
        over.store(true, Ordering::Relaxed);
        let rounds = disturber.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((live?, rounds?))
    })?;
    println!("{rounds} times two pools were deleted and made again");
    let story = finish(&storm, live, seed, since)?;
    ensure!(rounds > 1, "the pools stayed");
    ensure!(story.gone > 0, "no block went: {story:?}");
    let refused = storm.count.lock().expect("all have ended").refused;
    ensure!(refused.iter().all(|refused| *refused > 0), "{refused:?}");
    Ok(())
}

/// Deletes pools and makes them again until it is over.
fn disturb(lab: &Lab, over: &AtomicBool) -> Result<usize> {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        for name in ["tiny-v4", "tiny-v6"] {
            let mut pool = lab.originals.get(lab.host(1), &format!("ippool {name}"))?;
            let deleted = lab.originals.calicoctl(lab.host(1), &format!("delete ippool {name}"));
            deleted.run()?;
            pool["metadata"] = json!({ "name": name });
            pool["spec"]["disabled"] = json!(false);
            lab.originals.apply(lab.host(1), &pool)?;
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(rounds)
}
