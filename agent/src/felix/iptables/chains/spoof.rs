//! The chains of the table `raw`: who a packet from a pod says it is.

use calico_datastore::model::Family;

use super::{interfaces, nd_lines, openstack};
use crate::config::Settings;
use crate::felix::iptables::names;

/// The router advertisement, which would give the host a default route through the pod.
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;

/// Matches packets whose source the interface that they come from may not use. `spoofers`: some may
/// use more than their own addresses. `quiet`: the sets count, and this is not where they do it.
pub(super) fn unknown_source(family: Family, spoofers: bool, quiet: bool) -> String {
    let not = |set: String| format!("-m set ! --match-set {set} src,src{}", uncounted(quiet));
    let known = not(names::local_endpoints(family));
    if spoofers { format!("{known} {}", not(names::spoofed(family))) } else { known }
}

/// What a lookup in a set that counts ends with, where it is not to count.
pub(super) fn uncounted(quiet: bool) -> &'static str {
    if quiet { " ! --update-counters" } else { "" }
}

/// The chains of the table `raw`: who a packet from a pod says it is. `spoofers`: some may say more
/// than who they are.
pub fn raw(
    settings: &Settings,
    family: Family,
    mac_root: Option<&str>,
    spoofers: bool,
) -> Vec<(String, Vec<String>)> {
    let known = names::local_endpoints(family);
    // Whoever comes as far as to `filter` is counted there.
    let quiet = settings.endpoint_counters;
    let not_counted = uncounted(quiet);
    let mut anti_spoof = Vec::new();
    // Every frame, neighbour discovery included, so it comes first.
    if let Some(root) = mac_root {
        anti_spoof.push(format!("--jump {root}"));
    }
    match family {
        Family::V4 => {
            // route_localnet is on for these interfaces, so the kernel would take them.
            anti_spoof.push("--destination 127.0.0.0/8 --jump DROP".to_owned());
            anti_spoof.push("--source 127.0.0.0/8 --jump DROP".to_owned());
            anti_spoof.extend(openstack::asks_for_an_address(settings, family, "--jump RETURN"));
            anti_spoof.push(format!("{} --jump DROP", unknown_source(family, spoofers, quiet)));
        }
        Family::V6 => {
            anti_spoof.push(format!(
                "-p icmpv6 -m icmp6 --icmpv6-type {ROUTER_ADVERTISEMENT} --jump DROP"
            ));
            // Nearly all packets end here.
            let known = format!("-m set --match-set {known} src,src{not_counted} --jump RETURN");
            anti_spoof.push(known);
            if spoofers {
                let spoofed = names::spoofed(family);
                anti_spoof.push(format!(
                    "-m set --match-set {spoofed} src,src{not_counted} --jump RETURN"
                ));
            }
            // Such packets never leave the host: the sets that forwarded packets are looked up in
            // hold no such address.
            anti_spoof.extend(nd_lines("--source fe80::/10", "--jump RETURN"));
            // The unspecified address: duplicate address detection and what goes with it.
            anti_spoof.extend(nd_lines("--source ::/128", "--jump RETURN"));
            anti_spoof.extend(openstack::asks_for_an_address(settings, family, "--jump RETURN"));
            anti_spoof.push("--jump DROP".to_owned());
        }
    }
    let prerouting =
        interfaces(settings).map(|p| format!("-i {p} --goto cali-anti-spoof")).collect();
    vec![("cali-PREROUTING".to_owned(), prerouting), ("cali-anti-spoof".to_owned(), anti_spoof)]
}
