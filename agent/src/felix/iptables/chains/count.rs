//! Counts packets by endpoint, although endpoints share all chains: what is counted is how often a
//! packet was found in an address set whose members are the endpoints.
//!
//! Every packet of a pod is looked up in such a set anyway, before anything else in `filter`; that
//! counts what is asked of us, and costs no lookup. What is denied is looked up once more where it is
//! dropped, in the chains here. What was allowed is the difference.
//!
//! A packet from one pod of this host to another is found for both before it is asked for the first.
//! Where it is denied to the sender, the receiver is never asked: that is counted too, and taken off.

use std::borrow::Cow;

use crate::felix::iptables::names;
use crate::felix::iptables::rules::Style;
use crate::felix::ruleset::Direction;

/// The chains that count what is dropped, and drop it. `style` is that of `filter`.
pub(super) fn chains(style: &Style) -> Vec<(String, Vec<String>)> {
    if !style.counted {
        return Vec::new();
    }
    let rejects = style.deny.ends_with(" REJECT");
    let mut ends = vec![(false, Cow::Borrowed("--jump DROP"))];
    ends.extend(rejects.then(|| (true, style.deny.clone())));
    let mut out = Vec::new();
    for (rejects, end) in ends {
        for direction in Direction::ALL {
            let set = names::denied(style.family, direction);
            // Both rules do the same: the first one counts. A set further right is looked up only when
            // those before it hold the packet.
            let counts = match direction {
                Direction::Ingress => format!("-m set --match-set {set} dst,dst {end}"),
                Direction::Egress => format!(
                    "-m set --match-set {set} src,src -m set --match-set {} dst,dst {end}",
                    names::unasked(style.family)
                ),
            };
            let name = names::count_denied(direction, rejects).to_owned();
            out.push((name, vec![counts, end.to_string()]));
        }
    }
    out
}
