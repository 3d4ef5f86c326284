//! What others changed in a table, in words: pure. What we knew of it is compared with what was read.

use std::collections::BTreeSet;

use calico_datastore::model::Family;

use super::hash::RuleHash;
use super::plan::{Jump, Place};
use super::save::{ActualTable, ForeignChain, Found, Held, OwnRule, Table};
use crate::drift::{Change, Drift};

/// What differs in `now` from `before`, which is what we left. `jumps`: where our jumps should stand.
pub(super) fn compare(
    family: Family,
    table: Table,
    before: &ActualTable,
    now: &ActualTable,
    jumps: &[Jump],
) -> Vec<Drift> {
    let name = table.name();
    if before.holds_ours() && !now.holds_ours() {
        let rules: usize = before.foreign.values().map(|chain| chain.own.len()).sum();
        let detail = format!(
            "all {} and {} of ours",
            several(before.chains.len(), "chain"),
            several(rules, "jump")
        );
        return vec![Drift::new(format!("{family} table {name}"), Change::Missing, detail)];
    }
    let mut out = Vec::new();
    let names: BTreeSet<&String> = before.chains.keys().chain(now.chains.keys()).collect();
    for chain in names {
        let found = match (before.chains.get(chain), now.chains.get(chain)) {
            (Some(was), Some(is)) => held(was, is),
            (Some(was), None) => Some((Change::Missing, rules_in(was.count()))),
            (None, Some(is)) => Some((Change::Unexpected, rules_in(is.count()))),
            (None, None) => None,
        };
        let subject = format!("{family} {name} chain {chain}");
        out.extend(found.map(|(change, detail)| Drift::new(subject, change, detail)));
    }
    let empty = ForeignChain::default();
    let names: BTreeSet<&String> = before.foreign.keys().chain(now.foreign.keys()).collect();
    for chain in names {
        let was = before.foreign.get(chain).unwrap_or(&empty);
        let is = now.foreign.get(chain).unwrap_or(&empty);
        let here: Vec<&Jump> = jumps.iter().filter(|jump| jump.from == chain).collect();
        for (to, change, detail) in entries(was, is, &here) {
            let subject = format!("{family} {name} jump {chain} → {to}");
            out.push(Drift::new(subject, change, detail));
        }
    }
    out
}

