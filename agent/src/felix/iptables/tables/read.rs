//! Reading the kernel: what is there, what others changed, and what is only spelled in another way.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;

use super::moved::moved;
use super::{FamilyTables, Knowledge};
use crate::drift::Drift;
use crate::felix::iptables::compare::compare;
use crate::felix::iptables::driver::{Driver, IptablesError};
use crate::felix::iptables::hash::RuleHash;
use crate::felix::iptables::plan::{DesiredTable, Jump, Plan};
use crate::felix::iptables::save::{ActualTable, Found, Held, Table};
use crate::felix::iptables::spelling::same_target;

/// What a reading found.
#[derive(Debug, Default)]
pub(super) struct Look {
    drift: Vec<Drift>,
    /// Rules that are not as they were written, or are spelled in a way that we do not know.
    suspects: Vec<Suspect>,
    /// What was compared, where there are suspects: to be compared again with what was learned.
    compared: Vec<Compared>,
}

#[derive(Debug)]
struct Compared {
    table: Table,
    jumps: Vec<Jump>,
    before: ActualTable,
    now: ActualTable,
}

#[derive(Debug)]
struct Suspect {
    table: Table,
    chain: String,
    hash: RuleHash,
    text: String,
}

impl Look {
    /// Another reading of the same run came behind this one.
    pub(super) fn follow(&mut self, later: Self) {
        self.drift.extend(later.drift);
        self.suspects = later.suspects;
        self.compared.extend(later.compared);
    }
}

impl FamilyTables {
    /// Reads all tables.
    pub(super) async fn read(&mut self, driver: &Driver) -> Result<(), IptablesError> {
        let look = self.look(driver, BTreeMap::new()).await?;
        self.note(look);
        Ok(())
    }

    /// The same, and what it found. `or`: what they may hold as well, because we were just writing
    /// it.
    pub(super) async fn look(
        &mut self,
        driver: &Driver,
        or: BTreeMap<Table, ActualTable>,
    ) -> Result<Look, IptablesError> {
        let saved = driver.save(self.family).await?;
        Ok(self.take_in(saved, or))
    }

    /// Reads after a transaction was refused: somebody may have changed the tables meanwhile, or one
    /// object is bad. Those of its tables that came first are in force.
    pub(super) async fn look_again(
        &mut self,
        driver: &Driver,
        plans: Vec<(Table, Plan)>,
    ) -> Result<Look, IptablesError> {
        let mut or = BTreeMap::new();
        for (table, plan) in plans {
            let mut after =
                self.tables.get(&table).map(|state| state.actual.clone()).unwrap_or_default();
            plan.done(&mut after);
            or.insert(table, after);
        }
        self.look(driver, or).await
    }

    fn take_in(
        &mut self,
        mut saved: BTreeMap<Table, ActualTable>,
        mut or: BTreeMap<Table, ActualTable>,
    ) -> Look {
        let mut look = Look::default();
        let mut there: BTreeSet<RuleHash> = BTreeSet::new();
        for (table, state) in &mut self.tables {
            let mut now = saved.remove(table).unwrap_or_default();
            state.all = true;
            // What the kernel refused then it may take now; but a search comes to its end first.
            if !state.unfinished {
                for (name, (chain, _)) in std::mem::take(&mut state.refused) {
                    state.desired.chains.insert(name, chain);
                }
            }
            let before = std::mem::take(&mut state.actual);
            let candidates: Vec<ActualTable> =
                or.remove(table).into_iter().chain([before]).collect();
            for before in &candidates {
                now.recognise(before.known(), &mut self.spellings);
            }
            now.recognise(state.desired.chains.iter(), &mut self.spellings);
            there.extend(now.hashes());
            if self.knowledge == Knowledge::Nothing && *table == Table::Nat {
                for (name, held) in &now.chains {
                    let wanted = state.desired.chains.get(name);
                    let lines = wanted.map_or(&[][..], |chain| &chain.lines);
                    self.moved_before.extend(moved(name, held, lines));
                }
                let DesiredTable { chains, jumps } = &state.desired;
                let right = |name: &String| matches!(now.chains.get(name), Some(Held::Known(_)));
                self.untranslated_before |=
                    !chains.keys().all(right) || !jumps.iter().all(|jump| now.is_entered(jump));
            }
            // An address translation decides about nothing.
            if self.knowledge == Knowledge::Nothing && *table != Table::Nat {
                self.open_before |= !state.desired.jumps.iter().all(|jump| now.is_entered(jump));
            }

            let suspects: Vec<Suspect> = now
                .unproven()
                .filter_map(|(name, rule)| {
                    let (chain, hash) = (state.desired.chains.get(name)?, rule.hash?);
                    let at = chain.hashes.iter().position(|one| *one == hash)?;
                    same_target(&chain.rule(at), &rule.text).then(|| Suspect {
                        table: *table,
                        chain: name.clone(),
                        hash,
                        text: rule.text.clone(),
                    })
                })
                .collect();
            if self.knowledge != Knowledge::Nothing {
                let jumps = &state.desired.jumps;
                let all = candidates.into_iter().map(|before| {
                    let drift = compare(self.family, *table, &before, &now, jumps);
                    (drift, before)
                });
                if let Some((drift, before)) = all.min_by_key(|(drift, _)| drift.len()) {
                    if suspects.is_empty() {
                        look.drift.extend(drift);
                    } else {
                        let (jumps, now) = (jumps.clone(), now.clone());
                        look.compared.push(Compared { table: *table, jumps, before, now });
                    }
                }
            }
            look.suspects.extend(suspects);
            state.actual = now;
        }
        self.spellings.retain(|hash| there.contains(hash));
        self.knowledge = Knowledge::Sure;
        look
    }

    /// After a write: rules that were suspected, were written again, and are printed as before are
    /// right. The text that we saw before is not ours to vouch for, and neither is the one after;
    /// that they are equal is.
    pub(super) async fn settle(&mut self, driver: &Driver, look: &mut Look) {
        if look.suspects.is_empty() {
            return;
        }
        // When it cannot be read nothing is learned.
        let Ok(saved) = driver.save(self.family).await else { return };
        for suspect in look.suspects.drain(..) {
            let chain = saved.get(&suspect.table).and_then(|t| t.chains.get(&suspect.chain));
            let Some(Held::Other(found)) = chain else { continue };
            let again = |rule: &Found| rule.hash == Some(suspect.hash) && rule.text == suspect.text;
            if found.iter().any(again) {
                self.spellings.learn(suspect.hash, &suspect.text);
            }
        }
        let learned = self.spellings.learned();
        if learned > 0 {
            info!(family = %self.family, rules = learned, "learned how this iptables prints rules");
        }
        let later = self.take_in(saved, BTreeMap::new());
        look.drift.extend(later.drift);
        look.compared.extend(later.compared);
        if !self.plans().is_empty() {
            // Somebody was at it again. The next run looks.
            self.forget();
        }
    }

    /// Keeps what a reading found until it is put right.
    pub(super) fn note(&mut self, look: Look) {
        let mut drift = look.drift;
        for Compared { table, jumps, before, mut now } in look.compared {
            now.recognise(before.known(), &mut self.spellings);
            drift.extend(compare(self.family, table, &before, &now, &jumps));
        }
        self.drift.extend(drift.into_iter().map(|one| (one.subject.clone(), one)));
    }
}
