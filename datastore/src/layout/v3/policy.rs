//! NetworkPolicy, GlobalNetworkPolicy and Tier.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::rule::{
    NAMESPACE, NAMESPACE_PREFIX, SERVICE_ACCOUNT, SERVICE_ACCOUNT_PREFIX, WireRule, both,
    label_equals, label_present, rules,
};
use super::wire::{Metadata, Object, Text, filled, list, name, resource, selector};
use crate::model::{Order, Policy, PolicyId, PolicyKind, Selector, Tier, TierAction};

/// Which tier a policy is in, for writers that do not say it in the spec.
const TIER_LABEL: &str = "projectcalico.org/tier";

/// The hint of a policy that every host is to have.
const EVERYWHERE: &str = "AssumeNeededOnEveryNode";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicySpec<'a> {
    #[serde(borrow, default)]
    tier: Option<Text<'a>>,
    #[serde(default)]
    order: Option<f64>,
    #[serde(borrow, default)]
    ingress: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    egress: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    namespace_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    service_account_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    types: Option<Vec<Text<'a>>>,
    #[serde(default)]
    do_not_track: Option<bool>,
    #[serde(default, rename = "preDNAT")]
    pre_dnat: Option<bool>,
    #[serde(default)]
    apply_on_forward: Option<bool>,
    #[serde(borrow, default)]
    performance_hints: Option<Vec<Text<'a>>>,
}

pub(super) fn decode(id: &PolicyId, value: &[u8]) -> Result<Policy, FieldError> {
    let (metadata, spec) = resource::<PolicySpec<'_>>(value)?;
    policy(id, &metadata, &spec).at("spec")
}

fn policy(
    id: &PolicyId,
    metadata: &Metadata<'_>,
    spec: &PolicySpec<'_>,
) -> Result<Policy, FieldError> {
    let namespace = id.namespace.as_ref().map(|namespace| namespace.as_str());
    let kind = kind(spec, namespace.is_none())?;
    let (governs_ingress, governs_egress) = directions(spec, kind)?;
    let tier = filled(&spec.tier);
    let label = metadata.label(TIER_LABEL).filter(|label| tier.is_none() && !label.is_empty());
    Ok(Policy {
        tier: tier.map(name).transpose().at("tier")?,
        tier_label: label.map(name).transpose().at("tier")?,
        order: order(spec.order)?,
        selector: match namespace {
            Some(namespace) => namespaced_selector(spec, namespace)?,
            None => global_selector(spec)?,
        },
        ingress: rules("ingress", &spec.ingress, namespace)?,
        egress: rules("egress", &spec.egress, namespace)?,
        governs_ingress,
        governs_egress,
        kind,
        // The original sets it on every namespaced policy; only a global one chooses.
        apply_on_forward: namespace.is_some() || spec.apply_on_forward.unwrap_or(false),
        // Hints that nobody knows change nothing.
        needed_everywhere: list(&spec.performance_hints).iter().any(|hint| **hint == *EVERYWHERE),
    })
}

/// The flags exist for global policies only.
fn kind(spec: &PolicySpec<'_>, global: bool) -> Result<PolicyKind, FieldError> {
    let set = |flag: Option<bool>| global && flag.unwrap_or(false);
    match (set(spec.do_not_track), set(spec.pre_dnat)) {
        (false, false) => Ok(PolicyKind::Normal),
        (true, false) => Ok(PolicyKind::Untracked),
        (false, true) => Ok(PolicyKind::PreDnat),
        (true, true) => Err(FieldError::of("preDNAT", "excludes doNotTrack")),
    }
}

/// No types means both directions. Before address translation there is only ingress.
fn directions(spec: &PolicySpec<'_>, kind: PolicyKind) -> Result<(bool, bool), FieldError> {
    let types = list(&spec.types);
    let (mut ingress, mut egress) = (types.is_empty(), types.is_empty());
    for (i, direction) in types.iter().enumerate() {
        match direction.to_ascii_lowercase().as_str() {
            "ingress" => ingress = true,
            "egress" => egress = true,
            _ => {
                let reason = format_args!("{:?} is not Ingress or Egress", &**direction);
                return Err(FieldError::new(reason)).at_index("types", i);
            }
        }
    }
    if kind == PolicyKind::PreDnat {
        if egress && !types.is_empty() {
            return Err(FieldError::of("types", "a preDNAT policy has no Egress"));
        }
        if !list(&spec.egress).is_empty() {
            return Err(FieldError::of("egress", "a preDNAT policy has no egress rules"));
        }
        egress = false;
    }
    Ok((ingress, egress))
}

fn order(order: Option<f64>) -> Result<Order, FieldError> {
    match order {
        None => Ok(Order::LAST),
        Some(value) => Order::new(value).ok_or_else(|| FieldError::of("order", "is not a number")),
    }
}

/// The policy's own namespace, and the service accounts in it.
fn namespaced_selector(spec: &PolicySpec<'_>, namespace: &str) -> Result<Selector, FieldError> {
    let own = Some(label_equals(NAMESPACE, namespace)?);
    let endpoints = both(selector("selector", &spec.selector)?, own);
    let accounts = service_accounts(spec)?;
    Ok(both(endpoints, accounts).unwrap_or_default())
}

/// `all()` in a namespace selector means "in any namespace". The original replaces it in the text
/// of the *combined* selector, so an `all()` of the main selector is narrowed too; people's
/// policies rely on what is enforced, so we do the same, on the tree.
fn global_selector(spec: &PolicySpec<'_>) -> Result<Selector, FieldError> {
    let mut combined = selector("selector", &spec.selector)?;
    if let Some(namespaces) = selector("namespaceSelector", &spec.namespace_selector)? {
        let prefixed = namespaces.with_label_prefix(NAMESPACE_PREFIX);
        combined = both(combined, Some(prefixed));
        let any = label_present(NAMESPACE)?;
        combined = combined.map(|combined| combined.replacing_all_with(&any));
    }
    if let Some(accounts) = service_accounts(spec)? {
        combined = both(combined, Some(accounts));
        let any = label_present(SERVICE_ACCOUNT)?;
        combined = combined.map(|combined| combined.replacing_all_with(&any));
    }
    Ok(combined.unwrap_or_default())
}

fn service_accounts(spec: &PolicySpec<'_>) -> Result<Option<Selector>, FieldError> {
    let given = selector("serviceAccountSelector", &spec.service_account_selector)?;
    Ok(given.map(|given| given.with_label_prefix(SERVICE_ACCOUNT_PREFIX)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TierSpec<'a> {
    #[serde(default)]
    order: Option<f64>,
    #[serde(borrow, default)]
    default_action: Option<Text<'a>>,
}

/// Anything but `Pass` denies.
pub(super) fn decode_tier(value: &[u8]) -> Result<Tier, FieldError> {
    let (_, spec) = resource::<TierSpec<'_>>(value)?;
    let default_action = match filled(&spec.default_action) {
        Some("Pass") => TierAction::Pass,
        _ => TierAction::Deny,
    };
    Ok(Tier { order: order(spec.order).at("spec")?, default_action })
}
