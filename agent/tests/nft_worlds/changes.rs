//! What a change makes of the table is what making it anew would: in random walks from state to state,
//! through worlds that lose objects and get them back, with sets that grow out of their shapes.
//!
//! `CALICO_WALKS` = how many walks (150), `CALICO_SEED` = the first one.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::{AddressSet, DesiredState, LocalEndpoint, Member, SetId, SetKind};
use calico_agent::felix::iptables::uses::Subject;
use calico_agent::felix::nftables::contents::Contents;
use calico_agent::felix::nftables::object::{
    Change, Element, Match, Name, Rule, Statement, Verdict,
};
use calico_agent::felix::nftables::render::{Options, Renderer, Steps, names};
use calico_agent::felix::scene::Stage;
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Cidr, Mac};
use calico_worlds::{Chance, World};

use crate::number;
use crate::subject::settings;

/// States of each walk.
const STEPS: usize = 12;

fn one_of(chance: &mut Chance, n: usize) -> bool {
    chance.below(n) == 0
}

fn prefix(chance: &mut Chance) -> Cidr {
    let bits = chance.below(1 << 12) as u128;
    if one_of(chance, 2) {
        let len = [0, 1, 7, 8, 16, 20, 24, 28, 32, 32, 32, 32][chance.below(12)];
        let bits = ((bits & 0xf) << 28 | bits >> 4) as u32;
        Cidr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), len).unwrap()
    } else {
        let len = [0, 1, 8, 64, 96, 128, 128, 128][chance.below(8)];
        let bits = (bits & 0xf) << 124 | bits >> 4;
        Cidr::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), len).unwrap()
    }
}

/// The next state of a walk: the world without some of its objects, and what no world draws.
pub(crate) fn state(world: &World, settings: &Arc<Settings>, chance: &mut Chance) -> DesiredState {
    let mut world = world.clone();
    let lost = chance.below(3) * 3;
    world.objects.retain(|_, _| lost == 0 || !one_of(chance, 12 / lost));
    let mut calculator = Calculator::new(world.node.clone());
    calculator.apply(world.updates());
    let mut state = DesiredState::clone(&calculator.desired(Arc::clone(settings), 1));
    for n in 0..4_u8 {
        if one_of(chance, 2) {
            let pool = format!("10.65.{n}.0/24").parse().unwrap();
            state.pools.insert(pool, one_of(chance, 2));
            state.pools.insert(format!("fd65:{n}::/64").parse().unwrap(), one_of(chance, 3));
        }
    }
    for (id, endpoint) in state.endpoints.clone() {
        let mut endpoint = LocalEndpoint::clone(&endpoint);
        if one_of(chance, 2) {
            endpoint.mac = Some(Mac::new([2, 0, 0, 0, 0, chance.below(3) as u8]));
        }
        if one_of(chance, 6) {
            endpoint.addresses.push(prefix(chance));
        }
        state.endpoints.insert(id, Arc::new(endpoint));
    }
    for sets in [&mut state.sets, &mut state.host_endpoints.sets] {
        for (id, mut set) in sets.clone() {
            if set.kind == SetKind::Net && one_of(chance, 2) {
                for _ in 0..chance.below(8) {
                    set.members.insert(Member::Net(prefix(chance)));
                }
                sets.insert(id, set);
            }
        }
    }
    // What both need is the same.
    for (id, set) in state.sets.clone() {
        if state.host_endpoints.sets.contains_key(&id) {
            state.host_endpoints.sets.insert(id, set);
        }
    }
    state
}

/// Everything that is named is there.
fn assert_sound(contents: &Contents, what: &str) {
    let chain =
        |name: &Name| assert!(contents.chains.contains_key(name), "{what}: no chain {name}");
    let set = |name: &Name| assert!(contents.sets.contains_key(name), "{what}: no set {name}");
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Jump(to) | Verdict::Goto(to) => chain(to),
        Verdict::Accept | Verdict::Drop | Verdict::Return => {}
    };
    for rule in contents.chains.values().flat_map(|chain| &chain.rules) {
        for one in &rule.matches {
            match one {
                Match::AddressIn { set: name, .. }
                | Match::AddressPortIn { set: name, .. }
                | Match::InterfaceAddressIn { set: name, .. }
                | Match::InterfaceIn { set: name, .. }
                | Match::SourceMacIn { set: name, .. } => set(name),
                _ => {}
            }
        }
        for statement in &rule.statements {
            match statement {
                Statement::Dispatch { map, .. } => set(map),
                Statement::Verdict(to) => verdict(to),
                _ => {}
            }
        }
    }
    for element in contents.sets.values().flat_map(|set| set.elements.iter()) {
        if let Element::Group(_, to) | Element::Named(_, to) = &element {
            verdict(to);
        }
    }
}

