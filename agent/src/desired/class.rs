//! ACL classes: what endpoints with the same policies share.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::{Name, PolicyId, TierAction};
use sha2::{Digest as _, Sha224};

/// The identity of a class: derived from its content, so it is the same after a restart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(Arc<str>);

impl ClassId {
    /// 38 characters of `A-Za-z0-9_-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClassId({})", self.0)
    }
}

/// The policies of one tier that govern one direction of an endpoint. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierAcl {
    /// The tier.
    pub tier: Name,
    /// Its policies in the order they are asked.
    pub policies: Vec<PolicyId>,
    /// What the end of the tier does.
    pub default_action: TierAction,
}

/// What decides about one direction: the tiers in order, then the profiles, then drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectionAcl {
    /// Tiers with at least one policy for this direction.
    pub tiers: Vec<TierAcl>,
    /// Profiles in the order they are asked, when no tier decided.
    pub profiles: Vec<Name>,
}

/// The ACL of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclClass {
    /// False: everything is dropped (an endpoint that is administratively down).
    pub active: bool,
    /// Packets to the endpoint.
    pub ingress: DirectionAcl,
    /// Packets from the endpoint.
    pub egress: DirectionAcl,
}

impl AclClass {
    /// The identity that follows from the content.
    pub fn id(&self) -> ClassId {
        let mut hash = Sha224::new();
        // Length before each name: no two contents feed the hash the same bytes.
        let text = |hash: &mut Sha224, text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        hash.update([u8::from(self.active)]);
        for direction in [&self.ingress, &self.egress] {
            hash.update((direction.tiers.len() as u64).to_be_bytes());
            for tier in &direction.tiers {
                text(&mut hash, tier.tier.as_str());
                hash.update([u8::from(tier.default_action == TierAction::Pass)]);
                hash.update((tier.policies.len() as u64).to_be_bytes());
                for policy in &tier.policies {
                    hash.update([u8::from(policy.namespace.is_some())]);
                    text(&mut hash, policy.namespace.as_ref().map_or("", Name::as_str));
                    text(&mut hash, policy.name.as_str());
                }
            }
            hash.update((direction.profiles.len() as u64).to_be_bytes());
            for profile in &direction.profiles {
                text(&mut hash, profile.as_str());
            }
        }
        ClassId(Arc::from(URL_SAFE_NO_PAD.encode(hash.finalize())))
    }
}
