//! The selector language: which labels an expression matches.
//!
//! ```text
//! selector := blank | or
//! or       := and ( "||" and )*
//! and      := term ( "&&" term )*
//! term     := "!"* primary
//! primary  := "(" or ")" | "has(" label ")" | "all()" | "global()" | label operation
//! operation:= "==" str | "!=" str | "contains" str | "starts with" str | "ends with" str
//!           | "in" set | "not in" set
//! ```
//!
//! This module owns the syntax, the canonical text (ids of address sets are derived from it), the
//! evaluation against labels, and the rewritings that layouts need. It must not know what the
//! labels belong to: they are looked up through [`LabelSource`], because labels are inherited.

mod ast;
mod parse;
mod restriction;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha224};

use super::Labels;
use ast::Node;
pub use restriction::{Restriction, Restrictions};

/// How deep a selector may nest: parentheses and `!` in the text, operators in the tree. The
/// original has no bound and recurses; nobody writes more than a handful, and without a bound one
/// object could exhaust the stack of every agent in the cluster.
pub const MAX_DEPTH: usize = 128;

/// The longest label name that a selector may hold, in bytes.
pub const MAX_LABEL_LEN: usize = 512;

/// Where the value of a label comes from: an object's own labels, or those that it inherits too.
pub trait LabelSource {
    /// The value, or `None` when the label is absent. An empty value is a value.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSource for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl<T: LabelSource + ?Sized> LabelSource for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// A parsed selector: immutable, shared when cloned. Two selectors are equal (and hash and sort
/// alike) when their canonical texts are.
#[derive(Clone)]
pub struct Selector(Arc<Parsed>);

struct Parsed {
    canonical: String,
    root: Node,
}

/// The text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}: {reason} at byte {offset}")]
pub struct InvalidSelector {
    /// The text as written, cut when it is very long.
    pub text: String,
    /// What was expected.
    pub reason: String,
    /// Where, in bytes from the start of the uncut text.
    pub offset: usize,
}

impl Selector {
    fn from_root(root: Node) -> Self {
        Self(Arc::new(Parsed { canonical: root.to_string(), root }))
    }

    /// `all()`: matches everything.
    pub fn all() -> Self {
        Self::from_root(Node::All)
    }

    /// `has(label)`: the label is present, whatever its value.
    ///
    /// # Errors
    /// When the text cannot be a label in a selector.
    pub fn has(label: &str) -> Result<Self, InvalidSelector> {
        Ok(Self::from_root(Node::Has(parse::label_name(label)?)))
    }

    /// `label == "value"`.
    ///
    /// # Errors
    /// When the label cannot be one, or the value holds both kinds of quotes and so cannot be
    /// written down.
    pub fn equals(label: &str, value: &str) -> Result<Self, InvalidSelector> {
        let label = parse::label_name(label)?;
        Ok(Self::from_root(Node::Equals(label, parse::value(value)?)))
    }

    /// `label in {"value", …}`.
    ///
    /// # Errors
    /// As for [`Self::equals`].
    pub fn one_of<'a>(
        label: &str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidSelector> {
        let label = parse::label_name(label)?;
        let values = values.into_iter().map(parse::value).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::from_root(Node::In(label, ast::set(values))))
    }

    /// The canonical text: what ids are derived from. It parses to an equal selector.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    /// The id of the selector's address set, as the original computes it: `s:` and the unpadded
    /// URL-safe base64 of SHA-224 of `s:` and the canonical text. 40 characters.
    pub fn id(&self) -> String {
        let hash = Sha224::new().chain_update("s:").chain_update(self.canonical()).finalize();
        format!("s:{}", URL_SAFE_NO_PAD.encode(hash))
    }

    /// True for exactly `all()`, which is also what a blank text means.
    pub fn is_all(&self) -> bool {
        matches!(self.0.root, Node::All)
    }

    /// True when the labels match. `global()` by itself matches everything.
    pub fn matches(&self, labels: &(impl LabelSource + ?Sized)) -> bool {
        self.0.root.matches(labels)
    }

    /// What matching labels need to have: sound (an object that does not fulfil it never matches)
    /// but not complete. An index uses it to look at few candidates.
    pub fn restrictions(&self) -> Restrictions {
        restriction::of(&self.0.root)
    }

    /// `(self && other)`.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::from_root(Node::And(vec![self.0.root.clone(), other.0.root.clone()]))
    }

    /// `(self || other)`.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self::from_root(Node::Or(vec![self.0.root.clone(), other.0.root.clone()]))
    }

    /// `!self`; twice is none.
    #[must_use]
    pub fn not(&self) -> Self {
        Self::from_root(self.0.root.clone().negated())
    }

    /// The same selector over labels whose names start with `prefix`: `pcns.` makes one about
    /// endpoints out of one about their namespace. `all()` and `global()` stay as they are.
    #[must_use]
    pub fn with_label_prefix(&self, prefix: &str) -> Self {
        Self::from_root(self.0.root.with_label_prefix(prefix))
    }

    /// Every `all()` in it replaced.
    #[must_use]
    pub fn replacing_all_with(&self, replacement: &Self) -> Self {
        Self::from_root(self.0.root.replacing(&Node::All, &replacement.0.root))
    }

    /// Every `global()` in it replaced.
    #[must_use]
    pub fn replacing_global_with(&self, replacement: &Self) -> Self {
        Self::from_root(self.0.root.replacing(&Node::Global, &replacement.0.root))
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::parse(text).map(Self::from_root)
    }
}

impl Default for Selector {
    /// `all()`.
    fn default() -> Self {
        Self::all()
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.canonical() == other.canonical()
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.canonical())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.canonical())
    }
}
