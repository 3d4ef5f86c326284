//! Everything of ours in the tables and sets of this host, to be listed and removed: chains,
//! rules in the kernel's chains, and address sets, of both flavours and both families; our own table of
//! nf_tables, and the groups of interfaces. What the original Felix left counts as ours, as it does for
//! the reconciler.
//!
//! It knows no desired state and must not run beside an agent.

use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::model::Family;

use super::counters::Counters;
use super::ipset::{Command, SetError, Sets};
use super::iptables::driver::Driver;
use super::iptables::names::family_of_set;
use super::iptables::probe::{Dataplane, installed};
use super::iptables::tables::FamilyTables;
use super::nftables::TABLE;
use super::nftables::backend::Remains;
use super::sysctl::Sysctls;
use crate::exec::Exec;
use crate::reconcile::Problem;
use crate::telemetry::chain;

/// nf_tables lets go of the sets of a deleted rule some time after the transaction.
const SETS_TRIES: usize = 30;
/// Between two tries.
const SETS_PAUSE: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug, Default)]
pub struct Leftovers {
    tables: Vec<(Dataplane, Family, Vec<String>)>,
    sets: Vec<String>,
    native: Remains,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

impl Leftovers {
    /// Looks at the tables of every iptables that this host has, and at the sets.
    pub async fn find(exec: &Exec) -> Self {
        let mut found = Self::default();
        let (dataplanes, errors) = installed(exec).await;
        for error in errors {
            found.problem("iptables", chain(&error));
        }
        for dataplane in dataplanes {
            let driver = Driver::new(exec.clone(), dataplane.clone(), Counters::default());
            // What this kernel does not know holds nothing.
            let known = Sysctls::new(PathBuf::from("/proc/sys"), Counters::default());
            for family in Family::ALL.into_iter().filter(|family| known.has(*family)) {
                match driver.save(family).await {
                    Ok(tables) => {
                        let lines: Vec<String> = tables
                            .iter()
                            .flat_map(|(table, actual)| {
                                let name = table.name();
                                let rules = actual.foreign.iter().flat_map(move |(from, c)| {
                                    c.own.iter().map(move |rule| {
                                        format!("{name} rule -A {from} {}", rule.text)
                                    })
                                });
                                let chains = actual.chains.keys();
                                let chains = chains.map(move |c| format!("{name} chain {c}"));
                                rules.chain(chains)
                            })
                            .collect();
                        if !lines.is_empty() {
                            found.tables.push((dataplane.clone(), family, lines));
                        }
                    }
                    // A host that never used IPv6 may have no program for it.
                    Err(error) if family == Family::V6 && error.is_missing() => {}
                    Err(error) => {
                        found.problem(&format!("{} {family}", dataplane.flavour), chain(&error));
                    }
                }
            }
        }
        match Sets::new(Counters::default()).read().await {
            Ok(sets) => found.sets = sets.into_keys().collect(),
            // A kernel without them has none of ours.
            Err(SetError::Unsupported(_)) => {}
            Err(error) => found.problem("address sets", chain(&error)),
        }
        match Remains::find().await {
            Ok(native) => found.native = native,
            Err(said) => found.problem("nftables", said),
        }
        found
    }

    fn problem(&mut self, subject: &str, message: String) {
        self.problems.push(Problem { subject: subject.to_owned(), message });
    }

    /// One line for each thing.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let tables = self.tables.iter().flat_map(|(dataplane, family, lines)| {
            lines.iter().map(move |line| format!("{} {family} {line}", dataplane.flavour))
        });
        let sets = self.sets.iter().map(|set| match family_of_set(set) {
            Some(family) => format!("{family} address set {set}"),
            None => format!("address set {set}"),
        });
        let native = self.native.table.then(|| format!("nftables table inet {TABLE}"));
        let groups = self
            .native
            .links
            .iter()
            .map(|link| format!("group {:#x} of interface {}", link.group, link.name));
        tables.chain(sets).chain(native).chain(groups)
    }

    /// Removes everything; says what is left.
    pub async fn remove(&self, exec: &Exec) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |subject: String, message: String| {
            problems.push(Problem { subject, message });
        };
        for (dataplane, family, _) in &self.tables {
            let driver = Driver::new(exec.clone(), dataplane.clone(), Counters::default());
            let flavour = dataplane.flavour;
            let outcome = FamilyTables::new(*family, Counters::default())
                .apply(&driver, &|_, _| Vec::new())
                .await;
            for (table, error) in outcome.failed {
                say(format!("{flavour} {family} table {}", table.name()), chain(&error));
            }
            for (name, said) in outcome.stuck {
                say(
                    format!("{flavour} {family} chain {name}"),
                    format!("emptied, but it cannot be deleted: {said}"),
                );
            }
        }
        if let Err(said) = self.native.remove(&Counters::default()) {
            say("nftables".to_owned(), said);
        }
        let mut commands: Vec<_> = self.sets.iter().cloned().map(Command::Destroy).collect();
        let sets = Sets::new(Counters::default());
        for tries in 1..=SETS_TRIES {
            if commands.is_empty() {
                break;
            }
            let refused = match sets.write(&commands).await {
                Ok(refused) => refused,
                Err(error) => {
                    say("address sets".to_owned(), chain(&error));
                    break;
                }
            };
            if tries == SETS_TRIES {
                for one in &refused {
                    let set = one.command.set();
                    let message = format!("{one}; does a rule of somebody else use it?");
                    say(format!("address set {set}"), message);
                }
            } else if !refused.is_empty() {
                tokio::time::sleep(SETS_PAUSE).await;
            }
            commands = refused.into_iter().map(|one| one.command).collect();
        }
        problems
    }
}