/// A packet in the old rules may find the way to a chain that has no rules yet. Then the drop behind the
/// map is next; and whoever comes to a chain that has rules does not come back.
fn assert_falls_back(contents: &Contents, what: &str) {
    let last = |name: &Name| {
        let rule = contents.chains[name].rules.last().filter(|rule| rule.matches.is_empty());
        rule.and_then(|rule| rule.statements.last().cloned())
    };
    let drops = |end: Option<Statement>| match end {
        Some(Statement::Verdict(Verdict::Goto(to))) => crate::kinds::drops(&to),
        end => matches!(end, Some(Statement::Verdict(Verdict::Drop) | Statement::Reject)),
    };
    for map in [names::FROM, names::TO] {
        for element in contents.sets[map].elements.iter() {
            let (Element::Group(_, to) | Element::Named(_, to)) = &element else {
                panic!("{what}: {element:?}")
            };
            let Verdict::Jump(class) = to else { panic!("{what}: {element:?}") };
            let end = last(class);
            let ends = drops(end.clone())
                || matches!(end, Some(Statement::Verdict(Verdict::Accept | Verdict::Goto(_))));
            assert!(ends, "{what}: {class} ends with {end:?}");
        }
        let asks = |rule: &Rule| {
            let here = |one: &Statement| matches!(one, Statement::Dispatch { map: of, .. } if **of == *map);
            rule.statements.iter().any(here)
        };
        let asking = contents.chains.iter().filter(|(_, chain)| chain.rules.iter().any(asks));
        let asking: Vec<_> = asking.collect();
        assert_eq!(asking.len(), 1, "{what}: {map}");
        for (name, chain) in asking {
            let behind = chain.rules.iter().position(asks).unwrap() + 1;
            assert_eq!(behind, chain.rules.len() - 1, "{what}: {name}");
            assert!(drops(last(name)), "{what}: {name}");
        }
    }
}

/// The sets of rules that a chain asks, and all that it leads to.
fn asked(contents: &Contents, chain: &Name, out: &mut BTreeSet<Name>, seen: &mut BTreeSet<Name>) {
    let Some(held) = contents.chains.get(chain).filter(|_| seen.insert(chain.clone())) else {
        return;
    };
    for rule in &held.rules {
        for one in &rule.matches {
            if let Match::AddressIn { set, .. } | Match::AddressPortIn { set, .. } = one {
                out.insert(set.clone());
            }
        }
        for one in &rule.statements {
            if let Statement::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) = one {
                asked(contents, to, out, seen);
            }
        }
    }
}

/// A packet that is in rules which become others finds no member more or less in the sets that they ask.
/// Returns how many sets could have been such.
fn assert_apart(before: &Contents, now: &[Change], what: &str) -> usize {
    let mut starts = BTreeSet::new();
    let mut moving = BTreeSet::new();
    for change in now {
        match change {
            Change::PutChain(name, _) => drop(starts.insert(name.clone())),
            Change::Add(map, element @ (Element::Named(_, to) | Element::Group(_, to))) => {
                let old = before.sets.get(map).and_then(|map| map.elements.verdict(element));
                if let Some(Verdict::Jump(left)) = old.filter(|old| *old != to) {
                    starts.insert(left.clone());
                }
            }
            Change::Add(set, _) | Change::Delete(set, _) => drop(moving.insert(set.clone())),
            _ => {}
        }
    }
    let (mut sets, mut seen) = (BTreeSet::new(), BTreeSet::new());
    starts.iter().for_each(|chain| asked(before, chain, &mut sets, &mut seen));
    let of_rules = |set: &&Name| set.starts_with("set4-") || set.starts_with("set6-");
    let both: Vec<_> = sets.intersection(&moving).filter(of_rules).collect();
    // One that was replaced is another.
    let there = |set: &&&Name| !now.contains(&Change::DeleteSet(Name::clone(set)));
    let odd: Vec<_> = both.iter().filter(there).collect();
    assert!(odd.is_empty(), "{what}: {odd:?} change with rules that ask them");
    let gone = |set: &&Name| now.contains(&Change::DeleteSet(Name::clone(set)));
    sets.iter().filter(gone).count()
}

