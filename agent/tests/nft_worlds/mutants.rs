//! Broken objects are found. A mutant is a mistake that a renderer could make: everywhere a rule of one
//! kind is left out, comes one place later, or ends otherwise; everywhere a criterion of one kind is
//! forgotten or turned round; a kind of set has lost its elements. It is found when, in some world, a
//! packet fares otherwise. What is not found has to be in `equivalent.rs`, with the reason why it means
//! the same.
//!
//! `CALICO_MUTANTS` = how many worlds of each kind have to find them (10).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::config::Settings;
use calico_agent::felix::nftables::contents::{Contents, Elements};
use calico_agent::felix::nftables::object::{Chain, Match, Name, Rule, Statement, Verdict};
use calico_datastore::model::Family;
use calico_reference::Reference;
use calico_ruleset::{Host, Origin, Packet};
use calico_worlds::World;

use crate::equivalent::equivalent;
use crate::frame::{models, probes};
use crate::hosts::{Machine, others};
use crate::hosts_frame::frames;
use crate::kernel::Ruleset;
use crate::kinds::{commute, kind_of_match, kind_of_rule};
use crate::subject::{Flight, Subject, UPLINK, settings};
use crate::{crafted, hosts_crafted, number};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mistake {
    /// The rule is not there.
    LeftOut,
    /// It stands behind the next one.
    Later,
    /// It does the opposite.
    Target,
    /// What it does besides its verdict is not done.
    Idle,
    /// The criterion is not there.
    Forgotten,
    /// The criterion asks the opposite.
    Negated,
    /// The sets of that name hold nothing.
    Empty,
}

use Mistake::{Empty, Forgotten, Idle, Later, LeftOut, Negated, Target};

const ALL: [Mistake; 7] = [LeftOut, Later, Target, Idle, Forgotten, Negated, Empty];

pub(crate) type Mutant = (Mistake, String);

/// How many worlds are asked about mutants that mean the same.
const SOME: usize = 15;

/// What became of a packet.
type Fate = (bool, bool, bool, IpAddr, IpAddr);

/// A world with all packets that it is sent, and what became of them.
struct Prepared {
    ruleset: Ruleset,
    flights: Vec<Flight>,
    sound: Vec<Fate>,
}

impl Prepared {
    fn new(ruleset: Ruleset, flights: Vec<Flight>) -> Self {
        let mut this = Self { ruleset, flights, sound: Vec::new() };
        this.sound = this.fates(&this.ruleset).collect();
        this
    }

    fn of_pods(seed: u64, world: &World, questions: usize) -> Self {
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let subject = Subject::new(&world.node, updates, settings(seed));
        let mut flights = Vec::new();
        for question in world.questions(seed, questions) {
            let both = subject.flight_between(&question).map(|(_, flight)| flight);
            flights.extend([subject.flight(&question), both].into_iter().flatten());
        }
        for question in models(world, seed) {
            let probes = probes(&subject, &reference, &question).into_iter();
            flights.extend(probes.map(|probe| (probe.packet, probe.host)));
        }
        Self::new(subject.ruleset(Family::V4).clone(), flights)
    }

    fn of_extras(seed: u64) -> Self {
        let world = World::with_extras(seed);
        let updates = world.updates();
        let of = settings(seed);
        let of = Settings { source_spoofing: true, floating_ips: true, ..Settings::clone(&of) };
        let subject = Subject::new(&world.node, updates.clone(), Arc::new(of));
        let mut flights: Vec<Flight> = Vec::new();
        for question in world.spoofed_questions(&updates, seed, 40) {
            let Some((packet, host)) = subject.flight(&question) else { continue };
            // The same to the host itself.
            let mut own = host.clone();
            own.address(packet.destination);
            flights.extend([(packet.clone(), host), (packet, own)]);
        }
        for (id, endpoint) in &subject.state.endpoints {
            let end = &subject.ends()[id];
            for (inside, outside) in &endpoint.nat {
                let (far, every) = match inside {
                    IpAddr::V4(_) => ("198.51.100.7", "0.0.0.0/0"),
                    IpAddr::V6(_) => ("2001:db8:7::7", "::/0"),
                };
                let mut host = Host::default();
                host.route(every, &end.interface).unwrap();
                let of = |source| Packet::tcp(source, *outside, 40_000, 80);
                flights.push((of(far.parse().unwrap()).into_interface(UPLINK), host.clone()));
                flights.push((of(far.parse().unwrap()), host.clone()));
                flights.push((end.send(of(*inside)), host));
            }
        }
        Self::new(subject.ruleset(Family::V4).clone(), flights)
    }

