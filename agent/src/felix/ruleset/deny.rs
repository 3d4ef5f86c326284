//! The places at which policy drops a packet, and the tags by which the kernel reports them.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::{Name, PolicyId, TierAction};
use sha2::{Digest as _, Sha256};

use super::Direction;
use crate::desired::{DesiredState, DirectionAcl};

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

/// Characters of a tag: 96 bits of a hash, in base64.
const TAG: usize = 16;

/// The short name of a [`DenyPoint`]: the same on every host and after every start, so what the
/// kernel reports of rules that were written by an agent before is understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl Tag {
    /// [`TAG`] characters of `A-Za-z0-9_-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A tag as the kernel gave it back.
    pub fn from_report(text: &str) -> Self {
        Self(text.to_owned())
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
        hash.update(match self.direction {
            Direction::Ingress => "in ",
            Direction::Egress => "out ",
        });
        // No name holds a space, so no two points feed the hash the same bytes.
        match &self.place {
            DeniedBy::Policy(id) => {
                hash.update("policy ");
                hash.update(id.namespace.as_ref().map_or("", Name::as_str));
                hash.update(" ");
                hash.update(id.name.as_str());
            }
            DeniedBy::EndOfTier(tier) => {
                hash.update("tier ");
                hash.update(tier.as_str());
            }
            DeniedBy::Profile(name) => {
                hash.update("profile ");
                hash.update(name.as_str());
            }
            DeniedBy::End => hash.update("end"),
        }
        let mut tag = URL_SAFE_NO_PAD.encode(hash.finalize());
        tag.truncate(TAG);
        Tag(tag)
    }
}

/// A point and the tier that its policy is asked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The point.
    pub point: DenyPoint,
    /// The tier, of a policy or of an end of a tier.
    pub tier: Option<Name>,
}

/// Every point at which a packet of an endpoint of `state` can be dropped by policy.
pub fn points(state: &DesiredState) -> HashMap<Tag, Known> {
    let mut all = HashMap::new();
    for class in state.classes.values() {
        for (direction, acl) in
            [(Direction::Ingress, &class.ingress), (Direction::Egress, &class.egress)]
        {
            for (place, tier) in places(acl) {
                let point = DenyPoint { direction, place };
                all.entry(point.tag()).or_insert(Known { point, tier });
            }
        }
    }
    all
}

fn places(acl: &DirectionAcl) -> impl Iterator<Item = (DeniedBy, Option<Name>)> {
    let tiers = acl.tiers.iter().flat_map(|tier| {
        let of_tier = Some(tier.tier.clone());
        let end = (tier.default_action == TierAction::Deny)
            .then(|| (DeniedBy::EndOfTier(tier.tier.clone()), of_tier.clone()));
        let policies = tier.policies.iter().cloned().map(DeniedBy::Policy);
        policies.map(move |place| (place, of_tier.clone())).chain(end)
    });
    let profiles = acl.profiles.iter().cloned().map(|name| (DeniedBy::Profile(name), None));
    tiers.chain(profiles).chain([(DeniedBy::End, None)])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::desired::{AclClass, TierAcl};

    fn policy(namespace: Option<&str>, name: &str) -> PolicyId {
        PolicyId { namespace: namespace.map(Name::from), name: Name::from(name) }
    }

    #[test]
    fn tags_are_stable_and_differ() {
        let places = [
            DeniedBy::Policy(policy(None, "web")),
            DeniedBy::Policy(policy(Some("web"), "web")),
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
        assert_eq!(tags.len(), 10);
        assert!(tags.iter().all(|tag| tag.as_str().len() == TAG));
        // Rules in the kernel outlive the agent: another spelling would leave them nameless.
        let point = DenyPoint { direction: Direction::Ingress, place: places[0].clone() };
        assert_eq!(point.tag().as_str(), "WFAF5aS_V4cgZmLh");
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
}
