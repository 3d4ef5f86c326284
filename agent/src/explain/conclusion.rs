//! What follows from what each side says. Pure.

use std::net::IpAddr;

use super::document::{Outcome, SideAnswer};
use crate::desired::verdict::{Hook, Reason, Side};

/// The side of an address of which nobody here knows whose it is.
pub(super) fn elsewhere(address: IpAddr, side: Side) -> SideAnswer {
    SideAnswer {
        side: side.to_string(),
        endpoint: address.to_string(),
        hook: None,
        interface: None,
        node: None,
        allowed: None,
        reason: format!(
            "{address} is no pod of this host; if it is one of another host, its policy is asked \
             there: --offline calculates both sides from the datastore"
        ),
        tiers: Vec::new(),
        profiles: Vec::new(),
    }
}

/// Allowed before its connection is tracked?
pub(super) fn is_untracked(side: &SideAnswer) -> bool {
    let early = side.hook.as_deref() == Some(&Hook::Untracked.to_string());
    let rules = side.tiers.iter().flat_map(|tier| &tier.policies).flat_map(|asked| &asked.rules);
    early && rules.last().is_some_and(|rule| rule.matches && rule.action == "allow")
}

/// What follows from the sides, in one line: what denies it first, or everything that allows it.
pub(super) fn conclusion(sides: &[SideAnswer]) -> (Outcome, String) {
    let said = |side: &SideAnswer| match &side.hook {
        None => format!("{}: {}", side.side, side.reason),
        Some(_) => format!("{} of {}: {}", side.side, side.endpoint, side.reason),
    };
    if let Some(side) = sides.iter().find(|side| side.allowed == Some(false)) {
        return (Outcome::Denied, said(side));
    }
    if let Some(side) = sides.iter().find(|side| side.allowed.is_none()) {
        return (Outcome::Unknown, said(side));
    }
    if sides.is_empty() {
        return (
            Outcome::Unpoliced,
            "neither end is a pod, and no host endpoint is on the way: no policy is asked"
                .to_owned(),
        );
    }
    // A hook that decides nothing is not why.
    let decided = |side: &&SideAnswer| side.reason != Reason::GoesOn.to_string();
    let mut reasons: Vec<String> = sides.iter().filter(decided).map(said).collect();
    if reasons.is_empty() {
        reasons = sides.iter().map(said).collect();
    }
    // Each table asks about fail-safe ports by itself.
    reasons.dedup();
    (Outcome::Allowed, reasons.join("; "))
}
