//! Layouts: how objects are written down in a store.
//!
//! The only code in the project that knows keys and JSON. A value that does not parse becomes a
//! typed [`Rejection`] and counts as absent.

mod reports;
mod status_file;
pub mod v1;
pub mod v3;

pub use reports::Reports;
pub use status_file::endpoint_status_file_name;
pub use v1::Part;

use crate::model::{ResourceId, Update};

/// Whether this is a key of an etcd, of whatever layout, and not the name of a file.
pub fn is_key(text: &str) -> bool {
    v3::LAYOUT.contains(text) || v1::LAYOUT.contains(text)
}

/// The object that a key stands for, or is a part of, in the layout that it is a key of.
pub fn object_of(key: &str) -> Option<ResourceId> {
    let layout = [v3::LAYOUT, v1::LAYOUT].into_iter().find(|layout| layout.contains(key))?;
    (layout.id_of)(key)
}

/// A key whose value was refused. The object counts as absent until the key changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The key as stored.
    pub key: String,
    /// The object, when the key itself could be read.
    pub id: Option<ResourceId>,
    /// What is wrong, naming the field.
    pub reason: String,
}

/// What a key and its value turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An object. An update without a value says that the document is well-formed but stands for
    /// no object (a workload endpoint without addresses): it counts as gone, and is no error.
    Object(Update),
    /// A part of an object that several keys describe together. What the object is follows from all
    /// parts that are stored: [`Part`].
    Part(Part),
    /// An object of a kind that is known but not supported yet, or a staged policy; counted, not an
    /// error.
    Unsupported {
        /// The kind's plural, as in the key: `bgppeers`.
        kind: String,
    },
    /// Nothing that concerns this agent.
    Ignored,
    /// An object that does not parse: it counts as absent.
    Rejected(Rejection),
}

/// What a store has to know of the layout that its objects are written in.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Every key of the layout begins with one of these. Ascending, disjoint, each ending in `/`.
    /// They must lie so that no key which is rewritten all the time (status, under
    /// `/calico/felix/`) sorts between the first and the last: etcd watches the whole span.
    pub prefixes: &'static [&'static str],
    /// The key of the object that says whether the store is ready. It decodes to
    /// [`Update::ClusterInformation`].
    pub ready_key: &'static str,
    /// What a key and its value are. A pure function: equal values of a key decode equally.
    pub decode: fn(&str, &[u8]) -> Decoded,
    /// The object that a key describes, without looking at its value.
    pub id_of: fn(&str) -> Option<ResourceId>,
}

impl Layout {
    /// Whether this value of [`Layout::ready_key`] says that the store is ready. Absent, malformed
    /// or anything else means no.
    pub fn is_ready(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return false };
        match (self.decode)(self.ready_key, value) {
            Decoded::Object(Update::ClusterInformation(Some(info))) => info.datastore_ready,
            _ => false,
        }
    }

    /// Whether a key belongs to the layout.
    pub fn contains(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}