    fn of_hosts(
        seed: u64,
        world: &World,
        host: &calico_reference::Host,
        mut trips: Vec<calico_worlds::Trip>,
    ) -> Self {
        let machine = Machine::new(world, world.updates(), seed, host);
        let others = others(&machine, &mut trips).concat();
        let mut flights = Vec::new();
        for trip in trips {
            let Some((packet, host)) = machine.flight(&trip.0) else { continue };
            let marked = Packet { mark: u32::MAX, ..packet.clone() };
            flights.extend([(packet.clone(), host.clone()), (marked, host.clone())]);
            if packet.origin == Origin::Host {
                // To itself, and to a pod: that is policed nowhere.
                let every = if packet.source.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                let mut pods = Host::default();
                pods.route(every, "cali1").unwrap();
                let itself = Packet { destination: packet.source, ..packet.clone() };
                flights.extend([(itself, host), (packet, pods)]);
            }
        }
        for family in Family::ALL {
            let probes = frames(&machine, family).into_iter();
            flights.extend(probes.map(|probe| (probe.packet, probe.host)));
        }
        Self::new(machine.subject.made.among(Family::V4, &others), flights)
    }

    fn fates<'a>(&'a self, ruleset: &'a Ruleset) -> impl Iterator<Item = Fate> + 'a {
        self.flights.iter().map(|(packet, host)| {
            let Ok(one) = ruleset.walk(host, packet);
            let passed = one.fate.passed();
            (passed, one.masqueraded, one.untracked, one.source, one.destination)
        })
    }

    /// Whether the mistake shows; `None` when there is nothing of its kind.
    fn finds(&self, mutant: &Mutant) -> Option<bool> {
        let broken = self.ruleset.with(broken(self.ruleset.contents(), mutant)?);
        Some(self.fates(&broken).zip(&self.sound).any(|(now, sound)| now != *sound))
    }
}

/// The kind of a set: what it is for.
fn kind_of_set(name: &str) -> &str {
    match name {
        set if set.starts_with("set") && set.ends_with("/ranges") => "ranges",
        set if set.starts_with("set") && set.contains('/') => "prefixes",
        set if set.starts_with("set") => "addresses",
        name => name.trim_end_matches("-nets").trim_end_matches(['4', '6']),
    }
}

/// The objects with the mistake in them; `None` when they have nothing of the kind.
fn broken(contents: &Contents, (mistake, kind): &Mutant) -> Option<Contents> {
    let mut out = contents.clone();
    let mut any = false;
    if *mistake == Empty {
        for (name, set) in out.sets.iter_mut().filter(|(name, _)| kind_of_set(name) == kind) {
            any |= !set.elements.is_empty() && !name.is_empty();
            set.elements = Elements::default();
        }
        return any.then_some(out);
    }
    let changed: Vec<(Name, Chain)> = contents
        .chains
        .iter()
        .filter_map(|(name, chain)| {
            let rules = broken_rules(name, &chain.rules, *mistake, kind)?;
            Some((name.clone(), Chain { rules, ..Chain::clone(chain) }))
        })
        .collect();
    any |= !changed.is_empty();
    out.chains.extend(changed.into_iter().map(|(name, chain)| (name, Arc::new(chain))));
    any.then_some(out)
}

fn broken_rules(chain: &str, rules: &[Rule], mistake: Mistake, kind: &str) -> Option<Vec<Rule>> {
    let mut out: Vec<Rule> = Vec::new();
    let mut any = false;
    let is = |rule: &Rule| kind_of_rule(chain, rule) == kind;
    let mut waiting: Vec<Rule> = Vec::new();
    for rule in rules {
        let mut rule = rule.clone();
        match mistake {
            LeftOut if is(&rule) => {
                any = true;
                continue;
            }
            Later if is(&rule) => {
                waiting.push(rule);
                continue;
            }
            Target if is(&rule) => any |= retarget(&mut rule),
            Idle if is(&rule) => any |= idle(&mut rule),
            Forgotten => {
                let before = rule.matches.len();
                rule.matches.retain(|one| kind_of_match(chain, one) != kind);
                any |= rule.matches.len() != before;
            }
            Negated => {
                let of = rule.matches.iter_mut().filter(|one| kind_of_match(chain, one) == kind);
                of.for_each(|one| any |= negate(one));
            }
            _ => {}
        }
        let tells = waiting.iter().any(|one| !commute(one, &rule));
        out.push(rule);
        any |= tells;
        out.append(&mut waiting);
    }
    out.append(&mut waiting);
    any.then_some(out)
}

fn retarget(rule: &mut Rule) -> bool {
    let Some(last) = rule.statements.last_mut() else { return false };
    let other = match &*last {
        Statement::Verdict(Verdict::Drop) | Statement::Reject => Verdict::Accept,
        Statement::Verdict(Verdict::Accept | Verdict::Return) => Verdict::Drop,
        Statement::Verdict(Verdict::Jump(_) | Verdict::Goto(_)) => Verdict::Accept,
        _ => return false,
    };
    *last = Statement::Verdict(other);
    true
}

/// Only the verdict is left of what marks, or translates.
fn idle(rule: &mut Rule) -> bool {
    let before = rule.statements.len();
    rule.statements.retain(|one| {
        !matches!(
            one,
            Statement::SetMark { .. }
                | Statement::Notrack
                | Statement::Dispatch { .. }
                | Statement::Dnat { .. }
                | Statement::Snat { .. }
        )
    });
    rule.statements.len() != before
}

