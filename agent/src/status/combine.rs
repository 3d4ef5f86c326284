//! One state per endpoint out of what each reconciler says about it. Pure.

use std::collections::BTreeSet;

use calico_datastore::model::WorkloadEndpointId;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::reconcile::EndpointState;

/// The state of each endpoint. Clones share their structure.
pub type States = OrdMap<WorkloadEndpointId, EndpointState>;

/// What several reconcilers say, and what follows from it.
///
/// An endpoint is up when *every* reconciler that cares for endpoints says so; a reconciler that
/// has not spoken about it yet holds it down. Else the worst counts: error, then down.
#[derive(Clone, Debug)]
pub struct Combined {
    parts: Vec<(&'static str, States)>,
    states: States,
}

impl Combined {
    /// For the reconcilers of these names: all those that report endpoints.
    pub fn new(reporters: &[&'static str]) -> Self {
        let parts = reporters.iter().map(|name| (*name, States::new())).collect();
        Self { parts, states: States::new() }
    }

    /// The state of each endpoint that any reconciler knows.
    pub fn states(&self) -> &States {
        &self.states
    }

    /// Takes over what `reporter` says now; returns the endpoints whose state changed. Costs what
    /// changed, not what exists. What an unknown reporter says does not count.
    pub fn update(&mut self, reporter: &str, now: &States) -> Vec<WorkloadEndpointId> {
        let Some((_, part)) = self.parts.iter_mut().find(|(name, _)| *name == reporter) else {
            return vec![];
        };
        let touched: BTreeSet<_> = part
            .diff(now)
            .map(|item| match item {
                DiffItem::Add(id, _) | DiffItem::Remove(id, _) => id.clone(),
                DiffItem::Update { new: (id, _), .. } => id.clone(),
            })
            .collect();
        *part = now.clone();
        let mut changed = vec![];
        for id in touched {
            let state = self.judge(&id);
            if self.states.get(&id) == state.as_ref() {
                continue;
            }
            match state {
                Some(state) => self.states.insert(id.clone(), state),
                None => self.states.remove(&id),
            };
            changed.push(id);
        }
        changed
    }

    /// True when every reconciler has spoken about it; until then its state is one of waiting.
    pub fn is_judged(&self, id: &WorkloadEndpointId) -> bool {
        self.parts.iter().all(|(_, part)| part.contains_key(id))
    }

    /// `None`: no reconciler knows it.
    fn judge(&self, id: &WorkloadEndpointId) -> Option<EndpointState> {
        let said: Vec<_> = self.parts.iter().map(|(name, part)| (name, part.get(id))).collect();
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

    fn states<const N: usize>(entries: [(&str, EndpointState); N]) -> States {
        entries.into_iter().map(|(workload, state)| (id(workload), state)).collect()
    }

    #[test]
    fn up_needs_everybody() {
        let mut combined = Combined::new(&["iptables", "routes"]);
        assert_eq!(combined.update("iptables", &states([("a", Up)])), [id("a")]);
        assert_eq!(combined.states().get(&id("a")), Some(&Down("waiting for routes".to_owned())));
        assert_eq!(combined.update("routes", &states([("a", Up), ("b", Up)])), [id("a"), id("b")]);
        assert_eq!(combined.states().get(&id("a")), Some(&Up));
        assert_ne!(combined.states().get(&id("b")), Some(&Up));
        // Somebody else's word does not count, and the same word changes nothing.
        assert_eq!(combined.update("bird", &states([("b", Up)])), []);
        assert_eq!(combined.update("iptables", &states([("a", Up)])), []);
        // One that lets go holds it down; when all let go it is gone.
        assert_eq!(combined.update("routes", &states([])), [id("a"), id("b")]);
        assert_ne!(combined.states().get(&id("a")), Some(&Up));
        assert_eq!(combined.update("iptables", &states([])), [id("a")]);
        assert!(combined.states().is_empty());
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
