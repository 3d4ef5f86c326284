//! What this host's kernel and BIRD should hold: one immutable value.
//!
//! Every map shares its structure with the one before it, so a snapshot costs nothing and
//! [`DesiredState::diff`] costs what changed, not what exists. Nothing here does I/O or knows a
//! clock; a test enforces it.

mod bgp;
mod class;
mod diff;
mod endpoint;
mod external;
mod host;
mod origin;
mod overlay;
mod rule;
mod set;
pub mod verdict;

use std::sync::Arc;

use calico_datastore::model::{Cidr, Name, PolicyId, WorkloadEndpointId};
use imbl::{OrdMap, OrdSet};

use crate::config::Settings;

pub use bgp::{BgpState, MeshPeer};
pub use class::{AclClass, ClassId, DirectionAcl, TierAcl};
pub use diff::{Change, DesiredDiff, HostDiff, SetChange, SetsDiff, members_diff};
pub use endpoint::LocalEndpoint;
pub use external::{Externals, Refusal, Target};
pub use host::{HostEndpoints, HostTiers, LocalHostEndpoint};
pub use origin::Origin;
pub use overlay::Overlay;
pub use rule::{ActiveRule, ActiveRules, SideMatch};
pub use set::{AddressSet, Member, SetId, SetKind};

/// Everything that should be in force on this host.
#[derive(Clone, Debug, Default)]
pub struct DesiredState {
    /// Counts the states; a later one has a higher number.
    pub generation: u64,
    /// The revision of the store that it was calculated from.
    pub revision: i64,
    /// Where it comes from. One from disk has the generation 0.
    pub origin: Origin,
    /// The endpoints of this host.
    pub endpoints: OrdMap<WorkloadEndpointId, Arc<LocalEndpoint>>,
    /// The ACL classes that the endpoints use.
    pub classes: OrdMap<ClassId, Arc<AclClass>>,
    /// The policies that a class uses.
    pub policies: OrdMap<PolicyId, Arc<ActiveRules>>,
    /// The profiles that a class uses. A profile that is listed but does not exist is here with
    /// rules that drop everything.
    pub profiles: OrdMap<Name, Arc<ActiveRules>>,
    /// The address sets that the rules of those policies and profiles use.
    pub sets: OrdMap<SetId, AddressSet>,
    /// The host endpoints of this host with all that they need.
    pub host_endpoints: HostEndpoints,
    /// Every address pool: prefix → is what leaves it for outside all pools masqueraded?
    pub pools: OrdMap<Cidr, bool>,
    /// Those of the pools whose packets are wrapped between hosts. Not kept on disk.
    pub overlays: OrdMap<Cidr, Overlay>,
    /// The allocation blocks that belong to this host (confirmed affinities).
    pub blocks: OrdSet<Cidr>,
    /// What BIRD needs.
    pub bgp: Arc<BgpState>,
    /// What is in the store but not in force, and why: subject → message. Host endpoints, overlay
    /// pools, rules with criteria that cannot be evaluated.
    pub notices: OrdMap<Arc<str>, Arc<str>>,
    /// The settings in force.
    pub settings: Arc<Settings>,
}
