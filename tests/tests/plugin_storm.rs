//! Many plugins at once on both hosts, some of them killed at any moment: no address is ever given
//! twice, and what was lost is found again by the agents' collector.
//!
//! `CALICO_STORM` says how many ADDs and DELs there are, `CALICO_SEED` repeats a run as far as the
//! machine does.

#![allow(clippy::print_stdout, reason = "a test that counts says what it counted")]

#[path = "random_policies/chance.rs"]
#[allow(dead_code, reason = "another test uses all of it")]
mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::holdings::Holdings;
use calico_e2e::host::Flavour;
use calico_e2e::rkt::{Attached, Refusal, Rkt, Sandbox, draw_uuid};
use calico_e2e::tutorial;
use calico_e2e::wait;
use serde_json::json;

use chance::Chance;

/// How many ADDs and DELs unless `CALICO_STORM` says otherwise.
const CALLS: usize = 120;
/// How many plugins work at the same time on each host.
const AT_ONCE: usize = 16;
/// How many pods each of them has at most.
const PODS: usize = 3;
/// What a killed plugin leaves is collected after this long; the documentation's two minutes are for
/// people.
const COLLECTOR: &str = "interval = 0.5\ngrace = 2\n";
/// How long the collector may take for everything.
const COLLECTED: Duration = Duration::from_secs(60);

/// What all threads share.
struct Storm {
    rkts: Vec<Rkt>,
    calls: usize,
    begun: AtomicUsize,
    /// Who has each address, from the answer of its ADD until its DEL begins.
    given: Mutex<BTreeMap<IpAddr, String>>,
    count: Mutex<Count>,
    /// Namespaces without a pod.
    haunted: Mutex<Vec<Sandbox>>,
    cluster: Cluster,
}

#[derive(Default)]
struct Count {
    adds: usize,
    dels: usize,
    killed_adds: usize,
    killed_dels: usize,
    took: Vec<Duration>,
    complaints: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn storm(label: &str, flavour: Flavour, calls: usize) -> Result<Storm> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    let mut rkts = Vec::new();
    for host in &cluster.hosts {
        let rkt = Rkt::new(host)?;
        let toml = format!("[collector]\n{COLLECTOR}rkt_data_dir = {:?}\n", rkt.data());
        std::fs::write(host.config_dir().join("agent.toml"), toml)?;
        // Patient: two cores do the work of 32 plugins here.
        let patient = json!({ "policy_setup_timeout_seconds": 40 });
        rkt.network("network1", &patient)?;
        let mut both = patient;
        both["ipam"] = json!({ "type": "calico-ipam", "assign_ipv6": "true" });
        rkt.network("network2", &both)?;
        rkts.push(rkt);
    }
    cluster.start_agents(flavour)?;
    cluster.wait_until_ready()?;
    let (begun, given, count, haunted) = Default::default();
    Ok(Storm { cluster, rkts, calls, begun, given, count, haunted })
}

impl Storm {
    fn count(&self, change: impl FnOnce(&mut Count)) {
        change(&mut self.count.lock().expect("nobody panics while counting"));
    }

    fn complain(&self, what: String) {
        self.count(|count| count.complaints.push(what));
    }

    /// One of the threads: the pods that it has at the end.
    fn work(&self, host: usize, mut chance: Chance) -> Result<Vec<Sandbox>> {
        let mut live = Vec::new();
        while self.begun.fetch_add(1, Ordering::Relaxed) < self.calls {
            if live.is_empty() || (live.len() < PODS && chance.percent(55)) {
                live.extend(self.add(host, &mut chance)?);
            } else {
                let pod = live.swap_remove(chance.below(live.len()));
                self.del(host, pod, &mut chance)?;
            }
        }
        Ok(live)
    }

    fn killer(&self, host: usize, chance: &mut Chance, percent: usize) -> Option<Rkt> {
        // Alone an ADD takes some ten milliseconds, among thirty others more.
        let after = Duration::from_micros(chance.next() % 400_000);
        chance.percent(percent).then(|| self.rkts[host].clone().killing_after(after))
    }

    fn add(&self, host: usize, chance: &mut Chance) -> Result<Option<Sandbox>> {
        let killer = self.killer(host, chance, 25);
        let rkt = killer.as_ref().unwrap_or(&self.rkts[host]);
        let networks: &[(&str, &str)] = match chance.below(5) {
            0 | 1 => &[("network1", "")],
            2 | 3 => &[("network2", "")],
            _ => &[("network1", ""), ("network2", "")],
        };
        let mut pod = rkt.prepare(self.cluster.run(), &draw_uuid()?)?;
        let added = rkt.connect(&mut pod, networks);
        self.count(|count| count.adds += 1);
        let Err(error) = added else {
            let mut given = self.given.lock().expect("nobody panics while giving");
            for address in addresses(&pod.attached)? {
                if let Some(other) = given.insert(address, pod.uuid.clone()) {
                    self.complain(format!("{address}: of {other} and of {}", pod.uuid));
                }
            }
            self.count(|count| count.took.extend(pod.attached.iter().map(|a| a.took)));
            return Ok(Some(pod));
        };
        let refusal = error.downcast::<Refusal>()?;
        if killer.is_some() && refusal.msg == "killed" {
            self.count(|count| count.killed_adds += 1);
        } else {
            self.complain(format!("ADD: {refusal}"));
        }
        // rkt sends no DEL to the network that failed.
        if chance.percent(30) {
            // The pod is gone, but somebody holds its namespace: its interface does not go by itself.
            std::fs::remove_dir_all(pod.dir())?;
            self.haunted.lock().expect("nobody panics while haunting").push(pod);
        } else {
            self.rkts[host].remove(pod)?;
        }
        Ok(None)
    }

