//! The steps that write to the kernel. Their order is in [`super`].

use std::collections::BTreeSet;

use calico_datastore::model::{Family, InterfaceName};
use tracing::{debug, info};

use super::{DESTROY_PATIENCE, Felix, Run};
use crate::desired::DesiredState;
use crate::felix::ipset::{Command, Entry, Phases, full};
use crate::felix::iptables::driver::Driver;
use crate::felix::iptables::names;
use crate::felix::iptables::save::Table;
use crate::felix::iptables::tables::{FamilyTables, Outcome};
use crate::felix::sets;
use crate::telemetry::chain;

impl Felix {
    /// Reads the sets and plans everything. Addresses of endpoints that went away while nobody
    /// watched are noted.
    pub(super) async fn read_sets(
        &mut self,
        state: &DesiredState,
        run: &mut Run,
    ) -> Option<Phases> {
        let actual = match self.sets.read().await {
            Ok(actual) => actual,
            Err(error) => {
                run.fail("address sets", chain(&error));
                return None;
            }
        };
        let families = self.family_list();
        let mut phases = full(&sets::all(state, &self.interfaces, &families), &actual);
        // Sets of a family that is switched off stay as its tables do.
        let ours = |name: &str| {
            families.iter().any(|family| name.starts_with(&format!("cali{}", family.number())))
        };
        phases.after.retain(|command| ours(command.set()));
        for command in &phases.after {
            if let Command::Delete(set, Entry::NetIface(net, _)) = command
                && net.is_host()
                && families.iter().any(|family| *set == names::local_endpoints(*family))
            {
                self.leaving.insert(net.address());
            }
        }
        self.refused.clear();
        let goes = |set: &String| phases.after.contains(&Command::Destroy(set.clone()));
        self.doomed.retain(|set, _| goes(set));
        Some(phases)
    }

    pub(super) async fn write_sets(&mut self, commands: &[Command], run: &mut Run) {
        match self.sets.write(commands).await {
            Ok(refused) => {
                for one in refused {
                    if !self.refused.contains(&one) {
                        self.refused.push(one);
                    }
                }
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain(&error));
            }
        }
    }

    /// Writes the tables of all families at once.
    pub(super) async fn write_tables(&mut self, driver: &Driver) -> Vec<(Family, Outcome)> {
        let runs = self.families.iter_mut().map(|one| async {
            let closed = one.renderer.closed();
            (one.family, one.tables.apply(driver, &closed).await)
        });
        futures::future::join_all(runs).await
    }

    /// Step 0: closes `chains` until [`Felix::open`].
    pub(super) async fn close(
        &mut self,
        chains: &BTreeSet<String>,
        driver: &Driver,
        run: &mut Run,
    ) {
        debug!(count = chains.len(), "closing policies whose sets change with them");
        for one in &mut self.families {
            let closed = one.renderer.closed();
            if let Err(error) = one.tables.close(Table::Filter, chains, &closed, driver).await {
                run.fail(&format!("{} table filter", one.family), chain(&error));
            }
        }
    }

    /// Opens what [`Felix::close`] closed.
    pub(super) async fn open(&mut self, driver: &Driver) -> Vec<(Family, Outcome)> {
        self.families.iter_mut().for_each(|one| one.tables.open());
        self.write_tables(driver).await
    }

    /// Step 3: what goes from the sets.
    pub(super) async fn shrink_sets(
        &mut self,
        after: Vec<Command>,
        filter_in_force: bool,
        run: &mut Run,
    ) {
        let (destroy, mut delete): (Vec<_>, Vec<_>) =
            after.into_iter().partition(|command| matches!(command, Command::Destroy(_)));
        if !filter_in_force {
            // The old rules are still there. Taking a member from a set that they deny would open
            // them; an endpoint that leaves is another matter.
            delete.retain(|command| matches!(command, Command::Delete(_, Entry::NetIface(..))));
            self.sets_known = false;
        } else {
            for command in destroy {
                self.doomed.entry(command.set().to_owned()).or_insert(0);
            }
        }
        self.write_sets(&delete, run).await;
        if self.doomed.is_empty() || !filter_in_force {
            return;
        }
        let commands: Vec<_> = self.doomed.keys().cloned().map(Command::Destroy).collect();
        match self.sets.write(&commands).await {
            Ok(refused) => {
                let refused: BTreeSet<&str> = refused.iter().map(|r| r.command.set()).collect();
                self.doomed.retain(|set, tries| {
                    *tries += 1;
                    refused.contains(set.as_str())
                });
            }
            Err(error) => {
                self.sets_known = false;
                run.fail("address sets", chain(&error));
            }
        }
        for (set, _) in self.doomed.iter().filter(|(_, tries)| **tries >= DESTROY_PATIENCE) {
            run.problem(
                format!("address set {set}"),
                "cannot be destroyed; does a rule of somebody else use it?",
            );
        }
    }

    /// Cleans the iptables that an earlier run used, once the one in use is complete.
    pub(super) async fn clean_abandoned(&mut self, run: &mut Run) {
        let Some(dataplane) = self.abandoned.clone() else { return };
        let driver = Driver::new(self.exec.clone(), dataplane.clone(), self.counters.clone());
        for one in &self.families {
            let mut nothing = FamilyTables::new(one.family, self.counters.clone());
            let outcome = nothing.apply(&driver, &[]).await;
            if let Some((table, error)) = outcome.failed.into_iter().next() {
                run.problem(
                    format!("{} table {}", dataplane.flavour, table.name()),
                    format!("cannot remove our rules of an earlier run: {}", chain(&error)),
                );
                return;
            }
        }
        info!(flavour = %dataplane.flavour, "rules of an earlier run removed");
        self.abandoned = None;
    }

    /// Step 5. Interfaces that are new, or all of them.
    pub(super) fn set_sysctls(
        &self,
        interfaces: &BTreeSet<InterfaceName>,
        all: bool,
        run: &mut Run,
    ) {
        let families = self.family_list();
        let settings = self.rendered.as_ref().map(|state| &state.settings);
        let mut errors = Vec::new();
        if all && settings.is_some_and(|settings| settings.ip_forwarding) {
            errors.extend(self.sysctls.forwarding(&families));
        }
        for name in interfaces {
            errors.extend(self.sysctls.interface(name, &families));
        }
        for error in errors {
            // The interface went away meanwhile: that is told by the links.
            if error.source.kind() != std::io::ErrorKind::NotFound {
                run.problem(error.path.display().to_string(), chain(&error));
            }
        }
    }
}
