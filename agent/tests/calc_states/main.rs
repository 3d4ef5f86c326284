//! The original's own calculation cases: states of the datastore with the endpoints, policies,
//! profiles and address sets that must follow from them, alone and in sequences.
//!
//! Read in place from the directory that `CALICO_SHARED` names; skipped aloud without it. All
//! states of 2.6 run. Of 3.32 those about what this agent does not do are left out by name, and
//! the numbers of states and sequences that run are asserted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test, which clippy does not take for tests"
)]

mod outcome;
mod state;
mod v1;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::DesiredState;
use calico_datastore::model::{Name, Update};
use serde_json::Value;

use outcome::{Outcome, expected, outcome};
use state::{Objects, list, objects, text};

struct Case {
    objects: Objects,
    expected: Outcome,
}

/// Why states of a file are left out: reason → names.
type LeftOut = BTreeMap<String, Vec<String>>;

/// How updates that lead from one state to the next come.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Deletions first, then by key.
    ByKey,
    /// The other way round.
    Reversed,
    /// By chance, the same at each run.
    Shuffled(u64),
}

const ORDERS: [Order; 6] = [
    Order::ByKey,
    Order::Reversed,
    Order::Shuffled(1),
    Order::Shuffled(2),
    Order::Shuffled(3),
    Order::Shuffled(4),
];

/// How updates are portioned.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Portions {
    /// A batch for each state.
    State,
    /// A batch for each object. What is between two states has no expectation of its own, and must
    /// be what a new calculator makes of it.
    Object,
}

impl Order {
    fn arrange<T>(self, items: &mut [T]) {
        match self {
            Self::ByKey => {}
            Self::Reversed => items.reverse(),
            Self::Shuffled(seed) => {
                // Knuth's generator: all that matters is that the order is another one.
                let mut number = seed;
                for at in (1..items.len()).rev() {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    items.swap(at, (number >> 33) as usize % (at + 1));
                }
            }
        }
    }
}

/// The updates that lead from one state to another.
fn delta(old: &Objects, new: &Objects) -> Vec<Update> {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    let gone = gone.map(|(_, (id, _))| Update::deleted(id.clone()));
    let other = new.iter().filter(|(key, object)| old.get(*key) != Some(object));
    gone.chain(other.map(|(_, (_, update))| update.clone())).collect()
}

/// The host whose state is calculated.
struct Host<'a> {
    name: &'a str,
    settings: Arc<Settings>,
}

/// A calculator and what it was told.
struct Walker {
    calculator: Calculator,
    host: Name,
    settings: Arc<Settings>,
    told: BTreeMap<String, Update>,
}

impl Walker {
    fn new(host: &str, settings: &Arc<Settings>) -> Self {
        Self {
            calculator: Calculator::new(host.into()),
            host: host.into(),
            settings: Arc::clone(settings),
            told: BTreeMap::new(),
        }
    }

    fn tell(&mut self, updates: Vec<Update>) -> Arc<DesiredState> {
        for update in &updates {
            let id = update.id();
            if *update == Update::deleted(id.clone()) {
                self.told.remove(&id.to_string());
            } else {
                self.told.insert(id.to_string(), update.clone());
            }
        }
        self.calculator.apply(updates);
        self.calculator.desired(Arc::clone(&self.settings), 0)
    }

    /// What a calculator that knows nothing of the way makes of the same objects.
    fn anew(&self) -> Arc<DesiredState> {
        let mut calculator = Calculator::new(self.host.clone());
        calculator.apply(self.told.values().cloned());
        calculator.desired(Arc::clone(&self.settings), 0)
    }
}

/// Goes from state to state and compares at each; at the end to nothing.
fn walk(host: &Host<'_>, path: &[&Case], order: Order, portions: Portions, what: &str) {
    let mut walker = Walker::new(host.name, &host.settings);
    let empty = Case { objects: Objects::new(), expected: Outcome::default() };
    let mut at = &empty;
    for (step, case) in path.iter().copied().chain([&empty]).enumerate() {
        let mut updates = delta(&at.objects, &case.objects);
        order.arrange(&mut updates);
        if portions == Portions::Object {
            for update in std::mem::take(&mut updates) {
                let state = walker.tell(vec![update]);
                let anew = walker.anew();
                assert!(
                    state.has_content_of(&anew),
                    "{what}, {order:?}, in step {step}: {state:#?}\n{anew:#?}"
                );
            }
        }
        let state = walker.tell(updates);
        assert_eq!(outcome(&state), case.expected, "{what}, {order:?} {portions:?}, step {step}");
        at = case;
    }
}

/// The states of a path in one batch: only the last version of each object counts.
fn squash(host: &Host<'_>, path: &[&Case], order: Order, what: &str) {
    let Some(last) = path.last() else { return };
    let empty = Objects::new();
    let mut at = &empty;
    let mut all = Vec::new();
    for case in path {
        let mut updates = delta(at, &case.objects);
        order.arrange(&mut updates);
        all.extend(updates);
        at = &case.objects;
    }
    let state = Walker::new(host.name, &host.settings).tell(all);
    assert_eq!(outcome(&state), last.expected, "{what}, squashed, {order:?}");
}

