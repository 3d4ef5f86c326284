//! What decides about a host's own interfaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_datastore::model::{
    Action, HostEndpoint, HostEndpointId, Name, Order, Policy, PolicyId, PolicyKind, Profile,
    Protocol, Rule, Selector, Tier, TierAction, Update,
};
use calico_reference::{Host, Reference};

use super::each_policy;

/// Something that can decide what a host does with a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFeature {
    /// What it is called in reports.
    pub(crate) name: &'static str,
    /// How often it has to decide at least in 10,000 trips.
    pub(crate) least: u64,
    /// Makes a datastore and its host blind to it.
    pub(crate) blind: fn(&mut Vec<Update>, &mut Host),
}

const fn feature(
    name: &'static str,
    least: u64,
    blind: fn(&mut Vec<Update>, &mut Host),
) -> HostFeature {
    HostFeature { name, least, blind }
}

pub(crate) const FEATURES: &[HostFeature] = &[
    feature("host endpoints", 1360, |u, _| {
        u.retain(|update| !matches!(update, Update::HostEndpoint(..)));
    }),
    feature("an interface by its name", 360, |u, _| {
        retain(u, |e| e.interface.as_ref().is_none_or(|name| *name == *"*"));
    }),
    feature("an interface by its address", 100, |u, _| retain(u, |e| e.interface.is_some())),
    feature("all interfaces", 320, |u, _| {
        retain(u, |e| e.interface.as_ref().is_none_or(|name| *name != *"*"));
    }),
    feature("a name before an address", 25, |u, host| {
        let by_name = |e: &HostEndpoint| e.interface.as_ref().is_some_and(|name| *name != *"*");
        rivals_lose(u, host, by_name, |e| e.interface.is_none());
    }),
    feature("a name or an address before all", 45, |u, host| {
        let all = |e: &HostEndpoint| e.interface.as_ref().is_some_and(|name| *name == *"*");
        rivals_lose(u, host, |e| !all(e), all);
    }),
    feature("the lowest name of rivals", 75, |u, host| {
        rivals_lose(u, host, |e| e.interface.is_some(), |e| e.interface.is_some());
    }),
    feature("normal policies", 910, |u, _| of_kind_gone(u, PolicyKind::Normal)),
    feature("applyOnForward", 270, |u, _| each_policy(u, |p| p.apply_on_forward = false)),
    feature("without applyOnForward nothing is asked of what passes", 130, |u, _| {
        each_policy(u, |p| p.apply_on_forward = true);
    }),
    feature("doNotTrack", 180, |u, _| of_kind_gone(u, PolicyKind::Untracked)),
    feature("preDNAT", 85, |u, _| of_kind_gone(u, PolicyKind::PreDnat)),
    feature("doNotTrack is not normal", 360, |u, _| kind(u, PolicyKind::Untracked)),
    feature("preDNAT is not normal", 110, |u, _| kind(u, PolicyKind::PreDnat)),
    feature("the end of early tiers drops nothing", 580, early_ends),
    feature("defaultAction of tiers", 370, |u, _| {
        each_tier(u, |tier| {
            tier.default_action = match tier.default_action {
                TierAction::Pass => TierAction::Deny,
                TierAction::Deny => TierAction::Pass,
            };
        });
    }),
    feature("profiles of host endpoints", 100, |u, _| each_host(u, |e| e.profiles.clear())),
    feature("order of their profiles", 20, |u, _| each_host(u, |e| e.profiles.reverse())),
    feature("their missing profiles", 10, |u, _| {
        let name = |update: &Update| match update {
            Update::Profile(name, Some(_)) => Some(name.clone()),
            _ => None,
        };
        let stored: BTreeSet<Name> = u.iter().filter_map(name).collect();
        let there = |name: &Name| stored.contains(name) || *name == *Profile::DEFAULT_ALLOW;
        each_host(u, |e| e.profiles.retain(there));
    }),
    feature("fail-safe ports inbound", 65, |_, host| host.failsafe_in.clear()),
    feature("fail-safe ports outbound", 55, |_, host| host.failsafe_out.clear()),
    feature("peers of fail-safe ports", 20, |_, host| {
        let lists = host.failsafe_in.iter_mut().chain(&mut host.failsafe_out);
        lists.for_each(|one| one.net = None);
    }),
    feature("protocols of fail-safe ports", 65, |_, host| {
        let lists = host.failsafe_in.iter_mut().chain(&mut host.failsafe_out);
        lists.for_each(|one| one.protocol = Protocol::TCP);
    }),
];

fn each_host(updates: &mut [Update], change: impl Fn(&mut HostEndpoint)) {
    for update in updates {
        if let Update::HostEndpoint(_, Some(endpoint)) = update {
            change(Arc::make_mut(endpoint));
        }
    }
}

fn each_tier(updates: &mut [Update], change: impl Fn(&mut Tier)) {
    for update in updates {
        if let Update::Tier(_, Some(tier)) = update {
            change(Arc::make_mut(tier));
        }
    }
}

