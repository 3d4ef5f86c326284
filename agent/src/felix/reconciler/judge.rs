//! What became of it: problems, the states of endpoints, links.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{InterfaceName, WorkloadEndpointId};
use imbl::ordmap::DiffItem;

use super::backend::Backend;
use super::{Felix, Run};
use crate::desired::DesiredState;
use crate::felix::hosts;
use crate::felix::hosts::choose::Chosen;
use crate::felix::hosts::lifelines::{cut_off, lifelines, local_address};
use crate::reconcile::{EndpointState, HostStates, Problem, Programmed, Report, World};
use crate::routes::monitor::Links;

impl Felix {
    /// Names the external addresses that an endpoint asks for and does not have. Its state is not
    /// touched: a pod does not wait for them.
    pub(super) fn tell_externals(&self, run: &mut Run) {
        for ((id, address), why) in &self.stage.interfaces().externals().refused {
            run.problem(
                format!("endpoint {}", id.on_host()),
                format!("its external address {address} is not programmed: {why}"),
            );
        }
    }

    /// Names the endpoints that would send from other addresses and may not.
    pub(super) fn tell_honest(&self, run: &mut Run) {
        for id in self.stage.interfaces().honest() {
            run.problem(
                format!("endpoint {}", id.on_host()),
                "it may send from its own addresses only: it lists allowSpoofedSourcePrefixes, and \
                 WorkloadSourceSpoofing is Disabled",
            );
        }
    }

    /// Brings the endpoints' states up to date.
    pub(super) fn judge_endpoints(
        &mut self,
        touched: &BTreeSet<WorkloadEndpointId>,
        backend: &Backend,
        run: &Run,
    ) {
        let Some(state) = self.stage.state().cloned() else { return };
        // A refused member may be that of any endpoint, and be taken the next time.
        let refused = backend.refuses();
        let all = run.failed != self.failure || refused || self.had_refused;
        self.had_refused = refused;
        self.failure.clone_from(&run.failed);
        let ids: Vec<WorkloadEndpointId> = if all {
            self.endpoints.keys().chain(state.endpoints.keys()).cloned().collect()
        } else {
            touched.iter().cloned().collect()
        };
        for id in ids {
            let judged = self.judge(&id, &state, backend);
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

    fn judge(
        &self,
        id: &WorkloadEndpointId,
        state: &DesiredState,
        backend: &Backend,
    ) -> Option<EndpointState> {
        let endpoint = state.endpoints.get(id)?;
        if let Some(failure) = &self.failure {
            return Some(EndpointState::Error(failure.clone()));
        }
        if !endpoint.active {
            return Some(EndpointState::Down("administratively down".to_owned()));
        }
        let interface = &endpoint.interface;
        if !state.settings.is_of_pods(interface) {
            return Some(EndpointState::Error(state.settings.not_of_pods(interface)));
        }
        match self.stage.interfaces().owner(interface) {
            Some(owner) if owner == id => {}
            Some(owner) => {
                let said = format!("interface {interface} belongs to {owner}");
                return Some(EndpointState::Error(said));
            }
            None => return Some(EndpointState::Error("its class is not programmed".to_owned())),
        }
        if let Some(refusal) = backend.refusal(endpoint) {
            return Some(EndpointState::Error(refusal));
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
        if self.stage.chosen().is_empty() {
            (self.cut_off, self.cut_off_of) = (Vec::new(), None);
        } else if !self.cut_off_of.as_ref().is_some_and(same) {
            let lines = lifelines(&self.datastore, state);
            self.cut_off = cut_off(state, self.stage.chosen(), &self.links, &lines, local_address);
            self.cut_off_of = Some((Arc::clone(state), self.links.clone()));
        }
        run.problems.extend(self.cut_off.iter().cloned());
        run.problems.extend(hosts::judge::problems(state, self.stage.chosen(), &self.links));
        hosts::judge::judge(state, self.stage.chosen(), &self.links, self.failure.as_deref())
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
            touched.extend(self.stage.interfaces().claimants(name).cloned());
        }
        self.links = links.clone();
        (appeared, touched)
    }

    /// What nothing can be done about now.
    pub(super) fn helpless(&mut self, world: &World, subject: &str, message: String) -> Report {
        self.stage.forget();
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