/// Everything that the original does with a path of states, and every order.
fn explore(host: &Host<'_>, path: &[&Case], what: &str) {
    let empty = Case { objects: Objects::new(), expected: Outcome::default() };
    let backwards: Vec<&Case> = path.iter().rev().copied().collect();
    let apart: Vec<&Case> = path.iter().flat_map(|case| [*case, &empty]).collect();
    for order in ORDERS {
        for (path, how) in [(path, "forwards"), (&backwards, "backwards"), (&apart, "apart")] {
            let what = format!("{what} {how}");
            walk(host, path, order, Portions::State, &what);
            walk(host, path, order, Portions::Object, &what);
            squash(host, path, order, &what);
        }
    }
}

/// Puts right the states that contradict themselves: the policies of some were written down after a
/// later state had changed the tier of the same object, so that a policy names another tier than
/// the one that it is expected in. True when there was such a policy.
fn mend(objects: &mut Objects, expected: &Outcome) -> bool {
    let mut mended = false;
    for (_, update) in objects.values_mut() {
        let Update::Policy(id, Some(policy)) = update else { continue };
        let named = policy.tier.as_ref().map_or("default", Name::as_str);
        let endpoints = expected.endpoints.values();
        let tiers = endpoints.flat_map(|e| e.normal.iter().chain(&e.untracked).chain(&e.pre_dnat));
        let mut places = tiers.filter(|tier| {
            tier.ingress.iter().chain(&tier.egress).any(|policy| *policy == id.name.as_str())
        });
        if let Some(place) = places.next().filter(|place| place.name != named) {
            Arc::make_mut(policy).tier = Some(place.name.as_str().into());
            mended = true;
        }
    }
    mended
}

/// What came of a file.
#[derive(Debug, Default, PartialEq)]
struct Replayed {
    states: usize,
    sequences: usize,
    /// Of those states, the ones that contradicted themselves: see [`mend`].
    mended: usize,
    left_out: LeftOut,
}

/// Replays a file of a version; `None`: of one that has no tiers and no calicoVersion.
fn replay(file: &str, version: Option<&str>) -> Option<Replayed> {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let bytes = std::fs::read(Path::new(&shared).join("cases").join(file)).unwrap();
    let file: Value = serde_json::from_slice(&bytes).unwrap();
    let calico_version = version.map(|version| version.parse().unwrap());
    let settings = Arc::new(Settings { calico_version, ..Settings::default() });
    let host = &Host { name: text(&file["local_hostname"]), settings };
    let mut replayed = Replayed::default();
    let mut cases = BTreeMap::new();
    for (name, state) in file["states"].as_object().unwrap() {
        let expected = expected(state, &file["ipset_ids"]);
        let objects = match version {
            Some(_) => objects(state),
            None => Ok(v1::objects(state)),
        };
        match objects {
            Ok(mut objects) => {
                replayed.mended += usize::from(mend(&mut objects, &expected));
                cases.insert(name.as_str(), Case { objects, expected });
            }
            Err(reason) => replayed.left_out.entry(reason).or_default().push(name.clone()),
        }
    }
    for (name, case) in &cases {
        explore(host, &[case], name);
        replayed.states += 1;
    }
    for sequence in list(&file["sequences"]) {
        let path: Option<Vec<&Case>> = list(sequence).map(|name| cases.get(text(name))).collect();
        let Some(path) = path else { continue };
        explore(host, &path, &sequence.to_string());
        replayed.sequences += 1;
    }
    println!("{replayed:#?}");
    Some(replayed)
}

/// As they are stored: each state is written down in the v1 layout and read by it.
#[test]
fn the_states_of_felix_2_6() {
    let Some(replayed) = replay("calc-states-2.6.8.json", None) else { return };
    let all = Replayed { states: 31, sequences: 17, ..Replayed::default() };
    assert_eq!(replayed, all);
}

/// Sets of the addresses behind a Kubernetes service.
const KUBERNETES_SERVICES: &[&str] = &[
    "endpointSlice2OnlyActiveNewIPs2",
    "endpointSliceActive",
    "endpointSliceActiveNewIPs",
    "endpointSliceActiveNewIPs2",
    "endpointSliceActiveSpecNoPorts",
    "endpointSliceActiveSpecPortsAndNoPorts",
    "endpointSliceAndLocalWorkload",
    "endpointSliceOverlap",
];
/// The set of the pods that Istio's mesh takes in, by labels of Kubernetes namespaces.
const KUBERNETES_PROFILES: &[&str] =
    &["istioSelectorEdgeCases", "istioWithAmbientPod", "istioWithMixedPods"];

#[test]
fn the_states_of_felix_3_32() {
    let Some(replayed) = replay("calc-states-3.32.1.json", Some("3.32.1")) else { return };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let left_out = LeftOut::from([
        ("Kubernetes services".to_owned(), names(KUBERNETES_SERVICES)),
        ("profiles made from Kubernetes objects".to_owned(), names(KUBERNETES_PROFILES)),
    ]);
    assert_eq!(replayed, Replayed { states: 133, sequences: 75, mended: 18, left_out });
}
