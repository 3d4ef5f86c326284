//! What became of it: of tables, and of the members that an endpoint is.

use std::collections::BTreeSet;

use calico_datastore::model::Family;

use super::{Iptables, Written};
use crate::desired::{DesiredState, LocalEndpoint};
use crate::felix::ipset::{Command, Entry};
use crate::felix::iptables::names;
use crate::felix::iptables::save::Table;
use crate::felix::iptables::tables::Outcome;
use crate::felix::reconciler::Run;
use crate::felix::ruleset::Direction;
use crate::felix::scene::Scene;
use crate::telemetry::chain;

impl Iptables {
    /// Notes what became of the tables. Returns the families whose policy is in force.
    pub(super) fn judge_tables(
        &self,
        outcomes: Vec<(Family, Outcome)>,
        scene: &Scene<'_>,
        written: &mut Written,
        run: &mut Run,
    ) -> BTreeSet<Family> {
        let mut in_force = BTreeSet::new();
        for (family, outcome) in outcomes {
            in_force.insert(family);
            written.tables |= outcome.wrote;
            run.drift.extend(outcome.drift);
            run.moved.extend(outcome.moved);
            if outcome.was_open {
                run.unasked.insert(family);
            }
            if outcome.was_untranslated {
                run.untranslated.insert(family);
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
                    table == Table::Filter || (table != Table::Nat && !scene.chosen.is_empty());
                if polices {
                    in_force.remove(&family);
                }
                run.fail(&format!("{family} table {}", table.name()), chain(&error));
            }
            written.refused |= !outcome.refused.is_empty();
            for (chain, said) in outcome.refused {
                let subject = subject_of(&chain, scene.state).unwrap_or(chain);
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

    /// True when something was refused that may be of a single endpoint.
    pub(in crate::felix) fn refuses(&self) -> bool {
        !self.refused.is_empty()
    }

    /// What was refused of an endpoint: its own members, or the set that they belong to.
    pub(in crate::felix) fn refusal(&self, endpoint: &LocalEndpoint) -> Option<String> {
        let sets = Family::ALL.map(|family| names::class_set(family, &endpoint.class));
        let concerns = |command: &Command| match command {
            Command::Add(_, Entry::NetIface(_, at)) => *at == endpoint.interface,
            Command::Create(set, _) => sets.contains(set),
            _ => false,
        };
        let refused = self.refused.iter().find(|refused| concerns(&refused.command));
        refused.map(ToString::to_string)
    }
}

/// The policy or profile that a chain was made of.
fn subject_of(chain: &str, state: &DesiredState) -> Option<String> {
    let hosts = &state.host_endpoints;
    let policies = state
        .policies
        .keys()
        .chain(hosts.policies.keys())
        .flat_map(|id| Direction::ALL.map(|d| (names::policy(id, d), format!("policy {id}"))));
    let profiles = state.profiles.keys().chain(hosts.profiles.keys()).flat_map(|name| {
        Direction::ALL.map(|d| (names::profile(name, d), format!("profile {name}")))
    });
    policies.chain(profiles).find(|(name, _)| name == chain).map(|(_, subject)| subject)
}
