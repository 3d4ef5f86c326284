//! A diff applied to a state, as a dataplane does it.

use std::collections::BTreeMap;

use crate::desired::{Change, DesiredDiff, DesiredState, Member};

/// Does what a dataplane does with a diff.
pub(super) fn patch(old: &DesiredState, diff: &DesiredDiff, new: &DesiredState) -> DesiredState {
    fn map<K: Ord + Clone, V: Clone + PartialEq + std::fmt::Debug>(
        old: &imbl::OrdMap<K, V>,
        changes: &[(K, Change<V>)],
    ) -> imbl::OrdMap<K, V> {
        let mut map = old.clone();
        for (key, change) in changes {
            match change {
                Change::Added(new) => assert_eq!(map.insert(key.clone(), new.clone()), None),
                Change::Removed(old) => assert_eq!(map.remove(key).as_ref(), Some(old)),
                Change::Updated { old, new } => {
                    assert_ne!(old, new);
                    assert_eq!(map.insert(key.clone(), new.clone()).as_ref(), Some(old));
                }
            }
        }
        map
    }
    let mut sets: BTreeMap<_, _> = old.sets.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    for id in &diff.sets_removed {
        assert!(sets.remove(id).is_some());
    }
    for (id, set) in &diff.sets_added {
        assert!(sets.insert(id.clone(), set.clone()).is_none());
    }
    for (id, change) in &diff.sets_changed {
        let members = &mut sets.get_mut(id).unwrap().members;
        assert!(!change.added.is_empty() || !change.removed.is_empty());
        change.removed.iter().for_each(|member| assert!(members.remove(member).is_some()));
        change.added.iter().for_each(|member: &Member| assert!(members.insert(*member).is_none()));
    }
    assert_eq!(!diff.hosts.is_empty(), old.host_endpoints != new.host_endpoints);
    assert_eq!(diff.pools, old.pools != new.pools);
    assert_eq!(diff.overlays, old.overlays != new.overlays);
    assert_eq!(diff.blocks, old.blocks != new.blocks);
    assert_eq!(diff.bgp, old.bgp != new.bgp);
    assert_eq!(diff.settings, old.settings != new.settings);
    DesiredState {
        endpoints: map(&old.endpoints, &diff.endpoints),
        classes: map(&old.classes, &diff.classes),
        policies: map(&old.policies, &diff.policies),
        profiles: map(&old.profiles, &diff.profiles),
        notices: map(&old.notices, &diff.notices),
        sets: sets.into_iter().collect(),
        ..new.clone()
    }
}
