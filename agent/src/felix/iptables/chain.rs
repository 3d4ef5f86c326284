//! A chain with the hashes of its rules: what is compared, written, and remembered.

use super::hash::{self, RuleHash};
use super::save::{Found, Held};

/// A chain of ours as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its rules, without chain and comment.
    pub lines: Vec<String>,
    /// Their hashes.
    pub hashes: Vec<RuleHash>,
}

impl Chain {
    /// The chain `name` of these rules.
    pub fn new(name: &str, lines: Vec<String>) -> Self {
        let hashes = hash::of_chain(name, &lines).collect();
        Self { lines, hashes }
    }

    /// The rule at a place as the tools take it behind the name of the chain.
    pub(super) fn rule(&self, at: usize) -> String {
        match (self.hashes.get(at), self.lines.get(at)) {
            (Some(hash), Some(line)) => format!("-m comment --comment \"cali:{hash}\" {line}"),
            _ => String::new(),
        }
    }

    /// True when these are its rules, in its order.
    pub(super) fn is(&self, found: &[Found]) -> bool {
        self.hashes.len() == found.len()
            && self.hashes.iter().zip(found).all(|(a, b)| b.proven && Some(*a) == b.hash)
    }

    /// True when the kernel holds it.
    pub(super) fn is_held(&self, held: &Held) -> bool {
        match held {
            Held::Known(chain) => chain.hashes == self.hashes,
            Held::Other(found) => self.is(found),
        }
    }
}
