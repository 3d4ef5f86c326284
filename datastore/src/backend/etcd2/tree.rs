//! What events mean for single keys: directories come and go as a whole here.
//!
//! Pure: it knows the keys that there are, no values, and no store.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::wire::Event;
use crate::layout::Layout;

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// It was created or overwritten.
    Set(Arc<str>),
    /// It is gone.
    Delete(Arc<str>),
}

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Changes of keys, in order. None for what concerns directories alone.
    Ops(Vec<Op>),
    /// The store is no longer ready: nothing of this may be applied.
    NotReady,
    /// Everything has to be read again; why.
    Resync(&'static str),
}

/// The keys of a store.
#[derive(Debug)]
pub struct Tree {
    layout: Layout,
    keys: BTreeSet<Arc<str>>,
}

impl Tree {
    /// A store of which no key is known.
    pub fn new(layout: Layout) -> Self {
        Self { layout, keys: BTreeSet::new() }
    }

    /// Forgets every key: a listing begins.
    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// A key of a listing.
    pub fn insert(&mut self, key: &str) {
        self.keys.insert(Arc::from(key));
    }

    /// What an event means, which then has happened.
    pub fn apply(&mut self, event: &Event) -> Outcome {
        let node = &event.node;
        match (event.action.as_str(), node.dir) {
            ("set" | "create" | "update" | "compareAndSwap", false) => {
                let value = node.value.as_deref().unwrap_or_default();
                if node.key == self.layout.ready_key
                    && !self.layout.is_ready(Some(value.as_bytes()))
                {
                    return Outcome::NotReady;
                }
                let key: Arc<str> = Arc::from(node.key.as_str());
                self.keys.insert(Arc::clone(&key));
                Outcome::Ops(vec![Op::Set(key)])
            }
            // A directory in the place of a key: the key is gone. Else a directory is nothing.
            ("set" | "create" | "update" | "compareAndSwap", true) => {
                if node.key == self.layout.ready_key {
                    return Outcome::NotReady;
                }
                let gone = self.keys.take(node.key.as_str());
                Outcome::Ops(gone.map(Op::Delete).into_iter().collect())
            }
            ("delete" | "compareAndDelete" | "expire", _) => self.delete(&node.key),
            _ => Outcome::Resync("an event of a kind that is not known"),
        }
    }

    /// A key, or a directory with everything below it.
    fn delete(&mut self, key: &str) -> Outcome {
        let below = format!("{key}/");
        if self.layout.ready_key == key {
            return Outcome::NotReady;
        }
        if self.layout.ready_key.starts_with(&below) {
            return Outcome::Resync("the store was deleted");
        }
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        let inside = self.keys.range::<str, _>(from).take_while(|key| key.starts_with(&below));
        let own = self.keys.get(key).into_iter();
        let gone: Vec<Arc<str>> = own.chain(inside).cloned().collect();
        for key in &gone {
            self.keys.remove(key);
        }
        Outcome::Ops(gone.into_iter().map(Op::Delete).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Node;
    use super::*;
    use crate::layout::v1;

    fn tree(keys: &[&str]) -> Tree {
        let mut tree = Tree::new(v1::LAYOUT);
        keys.iter().for_each(|key| tree.insert(key));
        tree
    }

    fn event(action: &str, key: &str, dir: bool) -> Event {
        let value = (!dir).then(|| "x".to_owned());
        let node = Node { key: key.to_owned(), dir, value, ..Node::default() };
        Event { action: action.to_owned(), node }
    }

    fn deleted(keys: &[&str]) -> Outcome {
        Outcome::Ops(keys.iter().map(|key| Op::Delete(Arc::from(*key))).collect())
    }

    #[test]
    fn a_directory_goes_with_what_is_below_it_and_nothing_else() {
        let keys = [
            "/calico/v1/a",
            "/calico/v1/a/x",
            "/calico/v1/a/y/z",
            "/calico/v1/ab/x",
            "/calico/v1/a-b",
        ];
        let mut tree = tree(&keys);
        let expected = deleted(&["/calico/v1/a", "/calico/v1/a/x", "/calico/v1/a/y/z"]);
        assert_eq!(tree.apply(&event("delete", "/calico/v1/a", true)), expected);
        assert_eq!(tree.apply(&event("delete", "/calico/v1/a", true)), deleted(&[]));
        assert_eq!(tree.keys.len(), 2);
    }

    #[test]
    fn a_directory_in_the_place_of_a_key_takes_it_away() {
        let mut tree = tree(&["/calico/v1/a"]);
        assert_eq!(tree.apply(&event("set", "/calico/v1/a", true)), deleted(&["/calico/v1/a"]));
        assert_eq!(tree.apply(&event("set", "/calico/v1/b", true)), deleted(&[]));
        // Its TTL was changed.
        assert_eq!(tree.apply(&event("update", "/calico/v1/b", true)), deleted(&[]));
    }

    #[test]
    fn the_end_of_the_ready_key_is_not_applied() {
        let mut tree = tree(&[v1::READY_KEY, "/calico/v1/a"]);
        for (action, dir) in [("delete", false), ("expire", false), ("set", false), ("set", true)] {
            let outcome = tree.apply(&event(action, v1::READY_KEY, dir));
            assert_eq!(outcome, Outcome::NotReady, "{action}");
        }
        for directory in ["/calico/v1", "/calico"] {
            let outcome = tree.apply(&event("delete", directory, true));
            assert!(matches!(outcome, Outcome::Resync(_)), "{directory}");
        }
        let other = tree.apply(&event("whatever", "/calico/v1/a", false));
        assert!(matches!(other, Outcome::Resync(_)));
        assert_eq!(tree.keys.len(), 2, "nothing of this has happened");
    }
}