/// The table as an agent left it that wrote "goto" into the maps.
fn with_goto(contents: &Contents) -> Contents {
    let mut out = contents.clone();
    let old = |to| match to {
        Verdict::Jump(to) => Verdict::Goto(to),
        other => other,
    };
    for map in [names::FROM, names::TO] {
        let elements = &mut out.sets.get_mut(map).unwrap().elements;
        *elements = elements
            .iter()
            .map(|element| match element {
                Element::Group(group, to) => Element::Group(group, old(to)),
                Element::Named(name, to) => Element::Named(name, old(to)),
                other => other,
            })
            .collect();
    }
    out
}

/// No object is named twice, but what is replaced, and no element comes and goes.
fn assert_tidy(changes: &[Change]) {
    let mut keys = HashMap::new();
    for change in changes {
        let key = match change {
            Change::PutChain(name, _) | Change::DeleteChain(name) => (name.clone(), None),
            Change::CreateSet(name, _) | Change::DeleteSet(name) => (name.clone(), None),
            Change::Add(name, element) | Change::Delete(name, element) => {
                (name.clone(), Some(element.clone()))
            }
        };
        let before = keys.insert(key, change);
        assert!(before.is_none(), "{before:?} and {change:?}");
    }
}

#[derive(Debug, Default)]
struct Counts {
    changes: usize,
    chains: usize,
    after: usize,
    nothing: usize,
    ranges: usize,
    apart: usize,
}

fn walk(seed: u64, counts: &mut Counts) {
    let mut chance = Chance::new(seed);
    let world = match seed % 3 {
        0 => World::random(seed),
        1 => World::with_hosts(seed),
        _ => World::with_extras(seed),
    };
    let mut of = Settings::clone(&settings(seed));
    (of.source_spoofing, of.floating_ips) = (seed % 3 == 2, seed % 3 == 2);
    of.denied_log = seed % 5 == 1;
    let of = Arc::new(of);
    let options = Options { groups: seed % 4 != 1, random_fully: true };
    let mut renderer = Renderer::new(&of, options).unwrap();
    let mut stage = Stage::default();
    let mut links = Links::new();
    for (index, name) in (1..).zip(["eth0", "eth1", "lo"]) {
        links.insert(name.parse().unwrap(), Link { index, up: true, ..Link::default() });
    }
    let mut held = Contents::default();
    for step in 0..STEPS {
        let state = Arc::new(state(&world, &of, &mut chance));
        let update = stage.update(&state, &links);
        let scene = stage.scene(&state);
        let Some(changed) = update.changed() else {
            held = renderer.all(&scene);
            continue;
        };
        let Steps { now, after } = renderer.changed(&scene, changed);
        counts.apart += assert_apart(&held, &now, &format!("seed {seed}, step {step}"));
        for changes in [&now, &after] {
            assert_tidy(changes);
            assert_eq!(held.apply(changes), [], "seed {seed}, step {step}");
            assert_sound(&held, &format!("seed {seed}, step {step}"));
        }
        assert_falls_back(&held, &format!("seed {seed}, step {step}"));
        counts.changes += now.len() + after.len();
        counts.chains += now.iter().filter(|one| matches!(one, Change::PutChain(..))).count();
        counts.after += after.len();
        counts.nothing += usize::from(now.is_empty());
        counts.ranges += held.sets.keys().filter(|name| name.ends_with("/ranges")).count();
        let anew = renderer.clone().all(&scene);
        if anew != held {
            for (name, chain) in &anew.chains {
                assert_eq!(held.chains.get(name), Some(chain), "seed {seed}, step {step}: {name}");
            }
            for (name, set) in &anew.sets {
                assert_eq!(held.sets.get(name), Some(set), "seed {seed}, step {step}: {name}");
            }
            let names = |contents: &Contents| -> BTreeSet<_> {
                contents.chains.keys().chain(contents.sets.keys()).cloned().collect()
            };
            assert_eq!(names(&held), names(&anew), "seed {seed}, step {step}");
        }
        // Of the classes that there are each has a group, and nobody else.
        for (id, class) in &state.classes {
            let group = renderer.group_of(id);
            assert_eq!(group.is_some(), options.groups && class.active);
            assert!(group.is_none_or(|group| renderer.class_of(group) == Some(id)));
        }
    }
    // Another agent gives no class another group: the map says which it has, or else its interfaces.
    let scene = stage.scene(stage.state().unwrap());
    let owners = || scene.interfaces.owners().map(|(_, endpoint)| &endpoint.class);
    let links = || owners().map(|id| (renderer.group_of(id).unwrap_or(0), Some(id)));
    let empty = Contents::default();
    let older = with_goto(&held);
    for (known, map) in [(true, &held), (true, &older), (false, &empty)] {
        let mut other = Renderer::new(&of, options).unwrap();
        other.take_over(&scene, map, links().filter(|_| !known));
        other.all(&scene);
        let all = scene.state.classes.keys().filter(|_| known);
        for id in all.chain(owners()) {
            assert_eq!(other.group_of(id), renderer.group_of(id), "seed {seed}");
        }
    }
    // A policy that the kernel does not take is closed, and opened again.
    let state = Arc::clone(stage.state().unwrap());
    let scene = stage.scene(&state);
    let subjects: BTreeSet<Subject> =
        state.policies.keys().take(2).cloned().map(Subject::Policy).collect();
    let before = held.clone();
    for subjects in [subjects, BTreeSet::new()] {
        let changes = renderer.shut(&scene, subjects);
        assert_tidy(&changes);
        assert_eq!(held.apply(&changes), []);
        assert_sound(&held, "shut");
        assert_eq!(held, renderer.clone().all(&scene));
    }
    assert_eq!(held, before);
}

