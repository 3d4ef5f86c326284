//! Changes as commands of nft, for people: what one transaction does. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::contents::{Contents, Elements, Set};
use super::object::{Change, Name};
use super::{TABLE, text};

/// The commands; `held`: the chains that are there. Empty when nothing changes.
pub fn commands(changes: &[Change], held: &BTreeSet<Name>) -> Vec<String> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut comes = Contents::default();
    let replaced = |set: &Name| changes.iter().any(|one| *one == Change::DeleteSet(set.clone()));
    for change in changes {
        match change {
            Change::CreateSet(name, spec) => {
                if replaced(name) {
                    first.push(format!("delete set inet {TABLE} {name}"));
                }
                let set = Set { spec: *spec, elements: Elements::default() };
                comes.sets.insert(name.clone(), set);
            }
            Change::PutChain(name, chain) => {
                if held.contains(name) {
                    first.insert(0, format!("flush chain inet {TABLE} {name}"));
                }
                comes.chains.insert(name.clone(), Arc::clone(chain));
            }
            _ => {}
        }
    }
    for change in changes {
        match change {
            Change::Add(set, element) => match comes.sets.get_mut(set) {
                Some(set) => set.elements.insert(element.clone()),
                None => last.push(elements("add", set, &text::element(element))),
            },
            Change::Delete(set, element) => {
                last.push(elements("delete", set, &text::element(element)));
            }
            Change::DeleteChain(name) => {
                last.push(format!("delete chain inet {TABLE} {name}"));
            }
            Change::DeleteSet(name) if !comes.sets.contains_key(name) => {
                last.push(format!("delete set inet {TABLE} {name}"));
            }
            _ => {}
        }
    }
    if comes != Contents::default() {
        first.extend(text::table(TABLE, &comes).lines().map(str::to_owned));
    }
    first.extend(last);
    first
}

fn elements(verb: &str, set: &Name, element: &str) -> String {
    format!("{verb} element inet {TABLE} {set} {{ {element} }}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::nftables::object::{
        Chain, Element, Rule, SetKind, SetSpec, Statement, Verdict,
    };

    #[test]
    fn a_transaction_in_the_words_of_nft() {
        let name = |text: &str| Name::from(text);
        let rule = Rule {
            matches: Vec::new(),
            statements: vec![Statement::Verdict(Verdict::Drop)],
            comment: None,
        };
        let chain = Arc::new(Chain { base: None, rules: vec![rule] });
        let spec = SetSpec { kind: SetKind::VerdictsByGroup, counters: false };
        let changes = [
            Change::PutChain(name("old"), Arc::clone(&chain)),
            Change::CreateSet(name("map"), spec),
            Change::Add(name("map"), Element::Group(7, Verdict::Goto(name("old")))),
            Change::Add(name("there"), Element::Address([10, 0, 0, 1].into())),
            Change::Delete(name("there"), Element::Address([10, 0, 0, 2].into())),
            Change::DeleteChain(name("gone")),
            Change::DeleteSet(name("gone")),
        ];
        let said = commands(&changes, &BTreeSet::from([name("old"), name("gone")])).join("\n");
        let expected = "\
flush chain inet calico old
table inet calico {
\tmap map {
\t\ttype devgroup : verdict
\t\telements = { 7 : goto old }
\t}
\tchain old {
\t\tdrop
\t}
}
add element inet calico there { 10.0.0.1 }
delete element inet calico there { 10.0.0.2 }
delete chain inet calico gone
delete set inet calico gone";
        let spaces = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(spaces(&said), spaces(expected), "{said}");
        assert!(commands(&[], &BTreeSet::new()).is_empty());
    }
}
