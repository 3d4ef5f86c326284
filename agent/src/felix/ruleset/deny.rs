//! The places at which policy drops a packet, and the tags by which the kernel reports them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::{Name, PolicyId, TierAction};
use sha2::{Digest as _, Sha256};

use super::Direction;
use crate::desired::{DesiredState, LocalHostEndpoint, TierAcl};

/// What of an endpoint's policy a packet was dropped by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeniedBy {
    /// A rule of a policy, or its absence.
    Policy(PolicyId),
    /// No policy of the tier allowed it.
    EndOfTier(Name),
    /// A rule of a profile, or its absence.
    Profile(Name),
    /// No tier decided, and no profile allowed it.
    End,
}

/// A place that drops, in one direction. Endpoints share it: which of them it was the interface of
/// the packet tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DenyPoint {
    /// Which way the packet went, seen from the endpoint.
    pub direction: Direction,
    /// What dropped it.
    pub place: DeniedBy,
}

/// Characters of a tag behind its direction: 96 bits of a hash, in base64.
const HASH: usize = 16;

/// The short name of a [`DenyPoint`]: the same on every host and after every start, so what the
/// kernel reports of rules that were written by an agent before is understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl Tag {
    /// `i` or `o` for the direction, and 16 characters of `A-Za-z0-9_-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A tag as the kernel gave it back. `None` for what cannot be one.
    pub fn from_report(text: &str) -> Option<Self> {
        let like = text.len() == HASH + 1 && text.starts_with(['i', 'o']);
        like.then(|| Self(text.to_owned()))
    }

    /// Which way the packet went. Known also of a place that is gone.
    pub fn direction(&self) -> Direction {
        if self.0.starts_with('i') { Direction::Ingress } else { Direction::Egress }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl DenyPoint {
    /// The tag of the point.
    pub fn tag(&self) -> Tag {
        let mut hash = Sha256::new();
        // Lengths first: no two points feed the hash the same bytes.
        let mut parts = |parts: &[&str]| {
            for part in parts {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        };
        match &self.place {
            DeniedBy::Policy(PolicyId { namespace: Some(namespace), name }) => {
                parts(&["policy", namespace.as_str(), name.as_str()]);
            }
            DeniedBy::Policy(PolicyId { namespace: None, name }) => {
                parts(&["policy", name.as_str()]);
            }
            DeniedBy::EndOfTier(tier) => parts(&["tier", tier.as_str()]),
            DeniedBy::Profile(name) => parts(&["profile", name.as_str()]),
            DeniedBy::End => parts(&["end"]),
        }
        let mut tag = match self.direction {
            Direction::Ingress => "i".to_owned(),
            Direction::Egress => "o".to_owned(),
        };
        URL_SAFE_NO_PAD.encode_string(hash.finalize(), &mut tag);
        tag.truncate(1 + HASH);
        Tag(tag)
    }
}

/// A point and the tier that its policy is asked in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// The point.
    pub point: DenyPoint,
    /// The tier, of a policy or of an end of a tier.
    pub tier: Option<Name>,
}

/// Every point at which a packet of an endpoint of `state`, pod or host, can be dropped by policy.
pub fn points(state: &DesiredState) -> HashMap<Tag, Known> {
    // Classes share their places: each is hashed once.
    let hosts = state.host_endpoints.endpoints.values();
    let distinct: HashSet<Known> =
        of_classes(state).chain(hosts.flat_map(|endpoint| of_host(endpoint))).collect();
    distinct.into_iter().map(|known| (known.point.tag(), known)).collect()
}

/// Where the policies of a tier or all of them end, for every class of `state`.
pub fn ends(state: &DesiredState) -> HashSet<DenyPoint> {
    of_classes(state).map(|known| known.point).filter(is_end).collect()
}

/// The same for host endpoints: policies that are asked early drop nothing where they end.
pub fn ends_of_hosts<'a>(
    endpoints: impl Iterator<Item = &'a LocalHostEndpoint>,
) -> HashSet<DenyPoint> {
    endpoints.flat_map(of_host).map(|known| known.point).filter(is_end).collect()
}

fn is_end(point: &DenyPoint) -> bool {
    matches!(point.place, DeniedBy::EndOfTier(_) | DeniedBy::End)
}

/// A place, and the tier that its policy is asked in.
type Place = (DeniedBy, Option<Name>);

fn of_classes(state: &DesiredState) -> impl Iterator<Item = Known> {
    state.classes.values().flat_map(|class| {
        let (ingress, egress) = (&class.ingress, &class.egress);
        let both = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        both.into_iter().flat_map(|(direction, acl)| {
            places(&acl.tiers, &acl.profiles).map(move |place| known(direction, place))
        })
    })
}

fn of_host(endpoint: &LocalHostEndpoint) -> impl Iterator<Item = Known> {
    // What applies on forward is part of the normal tiers.
    let LocalHostEndpoint { normal, untracked, pre_dnat, profiles, .. } = endpoint;
    let into = [untracked.ingress.as_slice(), pre_dnat.as_slice()];
    let out = [untracked.egress.as_slice(), &[]];
    let both =
        [(Direction::Ingress, &normal.ingress, into), (Direction::Egress, &normal.egress, out)];
    both.into_iter().flat_map(move |(direction, tiers, early)| {
        let early = early.into_iter().flatten().flat_map(of_tier);
        places(tiers, profiles).chain(early).map(move |place| known(direction, place))
    })
}

fn known(direction: Direction, (place, tier): Place) -> Known {
    Known { point: DenyPoint { direction, place }, tier }
}

