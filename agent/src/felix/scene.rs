//! What every backend makes the kernel's objects from, and what changed of it: pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::endpoints::{InterfaceChanges, Interfaces};
use super::hosts::choose::{Chosen, choose};
use super::iptables::uses::{Subject, Uses};
use crate::desired::{Change, DesiredDiff, DesiredState};
use crate::routes::monitor::Links;

/// What objects of the kernel are made from.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// What should be.
    pub state: &'a DesiredState,
    /// The interfaces of pods.
    pub interfaces: &'a Interfaces,
    /// Which host endpoint is about which interface.
    pub chosen: &'a Chosen,
    /// Which policies and profiles are used where.
    pub uses: &'a Uses,
}

/// What changed of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// What should have been before.
    pub old: &'a DesiredState,
    /// Of the desired state.
    pub diff: &'a DesiredDiff,
    /// The interfaces of pods.
    pub interfaces: &'a InterfaceChanges,
    /// The host endpoints, or their interfaces.
    pub hosts: bool,
    /// What may be used elsewhere than before.
    pub uses: &'a BTreeSet<Subject>,
}

impl Changed<'_> {
    /// True when this policy or profile is not what it was.
    pub fn says_other(&self, subject: &Subject) -> bool {
        let (own, hosts) = (self.diff, &self.diff.hosts);
        match subject {
            Subject::Policy(id) => {
                own.policies.iter().chain(&hosts.policies).any(|(other, _)| other == id)
            }
            Subject::Profile(name) => {
                own.profiles.iter().chain(&hosts.profiles).any(|(other, _)| other == name)
            }
        }
    }
}

/// Where one scene follows the other: keeps what scenes are made of up to date.
#[derive(Debug, Default)]
pub struct Stage {
    state: Option<Arc<DesiredState>>,
    links: Links,
    interfaces: Interfaces,
    chosen: Chosen,
    uses: Uses,
}

/// What brought one scene to the next.
#[derive(Debug)]
pub struct Update {
    /// What endpoints mean to interfaces.
    pub interfaces: InterfaceChanges,
    /// What else changed; `None`: everything is to be made anew.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    old: Arc<DesiredState>,
    diff: DesiredDiff,
    hosts: bool,
    uses: BTreeSet<Subject>,
}

impl Update {
    /// What changed; `None`: everything is to be made anew.
    pub fn changed(&self) -> Option<Changed<'_>> {
        let Rest { old, diff, hosts, uses } = self.rest.as_ref()?;
        Some(Changed { old, diff, interfaces: &self.interfaces, hosts: *hosts, uses })
    }
}

impl Update {
    /// True when connections that were allowed may be denied now.
    pub fn may_deny(&self) -> bool {
        let Some(Rest { diff, .. }) = &self.rest else { return true };
        // One that is new has no connections yet, and one that goes takes them with it.
        let other = |(_, change): &(_, Change<_>)| matches!(change, Change::Updated { .. });
        diff.endpoints.iter().any(other)
            || goes(&diff.policies)
            || goes(&diff.profiles)
            || !diff.sets_changed.is_empty()
    }
}

impl Stage {
    /// The scene of a state on a host with these interfaces.
    pub fn of(state: &Arc<DesiredState>, links: &Links) -> Self {
        let mut stage = Self::default();
        stage.update(state, links);
        stage
    }

    /// The scene as the last update left it.
    pub fn scene<'a>(&'a self, state: &'a DesiredState) -> Scene<'a> {
        let Self { interfaces, chosen, uses, .. } = self;
        Scene { state, interfaces, chosen, uses }
    }

    /// What should be, if anything was said yet.
    pub fn state(&self) -> Option<&Arc<DesiredState>> {
        self.state.as_ref()
    }

    /// The interfaces of pods.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Which host endpoint is about which interface.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// The next update makes everything anew.
    pub fn forget(&mut self) {
        self.state = None;
    }

    /// Follows a state and the interfaces of the host.
    pub fn update(&mut self, state: &Arc<DesiredState>, links: &Links) -> Update {
        let old = self.state.replace(Arc::clone(state));
        let old_links = std::mem::replace(&mut self.links, links.clone());
        let diff = old.as_ref().map(|old| state.diff(old));
        let (Some(old), Some(diff)) = (old, diff.filter(|diff| !diff.settings)) else {
            let interfaces = self.interfaces.rebuild(state, links);
            self.chosen = choose(&state.host_endpoints, links, &state.settings);
            self.uses = Uses::of(state, &self.chosen);
            return Update { interfaces, rest: None };
        };
        let interfaces = self.interfaces.update(&diff.endpoints, state, links);
        let hosts = self.choose_hosts(state, &diff, links, old_links.ptr_eq(links));
        let uses = self.uses.update(state, &diff, hosts.then_some(&self.chosen));
        Update { interfaces, rest: Some(Rest { old, diff, hosts, uses }) }
    }

    /// Finds the interfaces of host endpoints again when something of them is another. True when what
    /// is made of them has to be made again.
    fn choose_hosts(
        &mut self,
        state: &DesiredState,
        diff: &DesiredDiff,
        links: &Links,
        same_links: bool,
    ) -> bool {
        let hosts = &diff.hosts;
        let none = state.host_endpoints.endpoints.is_empty() && hosts.endpoints.is_empty();
        if none || (hosts.endpoints.is_empty() && same_links) {
            return comes_or_goes(&hosts.policies) || comes_or_goes(&hosts.profiles);
        }
        let chosen = choose(&state.host_endpoints, links, &state.settings);
        let differs = chosen != self.chosen;
        self.chosen = chosen;
        differs
            || !hosts.endpoints.is_empty()
            || comes_or_goes(&hosts.policies)
            || comes_or_goes(&hosts.profiles)
    }
}

/// What was there says something else, or is no more.
fn goes<K, V>(changes: &[(K, Change<V>)]) -> bool {
    changes.iter().any(|(_, change)| !matches!(change, Change::Added(_)))
}

/// What jumps to one of these has to say something else.
fn comes_or_goes<K, V>(changes: &[(K, Change<V>)]) -> bool {
    changes.iter().any(|(_, change)| !matches!(change, Change::Updated { .. }))
}