#[test]
fn what_a_change_makes_is_what_making_it_anew_would() {
    let (walks, first) = (number("CALICO_WALKS", 150), number("CALICO_SEED", 1));
    let mut counts = Counts::default();
    for seed in first..first + walks {
        walk(seed, &mut counts);
    }
    println!("{walks} walks of {STEPS} states: {counts:?}");
    let Counts { changes, chains, after, ranges, apart, .. } = counts;
    let enough = changes > 10_000 && chains > 1000 && after > 20 && ranges > 50 && apart > 50;
    assert!(walks < 100 || enough);
}

#[test]
fn one_more_of_many_members_is_one_change() {
    let settings = Arc::new(Settings::default());
    let options = Options { groups: true, random_fully: true };
    // A hash, and ranges.
    for lengths in [[32; 7], [32, 31, 30, 29, 28, 27, 26]] {
        let mut renderer = Renderer::new(&settings, options).unwrap();
        let mut stage = Stage::default();
        let net = |n: u32| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 | n << 6);
            Member::Net(Cidr::new(address.into(), lengths[n as usize % 7]).unwrap())
        };
        let members = (0..100_000).map(net).collect();
        let id = SetId::new("s:many");
        let set = AddressSet { kind: SetKind::Net, selector: Arc::from("all()"), members };
        let mut state = DesiredState::default();
        state.sets.insert(id.clone(), set.clone());
        let mut state = Arc::new(state);
        stage.update(&state, &Links::new());
        let held = renderer.all(&stage.scene(&state));
        let count: usize = held.sets.values().map(|set| set.elements.len()).sum();
        assert_eq!(count, 100_000);
        let mut best = Duration::MAX;
        for n in 0..6_u32 {
            let mut next = DesiredState::clone(&state);
            let mut more = next.sets[&id].clone();
            match n % 2 {
                0 => more.members.insert(net(200_000)),
                _ => more.members.remove(&net(200_000)),
            };
            next.sets.insert(id.clone(), more);
            state = Arc::new(next);
            let update = stage.update(&state, &Links::new());
            let start = Instant::now();
            let steps = renderer.changed(&stage.scene(&state), update.changed().unwrap());
            best = best.min(start.elapsed());
            assert_eq!((steps.now.len(), steps.after.len()), (1, 0), "{:?}", steps.now);
        }
        println!("one of 100,000 members: {best:?}");
        // Walking all of them takes longer by far.
        assert!(best < Duration::from_millis(3), "{best:?}");
    }
}
