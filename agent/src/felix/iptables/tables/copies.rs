//! Rules that change together with the members of a set that they name: for a moment they name a copy
//! of the set, which holds what it will hold, so that rules and members change in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{FamilyTables, Knowledge, TableState};
use crate::felix::iptables::chain::Chain;
use crate::felix::iptables::driver::{Driver, IptablesError};
use crate::felix::iptables::names;
use crate::felix::iptables::save::Held;

impl FamilyTables {
    /// Those of `sets` that a policy or profile names which the next apply changes, makes or deletes:
    /// in the rules that the kernel holds, or in those that it shall hold. Reads the kernel when it
    /// is not known.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn entangled(
        &mut self,
        sets: &BTreeSet<String>,
        driver: &Driver,
    ) -> Result<BTreeSet<String>, IptablesError> {
        if self.knowledge != Knowledge::Sure {
            self.read(driver).await?;
        }
        let mut found = BTreeSet::new();
        for state in self.tables.values() {
            for name in changing(state) {
                let desired = state.desired.chains.get(name).map(|chain| chain.lines.clone());
                let actual = state.actual.chains.get(name).map(texts);
                for line in desired.into_iter().chain(actual).flatten() {
                    let words = line.split_whitespace();
                    found.extend(words.filter_map(|word| sets.get(word)).cloned());
                }
            }
        }
        Ok(found)
    }

    /// The next apply writes policies and profiles that change with the copies' names in place of the
    /// sets', until [`FamilyTables::settle_copies`].
    pub fn name_copies(&mut self, copies: &BTreeMap<String, String>) {
        self.tables.values_mut().for_each(|state| state.name_copies(copies));
    }

    /// The next apply writes the sets' own names.
    pub fn settle_copies(&mut self) {
        for state in self.tables.values_mut() {
            for (name, chain) in std::mem::take(&mut state.held) {
                state.dirty.insert(name.clone());
                state.desired.chains.insert(name, chain);
            }
        }
    }
}

impl TableState {
    fn name_copies(&mut self, copies: &BTreeMap<String, String>) {
        let names: Vec<String> = changing(self).into_iter().cloned().collect();
        for name in names {
            let Some(chain) = self.desired.chains.get(&name) else { continue };
            let lines: Vec<String> = chain.lines.iter().map(|line| with(line, copies)).collect();
            if lines == chain.lines {
                continue;
            }
            let copy = Arc::new(Chain::new(&name, lines));
            self.dirty.insert(name.clone());
            if let Some(chain) = self.desired.chains.insert(name.clone(), copy) {
                self.held.insert(name, chain);
            }
        }
    }
}

/// The policies and profiles that the kernel does not hold as it should.
fn changing(state: &TableState) -> Vec<&String> {
    let all =
        state.desired.chains.keys().chain(
            state.actual.chains.keys().filter(|name| !state.desired.chains.contains_key(*name)),
        );
    let candidates: Vec<&String> =
        if state.all { all.collect() } else { state.dirty.iter().collect() };
    let differs = |name: &&String| {
        names::is_policy_or_profile(name)
            && match (state.desired.chains.get(*name), state.actual.chains.get(*name)) {
                (Some(desired), Some(actual)) => !desired.is_held(actual),
                (None, None) => false,
                _ => true,
            }
    };
    candidates.into_iter().filter(differs).collect()
}

fn texts(held: &Held) -> Vec<String> {
    match held {
        Held::Known(chain) => chain.lines.clone(),
        Held::Other(found) => found.iter().map(|rule| rule.text.clone()).collect(),
    }
}

/// The rule with other names of sets.
fn with(line: &str, copies: &BTreeMap<String, String>) -> String {
    let words = line.split(' ').map(|word| copies.get(word).map_or(word, String::as_str));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_another() {
        let copies = BTreeMap::from([("cali40a".to_owned(), "cali4t0".to_owned())]);
        let line =
            "--match-set cali40a src --match-set cali40ab dst  -m comment --comment \"cali40a\"";
        let other = line.replacen("cali40a ", "cali4t0 ", 1);
        assert_eq!(with(line, &copies), other);
    }
}
