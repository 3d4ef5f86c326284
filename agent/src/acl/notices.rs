//! Notices: what is in the store and not in force, and why. One text per object.

use std::sync::Arc;

use imbl::OrdMap;

use calico_datastore::model::{
    Action, CalicoVersion, EncapMode, HostEndpoint, Name, Policy, Pool, Profile, Rule, Unevaluable,
    WorkloadEndpointId,
};

use super::generation::said;
use super::rules::stands_without;

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

/// About a policy that an endpoint of this host needs, and that is in `tier`.
pub(super) fn of_policy(policy: &Policy, tier: &Name) -> Option<String> {
    let texts = [of_tier(policy, tier), of_rules(&policy.ingress, &policy.egress)];
    let texts: Vec<String> = texts.into_iter().flatten().collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// About a policy that is in another tier than it says.
fn of_tier(policy: &Policy, tier: &Name) -> Option<String> {
    let said = said(policy).filter(|said| *said != tier)?;
    Some(format!(
        "says that it is in tier {said}, and is in tier {tier}: so do hosts of this Calico version"
    ))
}

/// About a version that says nothing.
pub(super) fn of_version(version: &str) -> Option<String> {
    version.parse::<CalicoVersion>().err().map(|error| {
        format!(
            "{error}: policies are ordered as if calicoVersion said nothing; CalicoVersion in \
                 the agent's configuration can say it"
        )
    })
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

/// About a host endpoint of which something could not be read.
pub(super) fn of_host_endpoint(endpoint: &HostEndpoint) -> Option<String> {
    let left_out = endpoint.left_out.as_ref()?;
    Some(format!("in force without what cannot be read: {left_out}"))
}

/// About an endpoint whose interface another one has.
pub(super) fn of_rival(interface: &str, winner: &WorkloadEndpointId) -> Option<String> {
    Some(format!("not programmed: its interface {interface} is that of WorkloadEndpoint {winner}"))
}

/// About a profile that an endpoint of this host lists. `stored` is the object of that name.
pub(super) fn of_profile(name: &Name, stored: Option<&Profile>) -> Option<String> {
    match stored {
        Some(profile) => of_rules(&profile.ingress, &profile.egress),
        None if *name == Profile::DEFAULT_ALLOW => None,
        None => Some(
            "an endpoint lists it but it does not exist or was rejected: it drops everything"
                .into(),
        ),
    }
}

/// How many rules of one object are named.
const RULES_MAX: usize = 5;

/// About rules with a criterion that this host cannot evaluate. They count from 0 in their direction,
/// as the object has them.
pub(super) fn of_rules(ingress: &[Rule], egress: &[Rule]) -> Option<String> {
    let of = |direction, rules: &[Rule]| -> Vec<String> {
        let numbered = (0..).zip(rules);
        numbered.filter_map(|(number, rule)| of_rule(direction, number, rule)).collect()
    };
    let problems = [of("ingress", ingress), of("egress", egress)].concat();
    let (named, others) = problems.split_at(problems.len().min(RULES_MAX));
    let mut text = named.join("; ");
    if !others.is_empty() {
        text.push_str(&format!("; and {} more", others.len()));
    }
    (!named.is_empty()).then_some(text)
}

fn of_rule(direction: &str, number: usize, rule: &Rule) -> Option<String> {
    let criterion = rule.unevaluable?;
    let then = match (criterion, rule.action) {
        (criterion, action) if stands_without(criterion, action) => {
            "denies whatever the request is"
        }
        (_, Action::Deny) => "never denies, so what it is to close is OPEN as far as it goes",
        _ => "never matches",
    };
    let criterion = match criterion {
        Unevaluable::Services => "services",
        Unevaluable::Http => "http",
    };
    Some(format!(
        "{direction}[{number}] {then}: its criterion `{criterion}` cannot be evaluated on this host"
    ))
}