fn places(tiers: &[TierAcl], profiles: &[Name]) -> impl Iterator<Item = Place> {
    let tiers = tiers.iter().flat_map(|tier| {
        let end = (tier.default_action == TierAction::Deny)
            .then(|| (DeniedBy::EndOfTier(tier.tier.clone()), Some(tier.tier.clone())));
        of_tier(tier).chain(end)
    });
    let profiles = profiles.iter().cloned().map(|name| (DeniedBy::Profile(name), None));
    tiers.chain(profiles).chain([(DeniedBy::End, None)])
}

/// The policies of a tier.
fn of_tier(tier: &TierAcl) -> impl Iterator<Item = Place> {
    tier.policies.iter().map(|id| (DeniedBy::Policy(id.clone()), Some(tier.tier.clone())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calico_datastore::model::HostEndpointId;

    use super::*;
    use crate::desired::{AclClass, DirectionAcl, HostTiers};

    fn policy(namespace: Option<&str>, name: &str) -> PolicyId {
        PolicyId { namespace: namespace.map(Name::from), name: Name::from(name) }
    }

    #[test]
    fn tags_are_stable_and_differ() {
        let places = [
            DeniedBy::Policy(policy(None, "web")),
            DeniedBy::Policy(policy(Some("web"), "web")),
            DeniedBy::Policy(policy(Some("we"), "bweb")),
            DeniedBy::EndOfTier(Name::from("web")),
            DeniedBy::Profile(Name::from("web")),
            DeniedBy::End,
        ];
        let tags: HashSet<Tag> = Direction::ALL
            .into_iter()
            .flat_map(|direction| {
                places.iter().map(move |place| DenyPoint { direction, place: place.clone() }.tag())
            })
            .collect();
        assert_eq!(tags.len(), 12);
        assert!(tags.iter().all(|tag| Tag::from_report(tag.as_str()).as_ref() == Some(tag)));
        // Rules in the kernel outlive the agent: another spelling would leave them nameless.
        let point = DenyPoint { direction: Direction::Ingress, place: places[0].clone() };
        assert_eq!(point.tag().as_str(), "iCCEZEwCB89Ak2__L");
    }

    #[test]
    fn every_point_of_a_class_is_known() {
        let tier = |name, default_action| TierAcl {
            tier: Name::from(name),
            policies: vec![policy(None, &format!("{name}.p"))],
            default_action,
        };
        let ingress = DirectionAcl {
            tiers: vec![tier("a", TierAction::Deny), tier("b", TierAction::Pass)],
            profiles: vec![Name::from("net")],
        };
        let class = AclClass { active: true, ingress, egress: DirectionAcl::default() };
        let mut state = DesiredState::default();
        state.classes.insert(class.id(), Arc::new(class));
        let points = points(&state);
        let known = |direction, place| {
            let point = DenyPoint { direction, place };
            points.get(&point.tag()).cloned().map(|known| (known.point == point, known.tier))
        };
        let (a, b) = (Some(Name::from("a")), Some(Name::from("b")));
        let into = Direction::Ingress;
        assert_eq!(known(into, DeniedBy::Policy(policy(None, "a.p"))), Some((true, a.clone())));
        assert_eq!(known(into, DeniedBy::EndOfTier(Name::from("a"))), Some((true, a)));
        assert_eq!(known(into, DeniedBy::Policy(policy(None, "b.p"))), Some((true, b)));
        assert_eq!(known(into, DeniedBy::EndOfTier(Name::from("b"))), None);
        assert_eq!(known(into, DeniedBy::Profile(Name::from("net"))), Some((true, None)));
        assert_eq!(known(into, DeniedBy::End), Some((true, None)));
        assert_eq!(known(Direction::Egress, DeniedBy::End), Some((true, None)));
        assert_eq!(points.len(), 6);
    }

    #[test]
    fn every_point_of_a_host_endpoint_is_known() {
        let tier = |name| TierAcl {
            tier: Name::from(name),
            policies: vec![policy(None, &format!("{name}.p"))],
            default_action: TierAction::Deny,
        };
        let both = |name| HostTiers { ingress: vec![tier(name)], egress: vec![tier(name)] };
        let endpoint = LocalHostEndpoint {
            normal: both("a"),
            forward: both("a"),
            untracked: both("raw"),
            pre_dnat: vec![tier("nat")],
            profiles: vec![Name::from("net")],
            ..LocalHostEndpoint::default()
        };
        let ends = ends_of_hosts([&endpoint].into_iter());
        // The end of tier a and that of all.
        assert_eq!(ends.len(), 4, "{ends:?}");
        let mut state = DesiredState::default();
        let id = HostEndpointId { name: Name::from("h") };
        state.host_endpoints.endpoints.insert(id, Arc::new(endpoint));
        let points = points(&state);
        let known = |direction, name: &str| {
            let point = DenyPoint { direction, place: DeniedBy::Policy(policy(None, name)) };
            points.get(&point.tag()).and_then(|known| known.tier.clone())
        };
        for (name, tier) in [("a.p", "a"), ("raw.p", "raw"), ("nat.p", "nat")] {
            assert_eq!(known(Direction::Ingress, name), Some(Name::from(tier)));
        }
        assert_eq!(known(Direction::Egress, "raw.p"), Some(Name::from("raw")));
        assert_eq!(known(Direction::Egress, "nat.p"), None);
        // Both ways: tier a, its end, raw, the profile, the end; and nat on the way in.
        assert_eq!(points.len(), 11);
    }
}
