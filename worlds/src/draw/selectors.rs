//! Labels, and selectors about them.

use serde_json::{Map, Value, json};

use crate::chance::Chance;

/// Label keys and values. Values are parts of each other, one is empty, one has a quote.
const LABELS: [(&str, [&str; 3]); 3] = [
    ("role", ["web", "db", ""]),
    ("env", ["prod", "production", "dev"]),
    ("in", ["x", "xy", "it's"]),
];
/// Labels of namespaces and service accounts, without prefix.
const OUTER: [(&str, [&str; 3]); 2] = [("stage", ["prod", "dev", ""]), ("team", ["a", "b", "ab"])];

/// Labels of an object: each key with so many percent.
pub(super) fn labels(c: &mut Chance, percent: usize) -> Map<String, Value> {
    drawn(c, &LABELS, "", percent)
}

/// Labels of a namespace or a service account.
pub(super) fn outer_labels(c: &mut Chance, prefix: &str) -> Map<String, Value> {
    drawn(c, &OUTER, prefix, 70)
}

fn drawn(
    c: &mut Chance,
    all: &[(&str, [&str; 3])],
    prefix: &str,
    percent: usize,
) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in all {
        if c.percent(percent) {
            labels.insert(format!("{prefix}{key}"), json!(c.one(values)));
        }
    }
    labels
}

/// A selector of endpoints and sets.
pub(super) fn selector(c: &mut Chance) -> String {
    expression(c, &LABELS, 2)
}

/// A selector of namespaces or service accounts.
pub(super) fn outer_selector(c: &mut Chance) -> String {
    if c.percent(10) { "all()".to_owned() } else { expression(c, &OUTER, 1) }
}

fn quoted(c: &mut Chance, text: &str) -> String {
    if text.contains('\'') || c.percent(50) { format!("\"{text}\"") } else { format!("'{text}'") }
}

fn expression(c: &mut Chance, labels: &[(&str, [&str; 3])], depth: usize) -> String {
    if depth > 0 && c.percent(30) {
        let (a, b) = (expression(c, labels, depth - 1), expression(c, labels, depth - 1));
        return match c.below(5) {
            0 | 1 => format!("{a} || {b}"),
            2 => format!("{a}&&{b}"),
            3 => format!("({a} || {b}) && {}", expression(c, labels, 0)),
            _ => format!("!({a})"),
        };
    }
    let &(key, values) = c.one(labels);
    let value = *c.one(&values);
    let other = *c.one(&values);
    let (text, more) = (quoted(c, value), quoted(c, other));
    let part = quoted(c, value.get(..1).unwrap_or(""));
    let end = quoted(c, value.get(1..).unwrap_or(""));
    match c.below(15) {
        0..=2 => format!("{key} == {text}"),
        3 => format!("{key} != {text}"),
        4 | 5 => format!("{key} in {{{text}, {more}}}"),
        6 => format!("{key} not in {{{text},{more},}}"),
        7 => format!("{key} contains {end}"),
        8 => format!("{key} starts with {part}"),
        9 => format!("{key} ends with {end}"),
        10 | 11 => format!("has({key})"),
        12 => format!("!has({key})"),
        13 => format!("{key} in {{}}"),
        _ => "all()".to_owned(),
    }
}
