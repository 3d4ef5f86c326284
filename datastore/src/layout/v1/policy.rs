//! Policies and tiers.

use serde::Deserialize;

use super::rule::{WireRule, rules};
use super::v3::error::{At, FieldError};
use super::v3::wire::{Object, Scalar, Text, list, read, selector};
use crate::model::{Name, Order, Policy, PolicyKind, Tier, TierAction};

#[derive(Debug, Deserialize)]
struct WirePolicy<'a> {
    #[serde(borrow, default)]
    order: Option<WireOrder<'a>>,
    #[serde(borrow, default)]
    inbound_rules: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    outbound_rules: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    selector: Option<Text<'a>>,
    #[serde(default)]
    untracked: Option<bool>,
    #[serde(default)]
    pre_dnat: Option<bool>,
    #[serde(borrow, default)]
    types: Option<Vec<Text<'a>>>,
}

/// A number, or the text `default`, which is what pycalico calls the last place.
type WireOrder<'a> = Scalar<'a>;

fn order(order: Option<&WireOrder<'_>>) -> Result<Order, FieldError> {
    let bad = |what: &WireOrder<'_>| {
        FieldError::of("order", format_args!("{what} is neither a number nor \"default\""))
    };
    match order {
        None => Ok(Order::LAST),
        // An order is a fraction of no great size: what an f64 loses of 2^53 and more is no place.
        Some(Scalar::Number(number)) => {
            Order::new(*number as f64).ok_or_else(|| bad(&Scalar::Number(*number)))
        }
        Some(what @ Scalar::Odd(number)) => Order::new(*number).ok_or_else(|| bad(what)),
        Some(Scalar::Text(text)) if text == "default" => Ok(Order::LAST),
        Some(what) => Err(bad(what)),
    }
}

/// A policy in its tier. Without a selector it applies to every endpoint, as for the original from
/// its version 2.0 on.
pub(super) fn decode(tier: Name, value: &[u8]) -> Result<Policy, FieldError> {
    let Some(wire) = read::<WirePolicy<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    let kind = match (wire.untracked.unwrap_or(false), wire.pre_dnat.unwrap_or(false)) {
        (false, false) => PolicyKind::Normal,
        (true, false) => PolicyKind::Untracked,
        (false, true) => PolicyKind::PreDnat,
        (true, true) => return Err(FieldError::of("pre_dnat", "excludes untracked")),
    };
    let (governs_ingress, governs_egress) = directions(&wire, kind)?;
    Ok(Policy {
        tier: Some(tier),
        tier_label: None,
        order: order(wire.order.as_ref())?,
        selector: selector("selector", &wire.selector)?.unwrap_or_default(),
        ingress: rules("inbound_rules", &wire.inbound_rules)?,
        egress: rules("outbound_rules", &wire.outbound_rules)?,
        governs_ingress,
        governs_egress,
        kind,
        // Policies of this layout never saw what a host endpoint forwards, but for those that come
        // before it is known where a packet goes.
        apply_on_forward: kind != PolicyKind::Normal,
        needed_everywhere: false,
    })
}

/// No types means both directions: writers before libcalico-go 1.7 stored none. Before address
/// translation there is only ingress.
fn directions(wire: &WirePolicy<'_>, kind: PolicyKind) -> Result<(bool, bool), FieldError> {
    let types = list(&wire.types);
    let (mut ingress, mut egress) = (types.is_empty(), types.is_empty());
    for (index, direction) in types.iter().enumerate() {
        match direction.to_ascii_lowercase().as_str() {
            "ingress" => ingress = true,
            "egress" => egress = true,
            _ => {
                let reason = format_args!("{:?} is not ingress or egress", &**direction);
                return Err(FieldError::new(reason)).at_index("types", index);
            }
        }
    }
    if kind == PolicyKind::PreDnat {
        if egress && !types.is_empty() {
            return Err(FieldError::of("types", "a pre_dnat policy has no egress"));
        }
        if !list(&wire.outbound_rules).is_empty() {
            return Err(FieldError::of("outbound_rules", "a pre_dnat policy has none"));
        }
        egress = false;
    }
    Ok((ingress, egress))
}

#[derive(Debug, Deserialize)]
struct WireTier<'a> {
    #[serde(borrow, default)]
    order: Option<WireOrder<'a>>,
}

/// What no policy of a tier decides is dropped, if one of them governs it.
pub(super) fn decode_tier(value: &[u8]) -> Result<Tier, FieldError> {
    let Some(wire) = read::<WireTier<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    Ok(Tier { order: order(wire.order.as_ref())?, default_action: TierAction::Deny })
}
