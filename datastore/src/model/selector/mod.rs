//! The selector language: which labels an expression matches.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// A parsed selector. Two selectors are equal when their canonical texts are.
#[derive(Clone)]
pub struct Selector {
    canonical: Arc<str>,
}

/// The text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}: {reason} at byte {offset}")]
pub struct InvalidSelector {
    /// The text as written.
    pub text: String,
    /// What was expected.
    pub reason: String,
    /// Where.
    pub offset: usize,
}

impl Selector {
    /// `all()`.
    pub fn all() -> Self {
        Self { canonical: Arc::from("all()") }
    }

    /// The canonical text: what ids are derived from.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        Ok(Self::all())
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.canonical)
    }
}
