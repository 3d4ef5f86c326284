//! Hosts whose own interfaces are policed: packets to the host, from it and through it, new ones and
//! others, fare as the reference says of the whole way. What is in `tests/worlds/hosts/` failed once.
//!
//! `CALICO_HOST_WORLDS` = how many worlds (1000), `CALICO_SEED` = the first one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calico_agent::config::{AllowAction, Failsafe, HostAction, InterfacePattern, Settings};
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Cidr, Family, InterfaceName, Update};
use calico_reference::{Hook, Host, Known, Passage, Place, Reason, Reference, Walk};
use calico_ruleset::{Packet, State};
use calico_worlds::{HostCase, HostCoverage, Trip, World, shrink};

use crate::kernel::{Outcome, Ruleset, Translation};
use crate::subject::{Flight, Subject, place, settings, told};
use crate::{hosts_crafted, number};

/// Trips of each world.
const TRIPS: usize = 60;
/// Features are counted in so many worlds, always the same.
const COUNTED: u64 = 400;

/// Settings of every kind that matter to hosts, the same for the same seed, and the host that the
/// reference knows then.
pub(crate) fn set_up(seed: u64, host: &Host) -> (Arc<Settings>, Host) {
    let mut settings = Settings::clone(&settings(seed));
    let mut host = host.clone();
    settings.mangle_allow = if seed % 3 == 1 { AllowAction::Return } else { AllowAction::Accept };
    settings.denied_log = seed % 7 == 3;
    let told = |all: &[calico_reference::Failsafe]| -> Vec<Failsafe> {
        all.iter()
            .map(|one| Failsafe { protocol: one.protocol, net: one.net, port: one.port })
            .collect()
    };
    // The defaults are left as they are: the world writes them down again.
    let same = |agent: &[Failsafe], world: &[calico_reference::Failsafe]| {
        let (mut a, mut b) = (agent.to_vec(), told(world));
        a.sort();
        b.sort();
        a == b
    };
    if !same(&settings.failsafe_inbound, &host.failsafe_in) {
        settings.failsafe_inbound = told(&host.failsafe_in);
    }
    if !same(&settings.failsafe_outbound, &host.failsafe_out) {
        settings.failsafe_outbound = told(&host.failsafe_out);
    }
    if seed % 13 == 5 {
        settings.interface_exclude = InterfacePattern::list("eth1").unwrap();
        // Nobody governs what the reference does not know.
        host.interfaces.retain(|interface| interface.name.as_str() != "eth1");
    }
    (Arc::new(settings), host)
}

fn links(host: &Host) -> Links {
    let link = |(interface, index): (&calico_reference::Interface, u32)| {
        let addresses = interface.addresses.iter().copied().collect();
        let link = Link { index, up: true, addresses, ..Link::default() };
        (interface.name.clone(), link)
    };
    host.interfaces.iter().zip(1000..).map(link).collect()
}

/// A host as the kernel would see it.
pub(crate) struct Machine {
    pub(crate) subject: Subject,
    /// As the reference knows it.
    host: Host,
    /// All of its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// All of its interfaces.
    links: Vec<InterfaceName>,
    reference: Reference,
}

impl Machine {
    pub(crate) fn new(world: &World, updates: Vec<Update>, seed: u64, host: &Host) -> Self {
        let reference = Reference::new(&updates);
        let (settings, known) = set_up(seed, host);
        let subject = Subject::with_hosts(&world.node, updates, settings, links(host));
        let addresses = host.interfaces.iter().flat_map(|one| one.addresses.clone()).collect();
        let links = host.interfaces.iter().map(|one| one.name.clone()).collect();
        Self { subject, host: known, addresses, links, reference }
    }

    /// What the reference says; `None` when it cannot say.
    fn expected(&self, passage: &Passage) -> Option<(bool, Walk)> {
        let Self { subject, host, reference, .. } = self;
        let settings = &subject.state.settings;
        let (from_pod, to_pod) =
            (matches!(passage.from, Place::Workload(_)), matches!(passage.to, Place::Workload(_)));
        if subject.is_off(passage.packet.family()) {
            // Nothing is policed then, and nothing passes from or to pods but from their own host.
            let passes = !from_pod && (!to_pod || passage.from == Place::Local);
            return Some((passes, Walk::default()));
        }
        let mut passage = passage.clone();
        if passage.known == Known::Nothing && settings.allow_conntrack_invalid {
            passage.known = Known::New;
        }
        let walk = reference.follow(host, &passage);
        if passage.translated.is_some() {
            if walk.untracked {
                return None;
            }
            if let Some(decided) = self.before_translation(&passage, &walk) {
                return decided.map(|allowed| (allowed, walk));
            }
        }
        let host_takes =
            settings.endpoint_to_host != HostAction::Drop || passage.known == Known::Answered;
        let taken = !from_pod || passage.to != Place::Local || host_takes;
        Some((walk.allowed && taken, walk))
    }

