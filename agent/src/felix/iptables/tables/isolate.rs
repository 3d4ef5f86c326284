//! One table after the whole was refused: what is good gets in, and what is bad is found.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::Family;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Closed, FamilyTables, Outcome, TableState, commit};
use crate::felix::iptables::chain::Chain;
use crate::felix::iptables::driver::{Driver, IptablesError};
use crate::felix::iptables::names;
use crate::felix::iptables::plan::{Jumps, Scope, plan};
use crate::felix::iptables::save::Table;
use crate::telemetry::chain;

impl FamilyTables {
    /// Writes one table.
    ///
    /// 1. Our own chains but the changed policies and profiles. Those that the kernel holds stay as
    ///    they are for now; those that are new are closed, so that they can be jumped to.
    /// 2. Our jumps, one chain of the kernel after the other.
    /// 3. The policies and profiles, halving the group that is refused until one is left: that one
    ///    is closed.
    /// 4. What should go, halving in the same way: what rules of others lead to stays, empty.
    ///
    /// A search that takes too long ends: what was found bad is closed, and the next run goes on. Something
    /// is settled in each run, however slow the host is: the next one begins with all that is left.
    ///
    /// Nothing here relies on how a rule is spelled but the jumps, which stand among the rules of
    /// others: a chain that differs is written from its beginning.
    pub(super) async fn isolate(
        &mut self,
        table: Table,
        driver: &Driver,
        closed: Closed<'_>,
        outcome: &mut Outcome,
    ) {
        let (family, patience, keep) = (self.family, self.patience, self.keep);
        let Some(state) = self.tables.get_mut(&table) else { return };
        let whole = Scope { delete: !keep, ..Scope::EVERYTHING };
        let Some(all) = plan(table, &state.desired, &state.actual, whole) else { return };
        let suspects: Vec<String> = all
            .touches()
            .filter(|name| {
                names::is_policy_or_profile(name) && state.desired.chains.contains_key(*name)
            })
            .map(str::to_owned)
            .collect();

        let mut first = state.desired.clone();
        let mut hold = BTreeSet::new();
        for name in &suspects {
            if state.actual.chains.contains_key(name) {
                hold.insert(name.clone());
            } else {
                first.chains.insert(name.clone(), Arc::new(Chain::new(name, closed(table, name))));
            }
        }
        let chains_only = Scope { jumps: Jumps::Stay, anew: true, ..Scope::NO_DELETES };
        let base = plan(table, &first, &state.actual, Scope { hold: &hold, ..chains_only });
        if let Err(error) = commit(base, driver, family, &mut state.actual).await {
            warn!(%family, table = table.name(), error = %chain(&error), "table refused");
            outcome.failed.push((table, error));
            return;
        }
        if let Err(error) = jumps(state, table, driver, family).await {
            let blames_the_rules = error.blames_the_rules();
            outcome.failed.push((table, error));
            if !blames_the_rules {
                return;
            }
        }

        let mut groups = vec![suspects];
        let begin = Instant::now();
        let mut settled = false;
        state.unfinished = false;
        while let Some(group) = groups.pop() {
            if settled && begin.elapsed() > patience {
                let left = group.len() + groups.iter().map(Vec::len).sum::<usize>();
                state.unfinished = true;
                // Until it is written the old rules of what was found bad are in force, and the next
                // run may not come to it for long either.
                let bad: BTreeSet<String> = state.refused.keys().cloned().collect();
                let scope = Scope { only: Some(&bad), ..chains_only };
                let shut = plan(table, &state.desired, &state.actual, scope);
                if let Err(error) = commit(shut, driver, family, &mut state.actual).await {
                    outcome.failed.push((table, error));
                }
                outcome.failed.push((table, IptablesError::Unfinished { family, left }));
                return;
            }
            let only: BTreeSet<String> = group.iter().cloned().collect();
            let scope = Scope { only: Some(&only), ..chains_only };
            let step = plan(table, &state.desired, &state.actual, scope);
            let Err(error) = commit(step, driver, family, &mut state.actual).await else {
                settled = true;
                continue;
            };
            if !error.blames_the_rules() {
                outcome.failed.push((table, error));
                return;
            }
            match group.as_slice() {
                [] => {}
                [name] => {
                    settled = true;
                    let said = chain(&error);
                    warn!(%family, chain = %name, error = %said, "chain refused, closing it");
                    let shut = Arc::new(Chain::new(name, closed(table, name)));
                    if let Some(chain) = state.desired.chains.insert(name.clone(), shut) {
                        state.refused.insert(name.clone(), (chain, said));
                    }
                }
                many => {
                    let (low, high) = many.split_at(many.len() / 2);
                    groups.extend([low.to_vec(), high.to_vec()]);
                }
            }
        }

        let shut = plan(table, &state.desired, &state.actual, chains_only);
        if let Err(error) = commit(shut, driver, family, &mut state.actual).await {
            outcome.failed.push((table, error));
            return;
        }
        if keep {
            return;
        }
        if let Err(error) = sweep(state, table, driver, family).await {
            outcome.failed.push((table, error));
            return;
        }
        info!(%family, table = table.name(), "table written piece by piece");
    }
}

