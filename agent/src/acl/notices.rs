//! Notices: what is in the store and not in force, and why. One text per object.

use std::sync::Arc;

use imbl::OrdMap;

use calico_datastore::model::{EncapMode, Name, Policy, PolicyKind, Pool, WorkloadEndpointId};

/// Subject → message.
pub(super) type Notices = OrdMap<Arc<str>, Arc<str>>;

/// Puts the notice about a subject, or takes it away.
pub(super) fn set(notices: &mut Notices, subject: &str, message: Option<String>) {
    match message {
        // Removing what is not there would unshare the map from the last state's.
        None if !notices.contains_key(subject) => {}
        None => {
            notices.remove(subject);
        }
        Some(message) if notices.get(subject).is_some_and(|old| **old == *message) => {}
        Some(message) => {
            notices.insert(Arc::from(subject), Arc::from(message));
        }
    }
}

/// About a policy that is not for workload endpoints.
pub(super) fn of_policy(policy: &Policy) -> Option<String> {
    let field = match policy.kind {
        PolicyKind::Normal => return None,
        PolicyKind::Untracked => "doNotTrack",
        PolicyKind::PreDnat => "preDNAT",
    };
    Some(format!("{field} policies are for host endpoints, which are not yet enforced"))
}

/// About a pool that is not used as it says.
pub(super) fn of_pool(pool: &Pool, shadowed_by: Option<&Name>) -> Option<String> {
    if let Some(winner) = shadowed_by {
        return Some(format!("not used: IPPool {winner} has the same CIDR {}", pool.cidr));
    }
    let overlay = match (pool.ipip, pool.vxlan) {
        (EncapMode::Never, EncapMode::Never) => return None,
        (_, EncapMode::Never) => "IPIP",
        (EncapMode::Never, _) => "VXLAN",
        _ => "IPIP and VXLAN",
    };
    Some(format!("{overlay} between hosts is not yet programmed; its routes are used as they are"))
}

/// About a host endpoint of this host.
pub(super) fn of_host_endpoint() -> Option<String> {
    Some("host endpoints are not yet enforced: its interface is not policed".to_owned())
}

/// About an endpoint whose interface another one has.
pub(super) fn of_rival(interface: &str, winner: &WorkloadEndpointId) -> Option<String> {
    Some(format!("not programmed: its interface {interface} is that of WorkloadEndpoint {winner}"))
}

/// About a profile that an endpoint of this host lists and that does not exist.
pub(super) fn of_missing_profile() -> Option<String> {
    Some("an endpoint lists it but it does not exist or was rejected: it drops everything".into())
}

/// How many rules of one object are named.
const RULES_MAX: usize = 5;

/// About rules that were left out.
pub(super) fn of_rules(problems: &[String]) -> Option<String> {
    let (named, others) = problems.split_at(problems.len().min(RULES_MAX));
    let mut text = named.join("; ");
    if !others.is_empty() {
        text.push_str(&format!("; and {} more", others.len()));
    }
    (!named.is_empty()).then_some(text)
}
