//! Ids of what can be a member of an address set.

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
        let mut text = String::from(kind);
        for name in names {
            text.push_str(&name.as_str().len().to_string());
            text.push(':');
            text.push_str(name.as_str());
        }
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