/// Our rules in the chains of others. One chain that does not take them keeps none of the others
/// from it; the first refusal is told.
async fn jumps(
    state: &mut TableState,
    table: Table,
    driver: &Driver,
    family: Family,
) -> Result<(), IptablesError> {
    let wanted = state.desired.jumps.iter().map(|jump| jump.from.to_owned());
    let chains: BTreeSet<String> = wanted.chain(state.actual.foreign.keys().cloned()).collect();
    let nothing = BTreeSet::new();
    let mut refused = None;
    for name in &chains {
        let scope = Scope { only: Some(&nothing), jumps: Jumps::In(name), ..Scope::NO_DELETES };
        let step = plan(table, &state.desired, &state.actual, scope);
        if let Err(error) = commit(step, driver, family, &mut state.actual).await {
            warn!(%family, table = table.name(), chain = name, error = %chain(&error), "jump refused");
            if !error.blames_the_rules() {
                return Err(error);
            }
            refused.get_or_insert(error);
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Empties what should go, so that it has no effect on whoever uses it, and deletes what nobody uses,
/// halving the group that is refused. What is left is noted.
async fn sweep(
    state: &mut TableState,
    table: Table,
    driver: &Driver,
    family: Family,
) -> Result<(), IptablesError> {
    let TableState { desired, actual, stuck, .. } = state;
    let gone: Vec<String> =
        actual.chains.keys().filter(|name| !desired.chains.contains_key(*name)).cloned().collect();
    stuck.clear();
    if gone.is_empty() {
        return Ok(());
    }
    // Those that go may jump to each other, in whichever group they are.
    let mut emptied = desired.clone();
    for name in &gone {
        emptied.chains.insert(name.clone(), Arc::new(Chain::new(name, Vec::new())));
    }
    let scope = Scope { jumps: Jumps::Stay, anew: true, ..Scope::NO_DELETES };
    commit(plan(table, &emptied, actual, scope), driver, family, actual).await?;
    let mut groups = vec![gone];
    while let Some(group) = groups.pop() {
        let only: BTreeSet<String> = group.iter().cloned().collect();
        let scope = Scope { only: Some(&only), jumps: Jumps::Stay, ..Scope::EVERYTHING };
        let Err(error) = commit(plan(table, desired, actual, scope), driver, family, actual).await
        else {
            continue;
        };
        if !error.blames_the_rules() {
            return Err(error);
        }
        match group.as_slice() {
            [] => {}
            [name] => {
                let said = match actual.entered.get(name) {
                    Some(from) => {
                        format!("a rule of somebody else in the chain {from} leads to it")
                    }
                    None => format!("does a rule of somebody else use it? {}", chain(&error)),
                };
                stuck.push((name.clone(), said));
            }
            many => {
                let (low, high) = many.split_at(many.len() / 2);
                groups.extend([low.to_vec(), high.to_vec()]);
            }
        }
    }
    Ok(())
}