/// Others govern nothing: they stay what rules may mean.
fn retain(updates: &mut [Update], keeps: impl Fn(&HostEndpoint) -> bool) {
    each_host(updates, |endpoint| {
        if !keeps(endpoint) {
            endpoint.interface = Some(Name::from("nowhere"));
        }
    });
}

/// Whoever governs an interface that somebody else of those who lose would govern does not.
fn rivals_lose(
    updates: &mut [Update],
    host: &Host,
    winner: impl Fn(&HostEndpoint) -> bool,
    other: impl Fn(&HostEndpoint) -> bool,
) {
    let reference = Reference::new(updates.iter());
    let mut lose: Vec<HostEndpointId> = Vec::new();
    for interface in &host.interfaces {
        let Some(first) = reference.host_endpoint_of(&host.node, interface) else { continue };
        let of = |id: &HostEndpointId| reference.hosts().find(|(one, _)| *one == id);
        let rest = updates
            .iter()
            .filter(|update| !matches!(update, Update::HostEndpoint(id, _) if id == first));
        let rest = Reference::new(rest);
        let Some(second) = rest.host_endpoint_of(&host.node, interface) else { continue };
        let fits =
            of(first).is_some_and(|(_, e)| winner(e)) && of(second).is_some_and(|(_, e)| other(e));
        if fits {
            lose.push(first.clone());
        }
    }
    for update in updates {
        if let Update::HostEndpoint(id, Some(endpoint)) = update
            && lose.contains(id)
        {
            Arc::make_mut(endpoint).interface = Some(Name::from("nowhere"));
        }
    }
}

fn of_kind_gone(updates: &mut Vec<Update>, kind: PolicyKind) {
    updates.retain(|update| !matches!(update, Update::Policy(_, Some(p)) if p.kind == kind));
}

fn kind(updates: &mut [Update], kind: PolicyKind) {
    each_policy(updates, |policy| {
        if policy.kind == kind {
            policy.kind = PolicyKind::Normal;
        }
    });
}

/// Behind the early policies of each tier comes one more that denies everything.
fn early_ends(updates: &mut Vec<Update>, _: &mut Host) {
    let mut last: Vec<(PolicyId, Policy)> = Vec::new();
    for update in updates.iter() {
        if let Update::Policy(id, Some(policy)) = update
            && policy.kind != PolicyKind::Normal
        {
            let deny = vec![Rule::any(Action::Deny)];
            let policy = Policy {
                order: Order::LAST,
                selector: Selector::all(),
                ingress: deny.clone(),
                egress: deny,
                ..(**policy).clone()
            };
            let name = Name::from(format!("{}-zzz", id.name).as_str());
            last.push((PolicyId { name, ..id.clone() }, policy));
        }
    }
    updates.extend(last.into_iter().map(|(id, p)| Update::Policy(id, Some(Arc::new(p)))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trip::Trip;
    use crate::world::World;

    /// Does somebody who is blind to the feature let another packet pass?
    fn is_wrong(feature: &HostFeature, world: &World, host: &Host, Trip(trip): &Trip) -> bool {
        let (updates, mut other) = (world.updates(), host.clone());
        let mut changed = updates.clone();
        (feature.blind)(&mut changed, &mut other);
        let passes =
            |updates: &[Update], host: &Host| Reference::new(updates).follow(host, trip).allowed;
        passes(&updates, host) != passes(&changed, &other)
    }

    #[test]
    fn an_error_about_hosts_is_found_and_its_world_is_small() {
        for feature in FEATURES {
            let found = (0..400).find_map(|seed| {
                let (world, host) = (World::with_hosts(seed), World::host(seed));
                let (updates, mut other) = (world.updates(), host.clone());
                let mut changed = updates.clone();
                (feature.blind)(&mut changed, &mut other);
                if changed == updates && other == host {
                    return None;
                }
                let (right, wrong) = (Reference::new(&updates), Reference::new(&changed));
                let mut trips = world.trips_of(&updates, &host, seed, 60).into_iter();
                let trip = trips.find(|Trip(trip)| {
                    right.follow(&host, trip).allowed != wrong.follow(&other, trip).allowed
                })?;
                Some((world, host, trip))
            });
            let (world, host, trip) =
                found.unwrap_or_else(|| panic!("{}: not found", feature.name));
            let small = crate::shrink(&world, |world| is_wrong(feature, world, &host, &trip));
            let count = small.objects.len();
            assert!(is_wrong(feature, &small, &host, &trip), "{}", feature.name);
            assert!(count <= 5, "{}: {count} objects\n{trip}\n{:#?}", feature.name, small.objects);
            for key in small.objects.keys() {
                let mut less = small.clone();
                less.objects.remove(key);
                assert!(!is_wrong(feature, &less, &host, &trip), "{}: {key}", feature.name);
            }
        }
    }
}
