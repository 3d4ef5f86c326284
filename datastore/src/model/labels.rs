//! Labels: what selectors look at.

use std::collections::BTreeMap;
use std::sync::Arc;

/// An immutable map of labels, shared when cloned. An empty value is a value: rkt's networks are
/// labels with an empty value, and `has(frontend)` must find them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// The value of a label, or `None` when it is absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }

    /// Every label in order of its key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        Self(Arc::new(labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}
