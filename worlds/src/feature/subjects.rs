//! Endpoints, profiles and sets: who is asked, and whom rules mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{
    Cidr, Labels, Name, Profile, Update, WorkloadEndpoint, WorkloadEndpointId,
};

use super::Feature;

pub(super) const FEATURES: &[Feature] = &[
    Feature::objects("rules of profiles", 150, |u| {
        each_profile(u, |_, profile| {
            profile.ingress.clear();
            profile.egress.clear();
        });
    }),
    Feature::objects("order of profiles", 200, |u| {
        each_workload(u, |_, endpoint| endpoint.profiles.reverse());
    }),
    Feature::objects("missing profile", 50, |u| {
        let stored = profiles(u);
        each_workload(u, |_, endpoint| {
            endpoint
                .profiles
                .retain(|name| stored.contains(name) || *name == *Profile::DEFAULT_ALLOW);
        });
    }),
    Feature::objects("projectcalico-default-allow", 350, |u| {
        each_workload(u, |_, endpoint| {
            endpoint.profiles.retain(|name| *name != *Profile::DEFAULT_ALLOW);
        });
    }),
    Feature::objects("labelsToApply", 100, |u| {
        each_profile(u, |_, profile| profile.labels = Labels::default());
    }),
    Feature::objects("an own label before an inherited one", 50, |u| own_labels_last(u)),
    Feature::objects("network sets", 65, |u| {
        u.retain(|update| !matches!(update, Update::NetworkSet(..)));
    }),
    Feature::objects("labels that a network set inherits", 3, |u| {
        for update in u {
            if let Update::NetworkSet(_, Some(set)) = update {
                Arc::make_mut(set).profiles.clear();
            }
        }
    }),
    Feature::objects("endpoints of other nodes", 15, |u| {
        u.retain(|update| !matches!(update, Update::WorkloadEndpoint(id, _) if is_far(id)));
    }),
    Feature::objects("host endpoints as members", 5, |u| {
        u.retain(|update| !matches!(update, Update::HostEndpoint(..)));
    }),
    Feature::objects("an address of several", 3, |u| {
        let near = near_addresses(u);
        let shared = |net: &Cidr| near.contains(net);
        each_workload(u, |id, endpoint| {
            if is_far(id) {
                endpoint.addresses.retain(|net| !shared(net));
            }
        });
        for update in u {
            if let Update::HostEndpoint(_, Some(endpoint)) = update {
                Arc::make_mut(endpoint).expected_addresses.retain(|ip| !shared(&Cidr::host(*ip)));
            }
        }
    }),
];

fn each_profile(updates: &mut [Update], change: impl Fn(&Name, &mut Profile)) {
    for update in updates {
        if let Update::Profile(name, Some(profile)) = update {
            change(name, Arc::make_mut(profile));
        }
    }
}

fn each_workload(
    updates: &mut [Update],
    change: impl Fn(&WorkloadEndpointId, &mut WorkloadEndpoint),
) {
    for update in updates {
        if let Update::WorkloadEndpoint(id, Some(endpoint)) = update {
            change(id, Arc::make_mut(endpoint));
        }
    }
}

fn is_far(id: &WorkloadEndpointId) -> bool {
    id.node == *"far"
}

fn profiles(updates: &[Update]) -> BTreeSet<Name> {
    let name = |update: &Update| match update {
        Update::Profile(name, Some(_)) => Some(name.clone()),
        _ => None,
    };
    updates.iter().filter_map(name).collect()
}

fn near_addresses(updates: &[Update]) -> BTreeSet<Cidr> {
    let of = |update: &Update| match update {
        Update::WorkloadEndpoint(id, Some(endpoint)) if !is_far(id) => endpoint.addresses.clone(),
        _ => Vec::new(),
    };
    updates.iter().flat_map(of).collect()
}

/// Labels that a profile gives as well are not the endpoint's own any more.
fn own_labels_last(updates: &mut [Update]) {
    let given: Vec<(Name, BTreeSet<String>)> = updates
        .iter()
        .filter_map(|update| match update {
            Update::Profile(name, Some(profile)) => {
                Some((name.clone(), profile.labels.iter().map(|(k, _)| k.to_string()).collect()))
            }
            _ => None,
        })
        .collect();
    each_workload(updates, |_, endpoint| {
        let inherited = |key: &str| {
            given.iter().any(|(name, keys)| endpoint.profiles.contains(name) && keys.contains(key))
        };
        let own = endpoint.labels.iter().filter(|(key, _)| !inherited(key));
        endpoint.labels = own.map(|(k, v)| (Arc::clone(k), Arc::clone(v))).collect();
    });
}
