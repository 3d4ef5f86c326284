//! Before anything is written: which iptables, which tables, and what should be in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::Family;
use tracing::info;

use super::{Felix, OneFamily, Rendered};
use crate::config::Settings;
use crate::desired::{Change, DesiredDiff, DesiredState, SetId};
use crate::felix::hosts::choose::choose;
use crate::felix::ipset::Phases;
use crate::felix::iptables::names;
use crate::felix::iptables::probe::{Dataplane, ProbeError, probe};
use crate::felix::iptables::render::{Changed, Renderer, Scene};
use crate::felix::iptables::tables::FamilyTables;
use crate::felix::iptables::uses::Uses;
use crate::felix::sets;
use crate::routes::monitor::Links;

impl Felix {
    /// Finds the iptables to use, unless that is known.
    pub(super) async fn choose(&mut self, settings: &Settings) -> Result<Dataplane, ProbeError> {
        let wanted = settings.iptables_backend;
        if let Some((asked, dataplane)) = &self.dataplane
            && *asked == wanted
        {
            return Ok(dataplane.clone());
        }
        let probed = probe(&self.exec, wanted).await?;
        info!(dataplane = %probed.chosen, "dataplane chosen");
        if let Some((_, old)) = self.dataplane.take()
            && old.flavour != probed.chosen.flavour
        {
            // What was known is of the other tables.
            self.families.iter_mut().for_each(|family| family.tables.start_over());
        }
        self.abandoned = probed.abandoned;
        self.dataplane = Some((wanted, probed.chosen.clone()));
        Ok(probed.chosen)
    }

    /// The tables and renderers for these settings. `None` when the mark mask is too small.
    pub(super) fn set_up(&mut self, settings: &Settings, dataplane: &Dataplane) -> Option<()> {
        let mut old = std::mem::take(&mut self.families);
        for family in Family::ALL.into_iter().filter(|family| self.sysctls.has(*family)) {
            let renderer = Renderer::new(settings, family, dataplane.random_fully)?;
            let tables = match old.iter().position(|one| one.family == family) {
                Some(at) => old.swap_remove(at).tables,
                None => FamilyTables::new(family, self.counters.clone()),
            };
            self.families.push(OneFamily { family, tables, renderer });
        }
        Some(())
    }

    /// Brings what should be up to date with `state` and the interfaces; returns what that means for
    /// sets.
    pub(super) fn render(&mut self, state: &Arc<DesiredState>, links: &Links) -> Rendered {
        let old = self.rendered.replace(Arc::clone(state));
        let diff = old.as_ref().map(|old| state.diff(old));
        let (Some(old), Some(diff)) = (old, diff.filter(|diff| !diff.settings)) else {
            let before: BTreeSet<_> = self.endpoints.keys().cloned().collect();
            let mut changes = self.interfaces.rebuild(state, links);
            changes.touched.extend(before);
            self.chosen = choose(&state.host_endpoints, links, &state.settings);
            self.uses = Uses::of(state, &self.chosen);
            let scene = Scene {
                state,
                interfaces: &self.interfaces,
                chosen: &self.chosen,
                uses: &self.uses,
            };
            for one in &mut self.families {
                one.renderer.scene(&scene, &mut one.tables);
            }
            self.sets_known = false;
            return Rendered { changes, phases: Phases::default(), may_deny: true };
        };
        let changes = self.interfaces.update(&diff.endpoints, state, links);
        let hosts = self.choose_hosts(state, &diff, links);
        let uses = self.uses.update(state, &diff, hosts.then_some(&self.chosen));
        let scene =
            Scene { state, interfaces: &self.interfaces, chosen: &self.chosen, uses: &self.uses };
        let changed = Changed { diff: &diff, interfaces: &changes, hosts, uses: &uses };
        for one in &mut self.families {
            one.renderer.changed(&scene, changed, &mut one.tables);
        }
        let phases = sets::changed(&old, state, &diff, &changes, &self.family_list());
        Rendered { changes, phases, may_deny: may_deny(&diff) }
    }

    /// Finds the interfaces of host endpoints again when something of them is another. True when their
    /// chains have to be made again.
    fn choose_hosts(&mut self, state: &DesiredState, diff: &DesiredDiff, links: &Links) -> bool {
        let hosts = &diff.hosts;
        let none = state.host_endpoints.endpoints.is_empty() && hosts.endpoints.is_empty();
        if none || (hosts.endpoints.is_empty() && self.links.ptr_eq(links)) {
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

    /// Closes the policies and profiles that name a set which the kernel did not fill, and with
    /// `open_others` opens those whose sets are whole again. The next write of the tables does it.
    pub(super) fn shut_incomplete(&mut self, state: &DesiredState, open_others: bool) {
        if self.incomplete.is_empty() && !(self.shut && open_others) {
            return;
        }
        let incomplete = &self.incomplete;
        let scene =
            Scene { state, interfaces: &self.interfaces, chosen: &self.chosen, uses: &self.uses };
        for one in self.families.iter_mut().filter(|one| !one.renderer.is_off()) {
            let family = one.family;
            let concerned = |id: &SetId| incomplete.contains_key(&names::set(family, id));
            one.renderer.policies(&scene, concerned, open_others, &mut one.tables);
        }
        self.shut = !self.incomplete.is_empty() || (self.shut && !open_others);
    }
}

/// Connections that were allowed may be denied now.
fn may_deny(diff: &DesiredDiff) -> bool {
    fn goes<K, V>(changes: &[(K, Change<V>)]) -> bool {
        changes.iter().any(|(_, change)| !matches!(change, Change::Added(_)))
    }
    // One that is new has no connections yet, and one that goes takes them with it.
    let other = |(_, change): &(_, Change<_>)| matches!(change, Change::Updated { .. });
    diff.endpoints.iter().any(other)
        || goes(&diff.policies)
        || goes(&diff.profiles)
        || !diff.sets_changed.is_empty()
}

/// Chains that jump to one of these have to say something else.
fn comes_or_goes<K, V>(changes: &[(K, Change<V>)]) -> bool {
    changes.iter().any(|(_, change)| !matches!(change, Change::Updated { .. }))
}
