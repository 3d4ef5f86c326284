//! Hosts whose own interfaces are policed: packets to the host, from it and through it, new ones and
//! others, fare as the reference says of the whole way. What is in `tests/worlds/hosts/` failed once.
//!
//! `CALICO_HOST_WORLDS` = how many worlds (1000), `CALICO_SEED` = the first one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use calico_agent::config::{AllowAction, Failsafe, HostAction, InterfacePattern, Settings};
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Family, Update};
use calico_reference::{Host, Known, Passage, Place, Reference, Walk};
use calico_ruleset::{Outcome, Packet, Ruleset, State};
use calico_worlds::{HostCase, HostCoverage, Trip, World, shrink};

use crate::number;
use crate::subject::{Subject, place, read, settings, told};

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
    addresses: Vec<IpAddr>,
    reference: Reference,
}

impl Machine {
    pub(crate) fn new(world: &World, updates: Vec<Update>, seed: u64, host: &Host) -> Self {
        let reference = Reference::new(&updates);
        let (settings, known) = set_up(seed, host);
        let subject = Subject::with_hosts(&world.node, updates, settings, links(host));
        let addresses = host.interfaces.iter().flat_map(|one| one.addresses.clone()).collect();
        Self { subject, host: known, addresses, reference }
    }

    /// What the reference says; `None` when it cannot say.
    fn expected(&self, passage: &Passage) -> Option<(bool, Walk)> {
        let Self { subject, host, reference, .. } = self;
        let settings = &subject.state.settings;
        let (from_pod, to_pod) =
            (matches!(passage.from, Place::Workload(_)), matches!(passage.to, Place::Workload(_)));
        if subject.is_off(passage.packet.family()) {
            // Nothing is policed then, and nothing passes from or to pods but from their own host.
            let passes = !from_pod && !(to_pod && passage.from != Place::Local);
            return Some((passes, Walk::default()));
        }
        let mut passage = passage.clone();
        if passage.known == Known::Nothing && settings.allow_conntrack_invalid {
            passage.known = Known::New;
        }
        let walk = reference.follow(host, &passage);
        if walk.untracked && passage.translated.is_some() {
            return None;
        }
        let host_takes =
            settings.endpoint_to_host != HostAction::Drop || passage.known == Known::Answered;
        let taken = !from_pod || passage.to != Place::Local || host_takes;
        Some((walk.allowed && taken, walk))
    }

    /// The packet as it comes, and the host that it comes to.
    pub(crate) fn flight(&self, passage: &Passage) -> (Packet, calico_ruleset::Host) {
        let state = match passage.known {
            Known::New => State::New,
            Known::Answered => State::Established,
            Known::Nothing => State::Invalid,
        };
        let packet = told(&passage.packet).with_state(state);
        let packet = match &passage.from {
            Place::Local => packet,
            Place::Interface(name) => packet.into_interface(name.as_str()),
            Place::Workload(id) => self.subject.ends()[id].send(packet),
        };
        let mut host = calico_ruleset::Host::default();
        for address in &self.addresses {
            host.address(*address);
        }
        let everyone = if packet.source.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        match &passage.to {
            Place::Local => {}
            Place::Interface(name) => drop(host.route(everyone, name.as_str()).unwrap()),
            Place::Workload(id) => {
                host.route(everyone, &self.subject.ends()[id].interface).unwrap();
            }
        }
        (packet, host)
    }

    fn trace(&self, ruleset: &Ruleset, outcome: &Outcome) -> String {
        let (decided, trace) = (outcome.decided(ruleset), outcome.trace(ruleset));
        format!("{:?} by {decided}, untracked: {}\n{trace}", outcome.fate, outcome.untracked)
    }
}

/// Rules of others that translate destinations, for trips that say so. Those that would translate one
/// address to two are left out.
fn translations(trips: &mut Vec<Trip>) -> [String; 2] {
    let mut all: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    trips.retain(|Trip(passage)| {
        let (from, Some(to)) = (passage.packet.destination, passage.translated) else {
            return true;
        };
        *all.entry(from).or_insert(to) == to
    });
    let text = |family: Family| {
        let mut text = "*nat\n".to_owned();
        for (from, to) in all.iter().filter(|(from, _)| Family::of(**from) == family) {
            for chain in ["PREROUTING", "OUTPUT"] {
                writeln!(text, "-A {chain} -d {from} -j DNAT --to-destination {to}").unwrap();
            }
        }
        text + "COMMIT\n"
    };
    Family::ALL.map(text)
}

/// The rulesets of a machine beside those that translate.
pub(crate) fn rulesets(machine: &Machine, trips: &mut Vec<Trip>) -> [Ruleset; 2] {
    let others = translations(trips);
    Family::ALL.map(|family| {
        let mut text = machine.subject.texts[place(family)].clone();
        text.tables += &others[place(family)];
        read(family, &text).unwrap_or_else(|error| panic!("{error}\n{}", text.tables))
    })
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
    let rulesets = rulesets(&machine, &mut trips);
    for Trip(passage) in trips {
        let known = |place: &Place| match place {
            Place::Workload(id) => machine.subject.ends().contains_key(id),
            _ => true,
        };
        if !known(&passage.from) || !known(&passage.to) {
            continue;
        }
        let Some((passes, walk)) = machine.expected(&passage) else { continue };
        let ruleset = &rulesets[place(passage.packet.family())];
        let (packet, host) = machine.flight(&passage);
        let outcome = ruleset.walk(&host, &packet).unwrap();
        counts[usize::from(passes)] += 1;
        let untracked = !passes || outcome.untracked == walk.untracked;
        if outcome.fate.passed() != passes || !untracked {
            let trace = machine.trace(ruleset, &outcome);
            let told = format!("reference: {passes}, {walk:#?}\n{trace}");
            return Some((Trip(passage), told));
        }
    }
    None
}

fn corpus() -> PathBuf {
    crate::corpus().join("hosts")
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