    /// What the host sends to an address that is translated has another way before: it is asked in raw
    /// for the interface that it would leave by. `Some(None)`: it cannot be said what comes of it.
    fn before_translation(&self, passage: &Passage, walk: &Walk) -> Option<Option<bool>> {
        let Place::Interface(name) = passage.to.clone() else { return None };
        if passage.from != Place::Local {
            return None;
        }
        let raw = |walk: &Walk| {
            let step = walk.steps.first().filter(|step| step.hook == Some(Hook::Untracked))?;
            let silent = matches!(step.verdict.reason, Reason::NotAsked | Reason::Failsafe);
            (!silent).then_some(step.verdict.allowed)
        };
        let other = self.links.iter().find(|one| **one != name)?;
        let first = Passage { to: Place::Interface(other.clone()), ..passage.clone() };
        match (raw(&self.reference.follow(&self.host, &first)), raw(walk)) {
            (None, None) => None,
            // It is not tracked, and so not translated.
            (Some(true), _) => Some(None),
            (Some(false), _) => Some(Some(false)),
            // What is said of the other interface nobody asks.
            (None, Some(_)) => Some(None),
        }
    }

    /// The packet as it comes, and the host that it comes to; `None` when a pod is not there.
    pub(crate) fn flight(&self, passage: &Passage) -> Option<Flight> {
        let state = match passage.known {
            Known::New => State::New,
            Known::Answered => State::Established,
            Known::Nothing => State::Invalid,
        };
        let packet = told(&passage.packet).with_state(state);
        let packet = match &passage.from {
            Place::Local => packet,
            Place::Interface(name) => packet.into_interface(name.as_str()),
            Place::Workload(id) => self.subject.ends().get(id)?.send(packet),
        };
        let mut host = calico_ruleset::Host::default();
        for address in &self.addresses {
            host.address(*address);
        }
        let everyone = if packet.source.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        match &passage.to {
            Place::Local => {}
            Place::Interface(name) => {
                host.route(everyone, name.as_str()).unwrap();
                // Before it is translated it would leave by the other one.
                let other = self.links.iter().find(|one| *one != name);
                if let (Some(other), Some(_)) = (other, passage.translated) {
                    let one = Cidr::host(passage.packet.destination).to_string();
                    host.route(&one, other.as_str()).unwrap();
                }
            }
            Place::Workload(id) => {
                host.route(everyone, &self.subject.ends().get(id)?.interface).unwrap();
            }
        }
        Some((packet, host))
    }

    fn trace(&self, ruleset: &Ruleset, outcome: &Outcome) -> String {
        let (decided, trace) = (outcome.decided(ruleset), outcome.trace(ruleset));
        format!("{:?} by {decided}, untracked: {}\n{trace}", outcome.fate, outcome.untracked)
    }
}

/// Rules of others that translate destinations, for trips that say so. Those that would translate one
/// address to two are left out.
fn translations(trips: &mut Vec<Trip>) -> [Vec<Translation>; 2] {
    let mut all: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    trips.retain(|Trip(passage)| {
        let (from, Some(to)) = (passage.packet.destination, passage.translated) else {
            return true;
        };
        *all.entry(from).or_insert(to) == to
    });
    Family::ALL.map(|family| {
        let of = all.iter().filter(|(from, _)| Family::of(**from) == family);
        of.map(|(from, to)| Translation { from: *from, to: *to, everywhere: true }).collect()
    })
}

/// The rules of others that translate, on a machine that is asked about these trips.
pub(crate) fn others(machine: &Machine, trips: &mut Vec<Trip>) -> [Vec<Translation>; 2] {
    let mut all = translations(trips);
    for family in Family::ALL {
        all[place(family)].extend(crate::hosts_frame::translations(machine, family));
    }
    all
}

/// The first trip that goes otherwise than the reference says.
fn difference(
    world: &World,
    updates: Vec<Update>,
    host: &Host,
    mut trips: Vec<Trip>,
    seed: u64,
    counts: &mut [u64; 2],
) -> Option<(Trip, String)> {
    let machine = Machine::new(world, updates, seed, host);
    let others = others(&machine, &mut trips);
    let among = |family| machine.subject.made.among(family, &others[place(family)]);
    let rulesets = Family::ALL.map(among);
    for Trip(passage) in trips {
        let Some((packet, host)) = machine.flight(&passage) else { continue };
        let Some((passes, walk)) = machine.expected(&passage) else { continue };
        let ruleset = &rulesets[place(passage.packet.family())];
        let outcome = ruleset.walk(&host, &packet).unwrap();
        counts[usize::from(passes)] += 1;
        let untracked = !passes || outcome.untracked == walk.untracked;
        // Marks of others, in our bits too, say nothing.
        let marked = ruleset.walk(&host, &Packet { mark: u32::MAX, ..packet }).unwrap();
        assert_eq!(marked.fate, outcome.fate, "marked: {}", Trip(passage));
        if outcome.fate.passed() != passes || !untracked {
            let trace = machine.trace(ruleset, &outcome);
            let told = format!("reference: {passes}, {walk:#?}\n{trace}");
            return Some((Trip(passage), told));
        }
    }
    None
}

