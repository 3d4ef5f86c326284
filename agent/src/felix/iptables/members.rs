//! Of which address sets an endpoint is a member: pure.

use std::collections::BTreeSet;

use calico_datastore::model::{Cidr, Family};

use super::names;
use crate::config::Settings;
use crate::desired::LocalEndpoint;
use crate::felix::endpoints::InterfaceChanges;
use crate::felix::ipset::Entry;
use crate::felix::ruleset::Direction;

/// Which sets an endpoint may be a member of besides the two of every endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds {
    /// That of the prefixes that it lists: only sources are looked up in it.
    spoof: bool,
    /// Those that count.
    counted: bool,
}

impl Kinds {
    /// What these settings say.
    pub(super) fn of(settings: &Settings) -> Self {
        Self { spoof: settings.source_spoofing, counted: settings.endpoint_counters }
    }
}

/// The members that an endpoint is: (set, member).
pub(super) fn of(
    endpoint: &LocalEndpoint,
    family: Family,
    kinds: Kinds,
) -> impl Iterator<Item = (String, Entry)> {
    let Kinds { spoof, counted } = kinds;
    let mut sets = vec![names::local_endpoints(family), names::class_set(family, &endpoint.class)];
    let mut of_sources = vec![names::spoofed(family)];
    if counted {
        sets.extend(names::counting(family));
        of_sources.push(names::denied(family, Direction::Egress));
    }
    let nets = endpoint
        .addresses
        .iter()
        // "Any address" cannot be a member, and an endpoint that may use any is none we know of.
        .filter(move |net| net.family() == family && net.prefix_len() > 0);
    let entry = |net: &Cidr| Entry::NetIface(*net, endpoint.interface.clone());
    let own = nets.flat_map(move |net| sets.clone().into_iter().map(move |set| (set, entry(net))));
    let listed = endpoint.spoof.iter().filter(move |net| spoof && net.family() == family);
    let listed = listed
        .flat_map(move |net| of_sources.clone().into_iter().map(move |set| (set, entry(net))));
    own.chain(listed)
}

/// Members of sets.
pub(super) type Members = BTreeSet<(String, Entry)>;

/// The members that come, and those that go.
pub(super) fn changed(
    interfaces: &InterfaceChanges,
    families: &[Family],
    kinds: Kinds,
) -> (Members, Members) {
    let all = |endpoint: Option<&LocalEndpoint>| -> Members {
        let families = families.iter().filter_map(|family| Some((endpoint?, *family)));
        families.flat_map(|(endpoint, family)| of(endpoint, family, kinds)).collect()
    };
    let (mut added, mut removed) = (Members::new(), Members::new());
    for (old, new) in interfaces.owners.values() {
        let (before, after) = (all(old.as_deref()), all(new.as_deref()));
        added.extend(after.difference(&before).cloned());
        removed.extend(before.difference(&after).cloned());
    }
    (added, removed)
}
