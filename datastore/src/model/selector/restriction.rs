//! What a selector demands of labels, for an index of candidates.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::Node;

/// Per label name what matching labels must fulfil. A label that is not mentioned is free.
pub type Restrictions = BTreeMap<Arc<str>, Restriction>;

/// What a selector demands of one label. Never empty of demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The label must be there.
    pub must_be_present: bool,
    /// The label must not be there. Together with `must_be_present`: nothing ever matches.
    pub must_be_absent: bool,
    /// Its value must be one of these, sorted; an empty list = nothing ever matches.
    pub one_of: Option<Vec<Arc<str>>>,
}

impl Restriction {
    /// True when no labels fulfil it.
    pub fn is_impossible(&self) -> bool {
        self.must_be_present && self.must_be_absent
            || self.one_of.as_ref().is_some_and(Vec::is_empty)
    }

    fn present() -> Self {
        Self { must_be_present: true, ..Self::default() }
    }

    fn one_of(values: Vec<Arc<str>>) -> Self {
        Self { one_of: Some(values), ..Self::present() }
    }

    fn and(self, other: Self) -> Self {
        Self {
            must_be_present: self.must_be_present || other.must_be_present,
            must_be_absent: self.must_be_absent || other.must_be_absent,
            one_of: match (self.one_of, other.one_of) {
                (Some(mut ours), Some(theirs)) => {
                    ours.retain(|value| theirs.binary_search(value).is_ok());
                    Some(ours)
                }
                (ours, theirs) => ours.or(theirs),
            },
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            must_be_present: self.must_be_present && other.must_be_present,
            must_be_absent: self.must_be_absent && other.must_be_absent,
            one_of: self.one_of.zip(other.one_of).map(|(mut ours, theirs)| {
                ours.extend(theirs);
                // Two sorted runs, which a stable sort merges.
                ours.sort();
                ours.dedup();
                ours
            }),
        }
    }

    fn is_free(&self) -> bool {
        !self.must_be_present && !self.must_be_absent && self.one_of.is_none()
    }
}

/// Of `!` only `!has(k)` is looked into: `!(k == "v")` also matches without the label, so it
/// demands nothing.
pub(super) fn of(node: &Node) -> Restrictions {
    match node {
        Node::All | Node::Global | Node::Differs(..) | Node::NotIn(..) => Restrictions::new(),
        Node::Has(key)
        | Node::Contains(key, _)
        | Node::StartsWith(key, _)
        | Node::EndsWith(key, _) => Restrictions::from([(key.clone(), Restriction::present())]),
        Node::Equals(key, value) => {
            Restrictions::from([(key.clone(), Restriction::one_of(vec![value.clone()]))])
        }
        Node::In(key, values) => {
            Restrictions::from([(key.clone(), Restriction::one_of(values.to_vec()))])
        }
        Node::Not(inner) => match &**inner {
            Node::Has(key) => {
                let absent = Restriction { must_be_absent: true, ..Restriction::default() };
                Restrictions::from([(key.clone(), absent)])
            }
            _ => Restrictions::new(),
        },
        Node::And(terms) => terms.iter().map(of).fold(Restrictions::new(), all_of),
        Node::Or(terms) => any_of_all(terms.iter().map(of).collect()),
    }
}

fn all_of(mut left: Restrictions, right: Restrictions) -> Restrictions {
    for (key, demand) in right {
        let both = match left.remove(&key) {
            Some(other) => other.and(demand),
            None => demand,
        };
        left.insert(key, both);
    }
    left
}

/// Two by two, then those two by two: one after the other would carry the values seen so far along
/// with each alternative, and a selector may have a hundred thousand.
fn any_of_all(mut alternatives: Vec<Restrictions>) -> Restrictions {
    while alternatives.len() > 1 {
        let mut single = alternatives.into_iter();
        let mut pairs = Vec::with_capacity(single.len().div_ceil(2));
        while let Some(left) = single.next() {
            pairs.push(match single.next() {
                Some(right) => any_of(left, right),
                None => left,
            });
        }
        alternatives = pairs;
    }
    alternatives.pop().unwrap_or_default()
}

/// Only what every alternative demands.
fn any_of(left: Restrictions, mut right: Restrictions) -> Restrictions {
    left.into_iter()
        .filter_map(|(key, demand)| {
            let either = demand.or(right.remove(&key)?);
            (!either.is_free()).then_some((key, either))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crate::model::Selector;

    #[test]
    fn the_work_of_many_alternatives_does_not_grow_with_their_square() {
        let work = |alternatives: usize| {
            let terms: Vec<_> = (0..alternatives).rev().map(|n| format!("a == '{n:06}'")).collect();
            let selector: Selector = terms.join(" || ").parse().unwrap();
            // The best of some: what other programs do to the clock is no work.
            let once = || {
                let begin = Instant::now();
                let found = selector.restrictions();
                let took = begin.elapsed();
                assert_eq!(found["a"].one_of.as_ref().map(Vec::len), Some(alternatives));
                took
            };
            (0..7).map(|_| once()).min().unwrap()
        };
        let (few, many) = (work(2_000), work(64_000));
        // 32 times as many: some 40 times the work when sorted once, 1,000 times when one by one.
        assert!(many < few * 300, "{few:?} for 2,000, {many:?} for 64,000");
    }
}
