//! Replays recorded events of the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::backend::etcd2::tree::{Op, Outcome, Tree};
use calico_datastore::backend::etcd2::wire::{self, Answer};
use calico_datastore::layout::v1;

use crate::shared::{load, text};

#[test]
fn events_mean_what_was_recorded() {
    let Some(cases) = load("fixtures/v1-etcd2-events.json") else { return };
    // One store through all cases: what one set, the next deletes.
    let mut tree = Tree::new(v1::LAYOUT);
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for case in cases.as_array().unwrap() {
        let name = text(&case["name"]);
        for seed in case["seed"].as_array().into_iter().flatten() {
            tree.insert(text(seed));
        }
        let (mut ops, mut end) = (Vec::new(), None);
        for event in case["events"].as_array().unwrap() {
            match wire::parse(event.to_string().as_bytes()).unwrap() {
                Answer::Fault(fault) => {
                    assert!(fault.is_cleared(), "{name}: {fault:?}");
                    end = Some("resync");
                }
                Answer::Event(event) => match tree.apply(&event) {
                    Outcome::Ops(more) => ops.extend(more),
                    Outcome::NotReady => end = Some("not-ready"),
                    Outcome::Resync(_) => end = Some("resync"),
                },
            }
        }
        match case["expect"].as_str() {
            Some(expected) => {
                assert_eq!((end, ops), (Some(expected), vec![]), "{name}");
                *outcomes
                    .entry(if expected == "resync" { "resync" } else { "not-ready" })
                    .or_default() += 1;
            }
            None => {
                let expected = case["expect"].as_array().unwrap().iter().map(|op| {
                    let key: Arc<str> = text(&op[1]).into();
                    if op[0] == "set" { Op::Set(key) } else { Op::Delete(key) }
                });
                let mut expected: Vec<Op> = expected.collect();
                // What goes with a directory goes in no order.
                let order = |op: &Op| format!("{op:?}");
                expected.sort_by_key(order);
                ops.sort_by_key(order);
                assert_eq!((end, ops), (None, expected), "{name}");
                *outcomes.entry("changes").or_default() += 1;
            }
        }
    }
    assert_eq!(outcomes, BTreeMap::from([("changes", 5), ("not-ready", 1), ("resync", 2)]));
}
