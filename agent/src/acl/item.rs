//! Ids of what can be a member of an address set.

use std::fmt::Write as _;

use calico_datastore::model::{HostEndpointId, Name, NetworkSetId, WorkloadEndpointId};

/// What can be a member, by an id that takes little room: a host keeps one for every endpoint of
/// the cluster, and four names apiece would be the largest thing in its memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ItemId(Box<str>);

impl ItemId {
    /// A workload endpoint of any host.
    pub(super) fn workload(id: &WorkloadEndpointId) -> Self {
        let WorkloadEndpointId { node, orchestrator, workload, endpoint } = id;
        Self::new('w', &[node, orchestrator, workload, endpoint])
    }

    /// A host endpoint of any host.
    pub(super) fn host(id: &HostEndpointId) -> Self {
        Self::new('h', &[&id.name])
    }

    /// A network set.
    pub(super) fn network_set(id: &NetworkSetId) -> Self {
        match &id.namespace {
            Some(namespace) => Self::new('n', &[namespace, &id.name]),
            None => Self::new('g', &[&id.name]),
        }
    }

    /// The length before each name: no two ids have one text, whatever the names hold.
    fn new(kind: char, names: &[&Name]) -> Self {
        // Asked for with each object that comes: memory once, and as much as it takes.
        let digits = |length: usize| length.checked_ilog10().unwrap_or(0) as usize + 1;
        let sizes = names.iter().map(|name| name.as_str().len());
        let size = 1 + sizes.map(|length| digits(length) + 1 + length).sum::<usize>();
        let mut text = String::with_capacity(size);
        text.push(kind);
        for name in names {
            let name = name.as_str();
            // Into a string it never fails.
            let _ = write!(text, "{}:{name}", name.len());
        }
        debug_assert_eq!(text.len(), size);
        Self(text.into_boxed_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_objects_have_one_item_id() {
        let workload = |node: &str, workload: &str| {
            ItemId::workload(&WorkloadEndpointId {
                node: node.into(),
                orchestrator: "cni".into(),
                workload: workload.into(),
                endpoint: "eth0".into(),
            })
        };
        let set = |namespace: Option<&str>, name: &str| {
            ItemId::network_set(&NetworkSetId {
                namespace: namespace.map(Name::from),
                name: name.into(),
            })
        };
        let ids = [
            workload("a", "b"),
            workload("a3:cni1:b", "b"),
            workload("a", "b3:cni"),
            ItemId::host(&HostEndpointId { name: "a".into() }),
            set(None, "a"),
            set(Some("a"), "b"),
            set(Some("a1:b"), "b"),
            set(None, "a1:b"),
        ];
        let distinct: std::collections::HashSet<&ItemId> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
        assert_eq!(workload("a", "b"), workload("a", "b"));
    }
}
