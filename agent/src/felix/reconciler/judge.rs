//! What became of it: problems, the states of endpoints, links.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};
use imbl::ordmap::DiffItem;

use super::{Felix, Run};
use crate::desired::DesiredState;
use crate::felix::hosts;
use crate::felix::hosts::choose::Chosen;
use crate::felix::hosts::lifelines::{cut_off, lifelines, local_address};
use crate::felix::ipset::{Command, Entry};
use crate::felix::iptables::names;
use crate::felix::iptables::save::Table;
use crate::felix::iptables::tables::Outcome;
use crate::felix::ruleset::Direction;
use crate::reconcile::{EndpointState, HostStates, Problem, Programmed, Report, World};
use crate::routes::monitor::Links;
use crate::telemetry::chain;

impl Felix {
    /// Notes what became of the tables. Returns the families whose policy is in force.
    pub(super) fn judge_tables(
        &mut self,
        outcomes: Vec<(Family, Outcome)>,
        run: &mut Run,
    ) -> BTreeSet<Family> {
        let mut in_force = BTreeSet::new();
        for (family, outcome) in outcomes {
            in_force.insert(family);
            run.wrote_tables |= outcome.wrote;
            run.drift.extend(outcome.drift);
            self.moved.extend(outcome.moved);
            if outcome.was_open {
                self.unasked.insert(family);
            }
            if outcome.was_untranslated {
                self.untranslated.insert(family);
            }
            let off = self.families.iter().any(|one| one.family == family && one.renderer.is_off());
            for (table, error) in outcome.failed {
                if off {
                    let said = format!(
                        "{family} is switched off, but packets of pods are not dropped: {}",
                        chain(&error)
                    );
                    run.problem(format!("{family} table {}", table.name()), said);
                    continue;
                }
                // The others hold policies as well when there are host endpoints.
                let polices =
                    table == Table::Filter || (table != Table::Nat && !self.chosen.is_empty());
                if polices {
                    in_force.remove(&family);
                }
                run.fail(&format!("{family} table {}", table.name()), chain(&error));
            }
            run.refused_chains |= !outcome.refused.is_empty();
            for (chain, said) in outcome.refused {
                let subject = self.subject_of(&chain).unwrap_or(chain);
                run.problem(
                    subject,
                    format!("the kernel refuses its {family} rules; it drops everything: {said}"),
                );
            }
            for (chain, said) in outcome.stuck {
                run.problem(
                    format!("chain {chain}"),
                    format!("cannot be deleted from the {family} tables: {said}"),
                );
            }
        }
        in_force
    }

    /// Names the external addresses that an endpoint asks for and does not have. Its state is not
    /// touched: a pod does not wait for them.
    pub(super) fn tell_externals(&self, run: &mut Run) {
        for ((id, address), why) in &self.interfaces.externals().refused {
            run.problem(
                format!("endpoint {id}"),
                format!("its external address {address} is not programmed: {why}"),
            );
        }
    }

    /// Names the endpoints that would send from other addresses and may not.
    pub(super) fn tell_honest(&self, run: &mut Run) {
        for id in self.interfaces.honest() {
            run.problem(
                format!("endpoint {id}"),
                "it may send from its own addresses only: it lists allowSpoofedSourcePrefixes, and \
                 WorkloadSourceSpoofing is Disabled",
            );
        }
    }

    /// The policy or profile that a chain was made of.
    pub(super) fn subject_of(&self, chain: &str) -> Option<String> {
        let state = self.rendered.as_ref()?;
        let hosts = &state.host_endpoints;
        let policies =
            state.policies.keys().chain(hosts.policies.keys()).flat_map(|id| {
                Direction::ALL.map(|d| (names::policy(id, d), format!("policy {id}")))
            });
        let profiles = state.profiles.keys().chain(hosts.profiles.keys()).flat_map(|name| {
            Direction::ALL.map(|d| (names::profile(name, d), format!("profile {name}")))
        });
        policies.chain(profiles).find(|(name, _)| name == chain).map(|(_, subject)| subject)
    }

    /// Brings the endpoints' states up to date.
    pub(super) fn judge_endpoints(&mut self, touched: &BTreeSet<WorkloadEndpointId>, run: &Run) {
        let Some(state) = self.rendered.clone() else { return };
        // A refused member may be that of any endpoint, and be taken the next time.
        let refused = !self.refused.is_empty();
        let all = run.failed != self.failure || refused || self.had_refused;
        self.had_refused = refused;
        self.failure.clone_from(&run.failed);
        let ids: Vec<WorkloadEndpointId> = if all {
            self.endpoints.keys().chain(state.endpoints.keys()).cloned().collect()
        } else {
            touched.iter().cloned().collect()
        };
        for id in ids {
            let judged = self.judge(&id, &state);
            let endpoint = state.endpoints.get(&id);
            let up = endpoint.filter(|_| judged == Some(EndpointState::Up));
            let now = up.and_then(|endpoint| {
                let link = self.links.get(&endpoint.interface)?;
                Some(Programmed::new(endpoint, &state, link.index))
            });
            Programmed::note(&mut self.in_force, &id, now);
            match judged {
                Some(judged) => self.endpoints.insert(id, judged),
                None => self.endpoints.remove(&id),
            };
        }
    }

