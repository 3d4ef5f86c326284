//! The tree of a selector: evaluation, canonical text, rewriting. No parsing.

use std::fmt;
use std::sync::Arc;

use super::LabelSource;

/// One expression. Sets are sorted and free of duplicates; `And` and `Or` have at least two
/// operands; `Not` never holds a `Not`, since `!!x` reads back as `x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    All,
    Global,
    Has(Arc<str>),
    Equals(Arc<str>, Arc<str>),
    Differs(Arc<str>, Arc<str>),
    Contains(Arc<str>, Arc<str>),
    StartsWith(Arc<str>, Arc<str>),
    EndsWith(Arc<str>, Arc<str>),
    In(Arc<str>, Arc<[Arc<str>]>),
    NotIn(Arc<str>, Arc<[Arc<str>]>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// A set literal in canonical order.
pub(super) fn set(mut values: Vec<Arc<str>>) -> Arc<[Arc<str>]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

fn holds(set: &[Arc<str>], value: &str) -> bool {
    set.binary_search_by(|member| (**member).cmp(value)).is_ok()
}

impl Node {
    /// What is absent differs from everything: `!=` and `not in` are true without the label, all
    /// other operators are false.
    pub(super) fn matches(&self, labels: &(impl LabelSource + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.label(key).is_some(),
            Self::Equals(key, value) => labels.label(key).is_some_and(|v| v == &**value),
            Self::Differs(key, value) => labels.label(key).is_none_or(|v| v != &**value),
            Self::Contains(key, value) => labels.label(key).is_some_and(|v| v.contains(&**value)),
            Self::StartsWith(key, value) => {
                labels.label(key).is_some_and(|v| v.starts_with(&**value))
            }
            Self::EndsWith(key, value) => labels.label(key).is_some_and(|v| v.ends_with(&**value)),
            Self::In(key, values) => labels.label(key).is_some_and(|v| holds(values, v)),
            Self::NotIn(key, values) => labels.label(key).is_none_or(|v| !holds(values, v)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels)),
        }
    }

    pub(super) fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// The number of operators above the deepest term.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Not(inner) => 1 + inner.depth(),
            Self::And(terms) | Self::Or(terms) => {
                1 + terms.iter().map(Self::depth).max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    pub(super) fn with_label_prefix(&self, prefix: &str) -> Self {
        let long = |key: &Arc<str>| Arc::from(format!("{prefix}{key}"));
        match self {
            Self::All | Self::Global => self.clone(),
            Self::Has(key) => Self::Has(long(key)),
            Self::Equals(key, value) => Self::Equals(long(key), value.clone()),
            Self::Differs(key, value) => Self::Differs(long(key), value.clone()),
            Self::Contains(key, value) => Self::Contains(long(key), value.clone()),
            Self::StartsWith(key, value) => Self::StartsWith(long(key), value.clone()),
            Self::EndsWith(key, value) => Self::EndsWith(long(key), value.clone()),
            Self::In(key, values) => Self::In(long(key), values.clone()),
            Self::NotIn(key, values) => Self::NotIn(long(key), values.clone()),
            Self::Not(_) | Self::And(_) | Self::Or(_) => {
                self.map_operands(|node| node.with_label_prefix(prefix))
            }
        }
    }

    /// A copy with every node that equals `wanted` (a leaf) replaced.
    pub(super) fn replacing(&self, wanted: &Self, replacement: &Self) -> Self {
        if self == wanted {
            return replacement.clone();
        }
        self.map_operands(|node| node.replacing(wanted, replacement))
    }

    fn map_operands(&self, change: impl Fn(&Self) -> Self) -> Self {
        match self {
            Self::Not(inner) => change(inner).negated(),
            Self::And(terms) => Self::And(terms.iter().map(change).collect()),
            Self::Or(terms) => Self::Or(terms.iter().map(change).collect()),
            leaf => leaf.clone(),
        }
    }
}

/// A string literal: double quotes unless the value holds one. A parsed value never holds both.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, values: &[Arc<str>]) -> fmt::Result {
    f.write_str("{")?;
    for (i, value) in values.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{}", Quoted(value))?;
    }
    f.write_str("}")
}

fn write_terms(f: &mut fmt::Formatter<'_>, terms: &[Node], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (i, term) in terms.iter().enumerate() {
        if i > 0 {
            write!(f, " {operator} ")?;
        }
        write!(f, "{term}")?;
    }
    f.write_str(")")
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::Differs(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Self::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Self::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Self::In(key, values) => {
                write!(f, "{key} in ")?;
                write_set(f, values)
            }
            Self::NotIn(key, values) => {
                write!(f, "{key} not in ")?;
                write_set(f, values)
            }
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(terms) => write_terms(f, terms, "&&"),
            Self::Or(terms) => write_terms(f, terms, "||"),
        }
    }
}