fn negate(one: &mut Match) -> bool {
    match one {
        Match::Family(family) => {
            *family = if *family == Family::V4 { Family::V6 } else { Family::V4 };
        }
        Match::Mark { mask, value } => *value = !*value & *mask,
        Match::Protocol { not, .. }
        | Match::Address { not, .. }
        | Match::AddressAmong { not, .. }
        | Match::AddressIn { not, .. }
        | Match::Ports { not, .. }
        | Match::AddressPortIn { not, .. }
        | Match::Icmp { not, .. }
        | Match::Interface { not, .. }
        | Match::InterfaceAddressIn { not, .. }
        | Match::InterfaceIn { not, .. }
        | Match::SourceMacIn { not, .. }
        | Match::CtState { not, .. } => *not = !*not,
        Match::IcmpAmong { .. } | Match::CtDnat | Match::Limit { .. } => return false,
    }
    true
}

/// Every mistake in every kind that the worlds have.
fn mutants(worlds: &[Prepared]) -> BTreeSet<Mutant> {
    let mut out = BTreeSet::new();
    for contents in worlds.iter().map(|world| world.ruleset.contents()) {
        for (chain, rule) in
            contents.chains.iter().flat_map(|(n, c)| c.rules.iter().map(move |r| (n, r)))
        {
            let kind = kind_of_rule(chain, rule);
            out.extend([LeftOut, Later, Target, Idle].map(|mistake| (mistake, kind.clone())));
            for one in &rule.matches {
                let kind = kind_of_match(chain, one);
                out.extend([Forgotten, Negated].map(|mistake| (mistake, kind.clone())));
            }
        }
        out.extend(contents.sets.keys().map(|name| (Empty, kind_of_set(name).to_owned())));
    }
    out
}

#[test]
fn broken_objects_are_found() {
    let (count, first) = (number("CALICO_MUTANTS", 10), number("CALICO_SEED", 1));
    let (world, host) = (hosts_crafted::world(), hosts_crafted::host());
    let trips = hosts_crafted::trips(&world, &host);
    let mut worlds: Vec<Prepared> =
        [1, 2, 3, 4].map(|seed| Prepared::of_hosts(seed, &world, &host, trips.clone())).into();
    let crafted = (1..).zip(crafted::worlds());
    worlds.extend(crafted.map(|(seed, world)| Prepared::of_pods(seed, &world, 400)));
    for seed in first..first + count {
        worlds.push(Prepared::of_pods(seed, &World::random(seed), 80));
        worlds.push(Prepared::of_extras(seed));
        let (world, host) = (World::with_hosts(seed), World::host(seed));
        let trips = world.trips_of(&world.updates(), &host, seed, 160);
        worlds.push(Prepared::of_hosts(seed, &world, &host, trips));
    }
    let all: Vec<Mutant> = mutants(&worlds).into_iter().collect();
    // `None`: no world has anything that the mistake would change. What is said to mean the same has to
    // look so in some of the worlds.
    let find = |mutant: &Mutant| -> Option<bool> {
        let enough = if equivalent(mutant).is_some() { SOME } else { worlds.len() };
        let mut any = false;
        for world in worlds.iter().take(enough) {
            match world.finds(mutant) {
                Some(true) => return Some(true),
                found => any |= found.is_some(),
            }
        }
        any.then_some(false)
    };
    let (find, all) = (&find, &all);
    let found: Vec<(&Mutant, Option<bool>)> = std::thread::scope(|scope| {
        let part = move |part: usize| -> Vec<(&Mutant, Option<bool>)> {
            all.iter().skip(part).step_by(2).map(|one| (one, find(one))).collect()
        };
        let parts = [0, 1].map(|n| scope.spawn(move || part(n)));
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let mut table: BTreeMap<Mistake, [usize; 3]> = ALL.map(|one| (one, [0; 3])).into();
    let (mut unexplained, mut wrong) = (Vec::new(), Vec::new());
    for (mutant, result) in found {
        let Some(result) = result else { continue };
        let column = match (result, equivalent(mutant)) {
            (true, None) => 0,
            (false, Some(_)) => 1,
            (true, Some(_)) => {
                wrong.push(format!("{:?} {}", mutant.0, mutant.1));
                0
            }
            (false, None) => {
                unexplained.push(format!("{:?} {}", mutant.0, mutant.1));
                2
            }
        };
        table.entry(mutant.0).or_default()[column] += 1;
    }
    println!("found, said to be the same, not found: {table:?}");
    let sum = |column: usize| table.values().map(|row| row[column]).sum::<usize>();
    let (killed, same, left) = (sum(0), sum(1), sum(2));
    let all = killed + same + left;
    let worlds = worlds.len();
    println!("{worlds} worlds, {all} mutants: {killed} found, {same} the same, {left} not found");
    println!("{unexplained:#?}");
    assert!(wrong.is_empty(), "said to be the same, and found: {wrong:#?}");
    // A new kind of rule needs packets that it decides about, or a reason.
    assert!(killed * 100 >= all * 75, "{table:?}");
    assert!(left * 100 <= all * 3, "not found and not explained: {unexplained:#?}");
}
