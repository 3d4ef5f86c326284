//! One state per endpoint out of what each reconciler says about it. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::WorkloadEndpointId;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::reconcile::{EndpointState, InForce, Programmed, Report};

/// The state of each endpoint. Clones share their structure.
pub type States = OrdMap<WorkloadEndpointId, EndpointState>;

/// What several reconcilers say, and what follows from it.
///
/// An endpoint is up when *every* reconciler that cares for endpoints says so; a reconciler that
/// has not spoken about it yet holds it down. Else the worst counts: error, then down.
#[derive(Clone, Debug)]
pub struct Combined {
    parts: Vec<(&'static str, Said)>,
    states: States,
}

/// What one reconciler said last.
#[derive(Clone, Debug, Default)]
struct Said {
    states: States,
    in_force: InForce,
}

/// What a report changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Endpoints whose state is another.
    pub states: Vec<WorkloadEndpointId>,
    /// Endpoints of which [`Combined::in_force`] may be another.
    pub in_force: Vec<WorkloadEndpointId>,
}

impl Combined {
    /// For the reconcilers of these names: all those that report endpoints.
    pub fn new(reporters: &[&'static str]) -> Self {
        let parts = reporters.iter().map(|name| (*name, Said::default())).collect();
        Self { parts, states: States::new() }
    }

    /// The state of each endpoint that any reconciler knows.
    pub fn states(&self) -> &States {
        &self.states
    }

    /// What every reconciler has in force of an endpoint; `None` when one of them has nothing, or
    /// something else: one that was changed is not in force before the last of them has it.
    pub fn in_force(&self, id: &WorkloadEndpointId) -> Option<&Arc<Programmed>> {
        let mut parts = self.parts.iter().map(|(_, part)| part.in_force.get(id));
        let first = parts.next()??;
        parts.all(|other| other == Some(first)).then_some(first)
    }

    /// Takes over what `reporter` says now. Costs what changed, not what exists. What an unknown
    /// reporter says does not count.
    pub fn update(&mut self, reporter: &str, now: &Report) -> Changes {
        let mut changes = Changes::default();
        let Some((_, part)) = self.parts.iter_mut().find(|(name, _)| *name == reporter) else {
            return changes;
        };
        let judged = touched(&part.states, &now.endpoints);
        changes.in_force = touched(&part.in_force, &now.in_force).into_iter().collect();
        *part = Said { states: now.endpoints.clone(), in_force: now.in_force.clone() };
        for id in judged {
            let state = self.judge(&id);
            if self.states.get(&id) == state.as_ref() {
                continue;
            }
            match state {
                Some(state) => self.states.insert(id.clone(), state),
                None => self.states.remove(&id),
            };
            changes.states.push(id);
        }
        changes
    }

    /// True when every reconciler has spoken about it; until then its state is one of waiting.
    pub fn is_judged(&self, id: &WorkloadEndpointId) -> bool {
        self.parts.iter().all(|(_, part)| part.states.contains_key(id))
    }

    /// `None`: no reconciler knows it.
    fn judge(&self, id: &WorkloadEndpointId) -> Option<EndpointState> {
        let said: Vec<_> =
            self.parts.iter().map(|(name, part)| (name, part.states.get(id))).collect();
        if said.iter().all(|(_, state)| state.is_none()) {
            return None;
        }
        let states = said.into_iter().map(|(name, state)| match state {
            Some(state) => state.clone(),
            None => EndpointState::Down(format!("waiting for {name}")),
        });
        states.reduce(worst)
    }
}

/// The endpoints of which two maps do not say the same.
fn touched<V: Clone + PartialEq>(
    before: &OrdMap<WorkloadEndpointId, V>,
    now: &OrdMap<WorkloadEndpointId, V>,
) -> BTreeSet<WorkloadEndpointId> {
    let ids = before.diff(now).map(|item| match item {
        DiffItem::Add(id, _) | DiffItem::Remove(id, _) => id.clone(),
        DiffItem::Update { new: (id, _), .. } => id.clone(),
    });
    ids.collect()
}

/// The worse of two states; of two equally bad ones the first.
pub fn worst(a: EndpointState, b: EndpointState) -> EndpointState {
    let badness = |state: &EndpointState| match state {
        EndpointState::Up => 0,
        EndpointState::Down(_) => 1,
        EndpointState::Error(_) => 2,
    };
    if badness(&b) > badness(&a) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EndpointState::{Down, Error, Up};

    fn id(workload: &str) -> WorkloadEndpointId {
        WorkloadEndpointId {
            node: "n".into(),
            orchestrator: "cni".into(),
            workload: workload.into(),
            endpoint: "eth0".into(),
        }
    }

    fn states<const N: usize>(entries: [(&str, EndpointState); N]) -> Report {
        let endpoints = entries.into_iter().map(|(workload, state)| (id(workload), state));
        Report { endpoints: endpoints.collect(), ..Report::default() }
    }

    /// Everything up, each on the interface with that index.
    fn up<const N: usize>(entries: [(&str, u32); N]) -> Report {
        let in_force = entries.map(|(workload, device)| {
            let interface = "cali1".parse().unwrap();
            let (mac, addresses, profiles) = (None, vec![], vec![]);
            let programmed = Programmed { interface, device, mac, addresses, profiles };
            (id(workload), Arc::new(programmed))
        });
        Report {
            in_force: in_force.into_iter().collect(),
            ..states(entries.map(|(workload, _)| (workload, Up)))
        }
    }

    #[test]
    fn up_needs_everybody() {
        let mut combined = Combined::new(&["iptables", "routes"]);
        assert_eq!(combined.update("iptables", &states([("a", Up)])).states, [id("a")]);
        assert_eq!(combined.states().get(&id("a")), Some(&Down("waiting for routes".to_owned())));
        let both = states([("a", Up), ("b", Up)]);
        assert_eq!(combined.update("routes", &both).states, [id("a"), id("b")]);
        assert_eq!(combined.states().get(&id("a")), Some(&Up));
        assert_ne!(combined.states().get(&id("b")), Some(&Up));
        // Somebody else's word does not count, and the same word changes nothing.
        assert_eq!(combined.update("bird", &states([("b", Up)])), Changes::default());
        assert_eq!(combined.update("iptables", &states([("a", Up)])), Changes::default());
        // One that lets go holds it down; when all let go it is gone.
        assert_eq!(combined.update("routes", &states([])).states, [id("a"), id("b")]);
        assert_ne!(combined.states().get(&id("a")), Some(&Up));
        assert_eq!(combined.update("iptables", &states([])).states, [id("a")]);
        assert!(combined.states().is_empty());
    }

    #[test]
    fn in_force_is_what_everybody_has() {
        let mut combined = Combined::new(&["iptables", "routes"]);
        let device = |combined: &Combined| combined.in_force(&id("a")).map(|it| it.device);
        combined.update("iptables", &up([("a", 7)]));
        assert_eq!(device(&combined), None, "routes have said nothing");
        combined.update("routes", &up([("a", 7)]));
        assert_eq!(device(&combined), Some(7));
        // Made again: nothing is in force until the last one has it, and nobody's state changed.
        let changes = combined.update("routes", &up([("a", 9), ("b", 8)]));
        assert_eq!((changes.states, changes.in_force), (vec![id("b")], vec![id("a"), id("b")]));
        assert_eq!(device(&combined), None, "half of it is of the pod before");
        let changes = combined.update("iptables", &up([("a", 9)]));
        assert_eq!((changes.states, changes.in_force), (vec![], vec![id("a")]));
        assert_eq!(device(&combined), Some(9));
        assert_eq!(combined.update("iptables", &up([("a", 9)])), Changes::default());
        let down = states([("a", Down("gone".to_owned()))]);
        assert_eq!(combined.update("iptables", &down).in_force, [id("a")]);
        assert_eq!(device(&combined), None);
    }

    #[test]
    fn replay_of_the_status_combiner() {
        let Some(shared) = std::env::var_os("CALICO_SHARED") else {
            println!("skipped: CALICO_SHARED is not set");
            return;
        };
        let path = std::path::PathBuf::from(shared).join("cases/misc.json");
        let cases: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let state = |value: &serde_json::Value| match value.as_str().unwrap() {
            "up" => Up,
            "down" => Down(String::new()),
            "error" => Error(String::new()),
            other => panic!("{other}"),
        };
        let cases = cases["endpoint_status_combiner"].as_array().unwrap();
        for case in cases {
            let mut combined = Combined::new(&["v4", "v6"]);
            combined.update("v4", &states([("a", state(&case["v4"]))]));
            combined.update("v6", &states([("a", state(&case["v6"]))]));
            assert_eq!(combined.states().get(&id("a")), Some(&state(&case["combined"])), "{case}");
        }
        assert_eq!(cases.len(), 9);
    }
}
