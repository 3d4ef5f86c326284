//! Changes as commands of nft, for people: what one transaction does. Pure.
//!
//! The order is that of the `plan`: `nft -f` hands commands to the kernel as they come, and the kernel refuses what
//! goes while something names it, whoever asks. What comes is one block, in which nft itself makes chains first, then
//! sets, then rules.

use std::sync::Arc;

use super::contents::{Contents, Elements, Set};
use super::mirror::Mirror;
use super::object::{Chain, Change, Name};
use super::plan::{Step, plan};
use super::text;
use super::wire::set::is_map;

/// What `changes` do to `table` while it holds what `mirror` says. Empty when nothing changes.
pub(super) fn commands(table: &str, mirror: &Mirror, changes: &[Change]) -> Vec<String> {
    let (mut lines, mut last) = (Vec::new(), Vec::new());
    let mut comes = Contents::default();
    let elements = |verb: &str, set: &Name, all: Vec<String>| {
        format!("{verb} element inet {table} {set} {{ {} }}", all.join(", "))
    };
    for step in plan(mirror, changes).steps {
        match step {
            Step::Flush(name) => lines.push(format!("flush chain inet {table} {name}")),
            Step::Remove(set, gone) => {
                let keys = gone.iter().map(|gone| text::key(gone.element()));
                lines.push(elements("delete", set, keys.collect()));
            }
            Step::DropSet(name) => {
                let spec = mirror.sets.get(name).and_then(|held| held.spec);
                let what = if spec.is_some_and(|spec| is_map(spec.kind)) { "map" } else { "set" };
                lines.push(format!("delete {what} inet {table} {name}"));
            }
            Step::DropChain(name) => lines.push(format!("delete chain inet {table} {name}")),
            Step::MakeSet(name, spec) => {
                comes.sets.insert(name.clone(), Set { spec, elements: Elements::default() });
            }
            Step::MakeChain(name, base) => {
                let chain = Chain { base, rules: Vec::new() };
                comes.chains.insert(name.clone(), Arc::new(chain));
            }
            Step::Insert(name, new) => match comes.sets.get_mut(name) {
                Some(set) => new.into_iter().cloned().for_each(|one| set.elements.insert(one)),
                None => {
                    last.push(elements("add", name, new.into_iter().map(text::element).collect()));
                }
            },
            Step::Fill(name, chain) => drop(comes.chains.insert(name.clone(), chain)),
        }
    }
    if comes != Contents::default() {
        lines.extend(text::table(table, &comes).lines().map(str::to_owned));
    }
    lines.extend(last);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::nftables::object::{Element, Rule, SetKind, SetSpec, Statement, Verdict};

    fn name(text: &str) -> Name {
        Name::from(text)
    }

    fn group(key: u32, to: &str) -> Element {
        Element::Group(key, Verdict::Goto(name(to)))
    }

    fn address(text: &str) -> Element {
        Element::Address(text.parse().unwrap())
    }

    #[test]
    fn a_transaction_in_the_words_of_nft() {
        let rule = Rule {
            matches: Vec::new(),
            statements: vec![Statement::Verdict(Verdict::Drop)],
            comment: None,
        };
        let empty = Arc::new(Chain::default());
        let chain = Arc::new(Chain { base: None, rules: vec![rule] });
        let map = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };
        let set =
            SetSpec { kind: SetKind::Address(calico_datastore::model::Family::V4), counters: true };
        let mut mirror = Mirror::default();
        mirror.apply(&[
            Change::PutChain(name("old"), Arc::clone(&empty)),
            Change::PutChain(name("gone"), empty),
            Change::CreateSet(name("there"), set),
            Change::CreateSet(name("gone-set"), set),
            Change::CreateSet(name("gone-map"), map),
            Change::CreateSet(name("led"), map),
            Change::Add(name("led"), group(7, "gone")),
        ]);
        // As a renderer may say it: in no order.
        let changes = [
            Change::DeleteSet(name("gone-map")),
            Change::DeleteSet(name("gone-set")),
            Change::DeleteChain(name("gone")),
            Change::Add(name("led"), group(7, "old")),
            Change::Add(name("there"), address("10.0.0.1")),
            Change::Add(name("there"), address("10.0.0.3")),
            Change::Add(name("new"), group(7, "old")),
            Change::PutChain(name("old"), Arc::clone(&chain)),
            Change::CreateSet(name("new"), map),
            Change::Delete(name("there"), address("10.0.0.2")),
        ];
        let said = commands("calico", &mirror, &changes).join("\n");
        let expected = "\
flush chain inet calico gone
flush chain inet calico old
delete element inet calico led { 7 }
delete element inet calico there { 10.0.0.2 }
delete map inet calico gone-map
delete set inet calico gone-set
delete chain inet calico gone
table inet calico {
\tmap new {
\t\ttype devgroup : verdict
\t\telements = { 7 : goto old }
\t}
\tchain old {
\t\tdrop
\t}
}
add element inet calico led { 7 : goto old }
add element inet calico there { 10.0.0.1, 10.0.0.3 }";
        assert_eq!(said, expected, "{said}");
        assert!(commands("calico", &mirror, &[]).is_empty());
    }
}
