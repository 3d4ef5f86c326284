//! Which chains of policies and profiles are used, in which table and direction: what nothing jumps
//! to is not programmed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use calico_datastore::model::{Name, PolicyId};

use super::save::Table;
use crate::desired::{AclClass, Change, DesiredDiff, DesiredState, DirectionAcl, TierAcl};
use crate::felix::hosts::choose::Chosen;
use crate::felix::ruleset::Direction;

/// What has rules of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A policy.
    Policy(PolicyId),
    /// A profile.
    Profile(Name),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(id) => write!(f, "policy {id}"),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

/// Where a chain is needed.
pub type Place = (Table, Direction);

/// Who uses what. Endpoints of pods are many, and counted class by class; host endpoints are few.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    pods: BTreeMap<Subject, BTreeMap<Direction, u32>>,
    hosts: BTreeMap<Subject, BTreeSet<Place>>,
}

impl Uses {
    /// What a state uses.
    pub fn of(state: &DesiredState, chosen: &Chosen) -> Self {
        let mut uses = Self { hosts: hosts(state, chosen), ..Self::default() };
        for class in state.classes.values() {
            uses.count(class, true, &mut BTreeSet::new());
        }
        uses
    }

    /// Where the chains of a subject are needed.
    pub fn places(&self, subject: &Subject) -> BTreeSet<Place> {
        let pods = self.pods.get(subject).into_iter().flat_map(BTreeMap::keys);
        let pods = pods.map(|direction| (Table::Filter, *direction));
        pods.chain(self.hosts.get(subject).into_iter().flatten().copied()).collect()
    }

    /// Everything that is used.
    pub fn subjects(&self) -> BTreeSet<&Subject> {
        self.pods.keys().chain(self.hosts.keys()).collect()
    }

    /// Takes over a changed state. `chosen`: the host endpoints, when anything of them changed.
    /// Returns the subjects that may be used elsewhere than before.
    pub fn update(
        &mut self,
        state: &DesiredState,
        diff: &DesiredDiff,
        chosen: Option<&Chosen>,
    ) -> BTreeSet<Subject> {
        let mut touched = BTreeSet::new();
        // What comes before what goes: a policy that moves between classes is used throughout.
        for (_, change) in &diff.classes {
            if let Change::Added(class) | Change::Updated { new: class, .. } = change {
                self.count(class, true, &mut touched);
            }
        }
        for (_, change) in &diff.classes {
            if let Change::Removed(class) | Change::Updated { old: class, .. } = change {
                self.count(class, false, &mut touched);
            }
        }
        if let Some(chosen) = chosen {
            let old = std::mem::replace(&mut self.hosts, hosts(state, chosen));
            let both = old.keys().chain(self.hosts.keys());
            touched.extend(
                both.filter(|subject| old.get(subject) != self.hosts.get(subject)).cloned(),
            );
        }
        touched
    }

    /// Counts a class, or no more; notes what is used for the first time, or no more.
    fn count(&mut self, class: &AclClass, used: bool, touched: &mut BTreeSet<Subject>) {
        // The endpoints of an inactive one are in no set: it has no chains.
        if !class.active {
            return;
        }
        for (direction, DirectionAcl { tiers, profiles }) in
            [(Direction::Ingress, &class.ingress), (Direction::Egress, &class.egress)]
        {
            let policies = tiers.iter().flat_map(|tier| &tier.policies).cloned();
            let profiles = profiles.iter().cloned().map(Subject::Profile);
            for subject in policies.map(Subject::Policy).chain(profiles) {
                let counts = self.pods.entry(subject.clone()).or_default();
                let count = counts.entry(direction).or_default();
                *count = if used { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    counts.remove(&direction);
                    if counts.is_empty() {
                        self.pods.remove(&subject);
                    }
                    touched.insert(subject);
                } else if *count == 1 {
                    touched.insert(subject);
                }
            }
        }
    }
}

/// What the host endpoints in force use.
fn hosts(state: &DesiredState, chosen: &Chosen) -> BTreeMap<Subject, BTreeSet<Place>> {
    let mut out = BTreeMap::<Subject, BTreeSet<Place>>::new();
    let mut add = |table: Table, direction: Direction, tiers: &[TierAcl]| {
        for policy in tiers.iter().flat_map(|tier| &tier.policies) {
            out.entry(Subject::Policy(policy.clone())).or_default().insert((table, direction));
        }
    };
    let endpoints = chosen.endpoints();
    let endpoints: Vec<_> =
        endpoints.filter_map(|(_, id)| state.host_endpoints.endpoints.get(id)).collect();
    for endpoint in &endpoints {
        for tiers in [&endpoint.normal, &endpoint.forward] {
            add(Table::Filter, Direction::Ingress, &tiers.ingress);
            add(Table::Filter, Direction::Egress, &tiers.egress);
        }
        // Of what the host sends to an address that is translated the way out is known only there.
        add(Table::Mangle, Direction::Egress, &endpoint.normal.egress);
        add(Table::Mangle, Direction::Ingress, &endpoint.pre_dnat);
        add(Table::Raw, Direction::Ingress, &endpoint.untracked.ingress);
        add(Table::Raw, Direction::Egress, &endpoint.untracked.egress);
    }
    for profile in endpoints.iter().flat_map(|endpoint| &endpoint.profiles) {
        out.entry(Subject::Profile(profile.clone())).or_default().extend([
            (Table::Filter, Direction::Ingress),
            (Table::Filter, Direction::Egress),
            (Table::Mangle, Direction::Egress),
        ]);
    }
    out
}