    pub(super) fn judge(
        &self,
        id: &WorkloadEndpointId,
        state: &DesiredState,
    ) -> Option<EndpointState> {
        let endpoint = state.endpoints.get(id)?;
        if let Some(failure) = &self.failure {
            return Some(EndpointState::Error(failure.clone()));
        }
        if !endpoint.active {
            return Some(EndpointState::Down("administratively down".to_owned()));
        }
        let interface = &endpoint.interface;
        match self.interfaces.owner(interface) {
            Some(owner) if owner == id => {}
            Some(owner) => {
                let said = format!("interface {interface} belongs to {owner}");
                return Some(EndpointState::Error(said));
            }
            None => return Some(EndpointState::Error("its class is not programmed".to_owned())),
        }
        // Its own members, or the set that they belong to.
        let sets = Family::ALL.map(|family| names::class_set(family, &endpoint.class));
        let concerns = |command: &Command| match command {
            Command::Add(_, Entry::NetIface(_, at)) => at == interface,
            Command::Create(set, _) => sets.contains(set),
            _ => false,
        };
        if let Some(refused) = self.refused.iter().find(|refused| concerns(&refused.command)) {
            return Some(EndpointState::Error(refused.to_string()));
        }
        Some(match self.links.get(interface) {
            None => EndpointState::Down(format!("interface {interface} is missing")),
            Some(link) if !link.up => EndpointState::Down(format!("interface {interface} is down")),
            Some(_) => EndpointState::Up,
        })
    }

    /// The states of the host endpoints, and what is wrong with them.
    pub(super) fn judge_hosts(&mut self, state: &Arc<DesiredState>, run: &mut Run) -> HostStates {
        let same = |(of, links): &(Arc<DesiredState>, Links)| {
            Arc::ptr_eq(of, state) && links.ptr_eq(&self.links)
        };
        if self.chosen.is_empty() {
            (self.cut_off, self.cut_off_of) = (Vec::new(), None);
        } else if !self.cut_off_of.as_ref().is_some_and(same) {
            let lines = lifelines(&self.datastore, state);
            self.cut_off = cut_off(state, &self.chosen, &self.links, &lines, local_address);
            self.cut_off_of = Some((Arc::clone(state), self.links.clone()));
        }
        run.problems.extend(self.cut_off.iter().cloned());
        run.problems.extend(hosts::judge::problems(state, &self.chosen, &self.links));
        hosts::judge::judge(state, &self.chosen, &self.links, self.failure.as_deref())
    }

    /// Notes which interfaces are new, another, or gone.
    pub(super) fn follow_links(
        &mut self,
        links: &Links,
    ) -> (BTreeSet<InterfaceName>, BTreeSet<WorkloadEndpointId>) {
        let (mut appeared, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for item in self.links.diff(links) {
            let name = match item {
                DiffItem::Add(name, _) => {
                    appeared.insert(name.clone());
                    name
                }
                DiffItem::Update { old: (_, old), new: (name, new) } => {
                    if old.index != new.index || (new.up && !old.up) {
                        appeared.insert(name.clone());
                    }
                    if old.index != new.index {
                        self.kept.interfaces.remove(&old.index);
                    }
                    name
                }
                DiffItem::Remove(name, old) => {
                    self.kept.interfaces.remove(&old.index);
                    name
                }
            };
            touched.extend(self.interfaces.claimants(name).cloned());
        }
        self.links = links.clone();
        (appeared, touched)
    }

    /// What nothing can be done about now.
    pub(super) fn helpless(&mut self, world: &World, subject: &str, message: String) -> Report {
        self.rendered = None;
        let state = |_| EndpointState::Error(message.clone());
        let ids = world.desired.endpoints.keys().cloned();
        self.endpoints = ids.map(|id| (id.clone(), state(id))).collect();
        self.in_force.clear();
        self.failure = Some(message.clone());
        let hosts =
            hosts::judge::judge(&world.desired, &Chosen::default(), &world.links, Some(&message));
        Report {
            endpoints: self.endpoints.clone(),
            hosts,
            problems: vec![Problem { subject: subject.to_owned(), message }],
            facts: self.counters.facts(),
            retry: true,
            ..Report::default()
        }
    }
}