    fn del(&self, host: usize, pod: Sandbox, chance: &mut Chance) -> Result<()> {
        for address in addresses(&pod.attached)? {
            self.given.lock().expect("nobody panics while giving").remove(&address);
        }
        let killer = self.killer(host, chance, 15);
        let rkt = killer.as_ref().unwrap_or(&self.rkts[host]);
        let rebooted = chance.percent(20);
        let refusals = if rebooted { rkt.remove_after_reboot(pod)? } else { rkt.remove(pod)? };
        self.count(|count| count.dels += 1);
        for refusal in refusals {
            if killer.is_some() && refusal.msg == "killed" {
                self.count(|count| count.killed_dels += 1);
            } else {
                self.complain(format!("DEL: {refusal}"));
            }
        }
        Ok(())
    }

    /// Waits until what is held is exactly what `live` has.
    fn settle(&self, live: &[Sandbox]) -> Result<Duration> {
        let begin = Instant::now();
        let mut wanted = (BTreeSet::new(), BTreeMap::new());
        for pod in live {
            for (number, attached) in pod.attached.iter().enumerate() {
                wanted.0.insert(format!("{}/eth{number}", pod.uuid));
                let handle = format!("{}.{}", attached.network, pod.uuid);
                let addresses = addresses(std::slice::from_ref(attached))?;
                wanted.1.extend(addresses.into_iter().map(|address| (address, handle.clone())));
            }
        }
        wait::until("holdings of the pods that live, and no others", COLLECTED, || {
            let held = Holdings::read(&self.cluster.etcd, &self.cluster.hosts)?;
            let wrong = held.contradictions();
            let lost: Vec<_> =
                wanted.1.iter().filter(|(a, h)| held.addresses.get(a) != Some(h)).collect();
            let kept: Vec<_> =
                held.addresses.iter().filter(|(a, _)| !wanted.1.contains_key(a)).collect();
            ensure!(lost.is_empty(), "given to a pod, but not in a block: {lost:?}");
            ensure!(kept.is_empty(), "kept for nobody: {kept:?}");
            ensure!(wrong.is_empty(), "{wrong:?}");
            let odd: Vec<_> = held.endpoints.symmetric_difference(&wanted.0).collect();
            ensure!(odd.is_empty(), "endpoints: {odd:?}");
            let Holdings { interfaces, records, .. } = &held;
            ensure!(interfaces.len() == wanted.0.len(), "interfaces: {interfaces:?}");
            ensure!(records.len() == wanted.0.len(), "records: {records:?}");
            Ok(Some(()))
        })
        .with_context(|| self.cluster.logs())?;
        Ok(begin.elapsed())
    }
}

/// What the answers say, of both families.
fn addresses(attached: &[Attached]) -> Result<Vec<IpAddr>> {
    let all = attached.iter().flat_map(|a| [&a.result.ip4, &a.result.ip6]).flatten();
    let addresses = all.map(|ip| ip.ip.split('/').next().unwrap_or_default().parse());
    addresses.collect::<Result<_, _>>().context("an address of an answer")
}

fn no_address_is_given_twice_and_none_is_lost(label: &str, flavour: Flavour) -> Result<()> {
    let calls = number("CALICO_STORM").map_or(Ok(CALLS), usize::try_from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("CALICO_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("CALICO_SEED={seed} CALICO_STORM={calls}");
    let storm = storm(label, flavour, calls)?;
    let begin = Instant::now();
    let live = std::thread::scope(|scope| {
        let workers = (0..2 * AT_ONCE).map(|worker| {
            let storm = &storm;
            let chance = Chance::new(seed.wrapping_add(worker as u64 * 7919));
            let work = scope.spawn(move || storm.work(worker % 2, chance));
            (worker % 2, work)
        });
        let workers: Vec<_> = workers.collect();
        let mut live = [Vec::new(), Vec::new()];
        for (host, worker) in workers {
            let pods = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            live[host].extend(pods);
        }
        anyhow::Ok(live)
    })?;
    let took = begin.elapsed();

    let mut count = storm.count.lock().expect("all threads have ended");
    let Count { adds, dels, killed_adds, killed_dels, .. } = *count;
    count.took.sort_unstable();
    let median = count.took.get(count.took.len() / 2).copied().unwrap_or_default();
    let complaints = std::mem::take(&mut count.complaints);
    drop(count);
    ensure!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), storm.cluster.logs());

    let [first, second] = live;
    let hosts = [first.len(), second.len()];
    let all: Vec<Sandbox> = first.into_iter().chain(second).collect();
    let collected = storm.settle(&all)?;
    println!(
        "{adds} ADDs and {dels} DELs in {took:.1?}, {} at once; killed: {killed_adds} and \
         {killed_dels}; an ADD {median:.0?} (median); {} pods at the end, what the dead had was \
         collected after {collected:.1?}; CALICO_SEED={seed}",
        2 * AT_ONCE,
        all.len(),
    );
    // A run in which nobody dies shows less than it says.
    ensure!(calls < 60 || killed_adds > 0, "no ADD was killed");

    for (number, pod) in all.into_iter().enumerate() {
        let rkt = &storm.rkts[usize::from(number >= hosts[0])];
        let refusals = rkt.remove(pod)?;
        ensure!(refusals.is_empty(), "{refusals:?}");
    }
    storm.settle(&[]).map(drop)
}

calico_e2e::on_each_dataplane! {
    full: no_address_is_given_twice_and_none_is_lost, "stm";
}