fn rules_in(count: usize) -> String {
    several(count, "rule")
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What became of a chain of ours.
fn held(was: &Held, is: &Held) -> Option<(Change, String)> {
    let Held::Other(found) = is else {
        // As we left it, or as it should be by now.
        return None;
    };
    let old = was.rules();
    let same = |(at, rule): (usize, &Found)| {
        old.get(at).is_some_and(|(hash, text)| {
            *text == rule.text || (rule.proven && hash.is_some() && *hash == rule.hash)
        })
    };
    if found.len() == old.len() && found.iter().enumerate().all(same) {
        return None;
    }
    let had: BTreeSet<Option<RuleHash>> = old.iter().map(|(hash, _)| *hash).collect();
    let mine = |rule: &&Found| rule.proven && had.contains(&rule.hash);
    let strangers: Vec<(usize, &Found)> =
        found.iter().enumerate().filter(|(_, rule)| !mine(rule)).collect();
    let kept = found.len() - strangers.len();
    Some(match strangers.first() {
        // All of ours are there.
        Some((at, rule)) if kept == old.len() => {
            (Change::Unexpected, format!("rule {}: {}", at + 1, rule.text))
        }
        Some((at, rule)) => (Change::Modified, format!("rule {}: {}", at + 1, rule.text)),
        None if kept < old.len() => {
            (Change::Missing, format!("{} of {}", old.len() - kept, rules_in(old.len())))
        }
        None if kept > old.len() => {
            (Change::Unexpected, format!("{} more than once", rules_in(kept - old.len())))
        }
        None => (Change::Modified, "its rules are in another order".to_owned()),
    })
}

/// What became of our rules in a chain of others: where they lead, and what is wrong with them.
fn entries(
    was: &ForeignChain,
    is: &ForeignChain,
    jumps: &[&Jump],
) -> Vec<(String, Change, String)> {
    let to = |own: &OwnRule| {
        let jump = jumps.iter().find(|jump| own.hash.is_some() && jump.hash() == own.hash);
        jump.map_or_else(|| target(&own.text).to_owned(), |jump| jump.to.to_owned())
    };
    let top = jumps.iter().filter(|jump| jump.place == Place::Top).count();
    let mut out = Vec::new();
    let mut rest: Vec<&OwnRule> = is.own.iter().collect();
    for own in &was.own {
        let Some(at) = rest.iter().position(|one| one.hash == own.hash) else {
            out.push((to(own), Change::Missing, String::new()));
            continue;
        };
        let found = rest.remove(at);
        let jump = jumps.iter().find(|jump| jump.hash() == own.hash);
        let written_so = found.text == own.text || jump.is_some_and(|jump| jump.is(found));
        let first = jump.is_some_and(|jump| jump.place == Place::Top);
        if jump.is_some() && !written_so {
            out.push((to(own), Change::Modified, found.text.clone()));
        } else if first && own.index < top && found.index >= top {
            let detail = format!("at place {} instead of {}", found.index + 1, own.index + 1);
            out.push((to(own), Change::Modified, detail));
        }
    }
    out.extend(rest.into_iter().map(|own| {
        (to(own), Change::Unexpected, format!("at place {}: {}", own.index + 1, own.text))
    }));
    out
}

fn target(rule: &str) -> &str {
    let words: Vec<&str> = rule.split(' ').collect();
    let at = words.iter().position(|word| matches!(*word, "-j" | "-g" | "--jump" | "--goto"));
    at.and_then(|at| words.get(at + 1)).copied().unwrap_or("nowhere")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::felix::iptables::chain::Chain;
    use crate::felix::iptables::plan::{DesiredTable, Scope, plan};
    use crate::felix::iptables::save::parse;
    use crate::felix::iptables::spelling::Spellings;

    const JUMPS: [Jump; 1] = [Jump { from: "FORWARD", to: "cali-FORWARD", place: Place::Top }];

    fn written() -> (ActualTable, Arc<Chain>, Vec<String>) {
        let lines = ["-p tcp --jump ACCEPT", "-p udp --jump ACCEPT", "--jump DROP"];
        let lines = lines.map(str::to_owned).to_vec();
        let chain = Arc::new(Chain::new("cali-FORWARD", lines));
        let desired = DesiredTable {
            chains: [("cali-FORWARD".to_owned(), Arc::clone(&chain))].into(),
            jumps: JUMPS.to_vec(),
        };
        let mut known = ActualTable::default();
        let plan = plan(Table::Filter, &desired, &known, Scope::EVERYTHING).unwrap();
        let mut saved: Vec<String> =
            (0..3).map(|at| format!("cali-FORWARD {}", chain.rule(at))).collect();
        let jump = plan.text.lines().find_map(|l| l.strip_prefix("-I FORWARD 1 ")).unwrap();
        saved.push(format!("FORWARD {jump}"));
        plan.done(&mut known);
        (known, chain, saved)
    }

    /// What is said when the kernel prints `rules`.
    fn said(rules: &[String]) -> Vec<String> {
        let (before, chain, _) = written();
        let mut text = "*filter\n:FORWARD ACCEPT [0:0]\n".to_owned();
        if rules.iter().any(|rule| rule.starts_with("cali-FORWARD")) {
            text += ":cali-FORWARD - [0:0]\n";
        }
        rules.iter().for_each(|rule| text += &format!("-A {rule}\n"));
        let mut now = parse(&text).remove(&Table::Filter).unwrap();
        let name = "cali-FORWARD".to_owned();
        now.recognise([(&name, &chain)].into_iter(), &mut Spellings::default());
        let drift = compare(Family::V4, Table::Filter, &before, &now, &JUMPS);
        drift.iter().map(|one| format!("{} {}: {}", one.subject, one.change, one.detail)).collect()
    }

    #[test]
    fn each_change_is_named() {
        let (.., saved) = written();
        let with = |change: &dyn Fn(&mut Vec<String>)| {
            let mut rules = saved.clone();
            change(&mut rules);
            said(&rules)
        };
        assert_eq!(with(&|_| {}), [""; 0]);
        let chain = "IPv4 filter chain cali-FORWARD";
        let jump = "IPv4 filter jump FORWARD → cali-FORWARD";
        assert_eq!(
            with(&|r| r.clear()),
            ["IPv4 table filter missing: all 1 chain and 1 jump of ours"]
        );
        assert_eq!(with(&|r| drop(r.remove(1))), [format!("{chain} missing: 1 of 3 rules")]);
        assert_eq!(
            with(&|r| r.swap(0, 1)),
            [format!("{chain} modified: its rules are in another order")]
        );
        let changed = saved[2].replace("DROP", "ACCEPT");
        let text = changed.strip_prefix("cali-FORWARD ").unwrap();
        assert_eq!(
            with(&|r| r[2] = changed.clone()),
            [format!("{chain} modified: rule 3: {text}")]
        );
        assert_eq!(
            with(&|r| r.insert(1, "cali-FORWARD -j LOG".to_owned())),
            [format!("{chain} unexpected: rule 2: -j LOG")]
        );
        assert_eq!(with(&|r| drop(r.drain(..3))), [format!("{chain} missing: 3 rules")]);
        assert_eq!(with(&|r| drop(r.pop())), [format!("{jump} missing: ")]);
        assert_eq!(
            with(&|r| r.insert(3, "FORWARD -j ACCEPT".to_owned())),
            [format!("{jump} modified: at place 2 instead of 1")]
        );
        let twice = saved[3].clone();
        let text = twice.strip_prefix("FORWARD ").unwrap();
        assert_eq!(
            with(&|r| r.push(twice.clone())),
            [format!("{jump} unexpected: at place 2: {text}")]
        );
        let less = text.replace("--jump cali-FORWARD", "-i eth0 -j cali-FORWARD");
        assert_eq!(
            with(&|r| r[3] = format!("FORWARD {less}")),
            [format!("{jump} modified: {less}")]
        );
    }
}