fn corpus() -> PathBuf {
    crate::pods::corpus().join("hosts")
}

/// Makes a world small in which the ruleset is wrong, and keeps it as a file.
fn keep(seed: u64, world: &World, host: &Host, trip: &Trip) -> String {
    let wrong = |world: &World| {
        let one = vec![trip.clone()];
        difference(world, world.updates(), host, one, seed, &mut [0; 2])
    };
    let small = shrink(world, |world| wrong(world).is_some());
    let (trip, told) = wrong(&small).unwrap();
    let case = HostCase {
        about: format!("seed {seed}: the ruleset and the reference differed"),
        world: small,
        host: host.clone(),
        trips: vec![trip],
    };
    let path = corpus().join(format!("ruleset-{seed}.json"));
    std::fs::create_dir_all(corpus()).unwrap();
    std::fs::write(&path, case.to_text()).unwrap();
    format!("small: {told}\nkept as {}\n{}", path.display(), case.to_text())
}

/// Asks about the worlds of these seeds.
fn play(seeds: impl Iterator<Item = u64>, count: bool) -> (HostCoverage, [u64; 2], Option<String>) {
    let (mut coverage, mut counts) = (HostCoverage::default(), [0; 2]);
    for seed in seeds {
        let (world, host) = (World::with_hosts(seed), World::host(seed));
        let updates = world.updates();
        let trips = world.trips_of(&updates, &host, seed, TRIPS);
        if count {
            coverage.count(&updates, &host, &Reference::new(&updates), &trips);
        }
        if let Some((trip, told)) = difference(&world, updates, &host, trips, seed, &mut counts) {
            let kept = keep(seed, &world, &host, &trip);
            let text = format!("CALICO_SEED={seed} CALICO_HOST_WORLDS=1: {trip}\n{told}\n{kept}");
            return (coverage, counts, Some(text));
        }
    }
    (coverage, counts, None)
}

fn play_all(first: u64, worlds: u64, count: bool) -> HostCoverage {
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8) as u64;
    let seeds = |part: u64| (first..first + worlds).filter(move |seed| seed % threads == part);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..threads).map(|part| scope.spawn(move || play(seeds(part), count))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (mut coverage, mut counts) = (HostCoverage::default(), [0, 0]);
    for (one, asked, failed) in parts {
        if let Some(failed) = failed {
            panic!("{failed}");
        }
        coverage.add(&one);
        counts = [counts[0] + asked[0], counts[1] + asked[1]];
    }
    println!("{worlds} hosts from {first}: dropped and passed: {counts:?}, {:?}", start.elapsed());
    // Each allow beside a deny.
    assert!(counts.iter().all(|n| *n > worlds * 10), "{counts:?}");
    coverage
}

#[test]
fn host_endpoints_do_what_the_reference_says_and_every_feature_decides() {
    let coverage = play_all(0, COUNTED, true);
    println!("{coverage}");
    assert_eq!(coverage.lacking(), Vec::<&str>::new(), "{coverage}");
}

#[test]
fn host_endpoints_of_worlds_that_nobody_saw() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let first = number("CALICO_SEED", now % 1_000_000 * 100_000);
    play_all(first, number("CALICO_HOST_WORLDS", 1000), false);
}

#[test]
fn hosts_made_by_hand_are_answered_alike() {
    let (world, host) = (hosts_crafted::world(), hosts_crafted::host());
    let trips = hosts_crafted::trips(&world, &host);
    let mut counts = [0, 0];
    for seed in 0..12 {
        let trips = trips.clone();
        let found = difference(&world, world.updates(), &host, trips, seed, &mut counts);
        if let Some((trip, told)) = found {
            panic!("settings of {seed}: {trip}\n{told}");
        }
    }
    println!("dropped and passed: {counts:?}");
    assert!(counts.iter().all(|n| *n > 5000), "{counts:?}");
}

#[test]
fn hosts_that_failed_once() {
    let cases = HostCase::read_all(&corpus()).unwrap();
    assert!(!cases.is_empty(), "the corpus is not where it used to be");
    for (name, HostCase { world, host, trips, .. }) in cases {
        assert!(!trips.is_empty(), "{name} asks nothing");
        // With the settings of several seeds.
        for seed in 0..21 {
            let mut counts = [0, 0];
            let trips = trips.clone();
            let found = difference(&world, world.updates(), &host, trips, seed, &mut counts);
            assert_eq!(found, None, "{name}");
        }
    }
}
