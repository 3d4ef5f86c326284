//! The chains that carry out a desired state: pure text, no names of its own making.
//!
//! Every chain is made from one object (a policy, a profile, a class) or from the settings, so a
//! changed object makes its own chains again and no others.

use calico_datastore::model::{Action, Family, TierAction};

use super::marks;
use super::names;
use super::rules::{Style, joined, lines};
use super::save::Table;
use crate::config::{AllowAction, HostAction, RKT_METADATA_PORT, Settings};
use crate::desired::{ClassId, DesiredState, DirectionAcl};
use crate::felix::ruleset::{Direction, Rule};

/// The chain of a profile. What passed the last tier, or a profile before, comes with the bit set
/// that its own "pass" asks for.
pub fn profile(rules: &[Rule], style: &Style) -> Vec<String> {
    let mut chain = policy(rules, style);
    if rules.iter().any(|rule| rule.action == Action::Pass) {
        chain.insert(0, marks::clear(style.marks.pass));
    }
    chain
}

/// The chain of a policy.
pub fn policy(rules: &[Rule], style: &Style) -> Vec<String> {
    let mut chain: Vec<String> = rules.iter().flat_map(|rule| lines(rule, style)).collect();
    // Returning at the end is what a chain does anyway.
    if chain.last().is_some_and(|line| line.ends_with("--jump RETURN")) {
        chain.pop();
    }
    chain
}

/// What stands in for a policy or profile that the kernel refused, or that is not there: nothing
/// passes it.
pub fn closed(style: &Style) -> Vec<String> {
    vec![style.deny.to_owned()]
}

/// One direction of a class. It returns with the accept bit set, or drops.
pub fn class(
    acl: &DirectionAcl,
    direction: Direction,
    state: &DesiredState,
    style: &Style,
) -> Vec<String> {
    let marks = style.marks;
    let accepted = joined(&marks::has(marks.accept), "--jump RETURN");
    let mut chain = vec![marks::clear(marks.verdicts())];
    for (i, tier) in acl.tiers.iter().enumerate() {
        if i > 0 {
            chain.push(marks::clear(marks.pass));
        }
        for (j, policy) in tier.policies.iter().enumerate() {
            let jump = if state.policies.contains_key(policy) {
                format!("--jump {}", names::policy(policy, direction))
            } else {
                style.deny.to_owned()
            };
            // Nothing has passed yet before the first one.
            let not_passed = if j > 0 { marks::lacks(marks.pass) } else { String::new() };
            chain.push(joined(&not_passed, &jump));
            chain.push(accepted.clone());
        }
        if tier.default_action == TierAction::Deny {
            chain.push(joined(&marks::lacks(marks.pass), style.deny));
        }
    }
    for profile in &acl.profiles {
        if state.profiles.contains_key(profile) {
            chain.push(format!("--jump {}", names::profile(profile, direction)));
            chain.push(accepted.clone());
        } else {
            chain.push(style.deny.to_owned());
        }
    }
    chain.push(style.deny.to_owned());
    chain
}

/// The chain that finds the class of a packet's endpoint. One lookup per class: the pair of address
/// and interface is in the set, or the rule does not apply. What is in none is dropped.
pub fn dispatch<'a>(
    classes: impl Iterator<Item = &'a ClassId>,
    direction: Direction,
    family: Family,
) -> Vec<String> {
    let flags = match direction {
        Direction::Egress => "src,src",
        Direction::Ingress => "dst,dst",
    };
    classes
        .map(|id| {
            format!(
                "-m set --match-set {} {flags} --goto {}",
                names::class_set(family, id),
                names::class(id, direction)
            )
        })
        .chain(["--jump DROP".to_owned()])
        .collect()
}

/// The name of the chain that [`dispatch`] makes.
pub fn dispatch_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "cali-from-wl-dispatch",
        Direction::Ingress => "cali-to-wl-dispatch",
    }
}

/// ICMPv6 types that a pod may send before it has an address: multicast listener messages, router
/// solicitation, neighbour solicitation and advertisement. Not 134: a pod is no router.
const ND_TYPES: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

/// The router advertisement, which would give the host a default route through the pod.
const ROUTER_ADVERTISEMENT: u8 = 134;

/// The interfaces of pods as `-i` and `-o` take them. No name is longer than 15 characters, and
/// iptables takes no longer pattern: such a prefix is the name.
fn interfaces(settings: &Settings) -> impl Iterator<Item = String> {
    settings
        .interface_prefixes
        .iter()
        .map(|prefix| if prefix.len() < 15 { format!("{prefix}+") } else { prefix.clone() })
}

/// What an allowed packet does in the end.
fn allow(settings: &Settings) -> &'static str {
    match settings.filter_allow {
        AllowAction::Accept => "--jump ACCEPT",
        AllowAction::Return => "--jump RETURN",
    }
}

/// What comes before policy for a packet of an endpoint that we know: the connection's first packet
/// was asked already.
fn connection_shortcuts(settings: &Settings) -> Vec<String> {
    let mut out = vec![format!("-m conntrack --ctstate RELATED,ESTABLISHED {}", allow(settings))];
    if !settings.allow_conntrack_invalid {
        out.push("-m conntrack --ctstate INVALID --jump DROP".to_owned());
    }
    out
}

/// UDP port of VXLAN, `VXLANPort` of the original.
const VXLAN_PORT: u16 = 4789;

/// Protocol number of IP in IP (RFC 2003).
const IPIP: u8 = 4;

/// Tunnels are the hosts' affair: what a pod wraps itself would come out at another host as the
/// packet of any pod it likes, behind all checks of its source. Dropped whatever policy says, as the
/// original does unless told otherwise (`AllowVXLANPacketsFromWorkloads`, `AllowIPIP…`).
fn encapsulated() -> [String; 2] {
    [format!("-p udp -m udp --dport {VXLAN_PORT} --jump DROP"), format!("-p {IPIP} --jump DROP")]
}

/// The chains of the table `filter` that follow from the settings.
pub fn filter(settings: &Settings, style: &Style) -> Vec<(String, Vec<String>)> {
    let known = names::local_endpoints(style.family);
    let unknown_source = format!("-m set ! --match-set {known} src,src --jump DROP");
    let clear = marks::clear(style.marks.all());
    let both = |target: &str| -> Vec<String> {
        interfaces(settings)
            .flat_map(|p| [format!("-i {p} {target}"), format!("-o {p} {target}")])
            .collect()
    };

    // A packet of an endpoint that went away, or of one that never was, meets DROP before the
    // shortcut for established connections, in either direction.
    let mut forward: Vec<String> = interfaces(settings)
        .map(|p| format!("-i {p} {unknown_source}"))
        .chain(
            interfaces(settings)
                .map(|p| format!("-o {p} -m set ! --match-set {known} dst,dst --jump DROP")),
        )
        .collect();
    forward.extend(connection_shortcuts(settings));
    forward.push(clear.clone());
    forward.extend(
        interfaces(settings).flat_map(|p| encapsulated().map(|line| format!("-i {p} {line}"))),
    );
    // The source's egress, then the destination's ingress: both return what they allow.
    forward.extend(
        interfaces(settings)
            .map(|p| format!("-i {p} --jump {}", dispatch_name(Direction::Egress)))
            .chain(
                interfaces(settings)
                    .map(|p| format!("-o {p} --jump {}", dispatch_name(Direction::Ingress))),
            ),
    );
    forward.push(allow(settings).to_owned());

    let mut to_host = Vec::new();
    if style.family == Family::V6 {
        // Without these the pod cannot even find its host. The table raw has checked the source.
        to_host.extend(nd_lines("", "--jump ACCEPT"));
    }
    to_host.push(unknown_source);
    to_host.extend(connection_shortcuts(settings));
    to_host.push(clear);
    to_host.extend(encapsulated());
    to_host.push(format!("--jump {}", dispatch_name(Direction::Egress)));
    if settings.rkt_metadata_service && style.family == Family::V4 {
        to_host.push(format!("-p tcp -m tcp --dport {RKT_METADATA_PORT} --jump ACCEPT"));
    }
    match settings.endpoint_to_host {
        HostAction::Drop => to_host.push("--jump DROP".to_owned()),
        HostAction::Accept => to_host.push("--jump ACCEPT".to_owned()),
        HostAction::Return => {}
    }

    let input = interfaces(settings).map(|p| format!("-i {p} --goto cali-wl-to-host")).collect();
    vec![
        ("cali-FORWARD".to_owned(), both("--goto cali-wl-forward")),
        ("cali-INPUT".to_owned(), input),
        ("cali-wl-forward".to_owned(), forward),
        ("cali-wl-to-host".to_owned(), to_host),
    ]
}

fn nd_lines(matches: &'static str, target: &'static str) -> impl Iterator<Item = String> {
    ND_TYPES.into_iter().map(move |kind| {
        joined(matches, &format!("-p icmpv6 -m icmp6 --icmpv6-type {kind} {target}"))
    })
}

/// The chains of the table `raw`: who a packet from a pod says it is.
pub fn raw(
    settings: &Settings,
    family: Family,
    mac_root: Option<&str>,
) -> Vec<(String, Vec<String>)> {
    let known = names::local_endpoints(family);
    let mut anti_spoof = Vec::new();
    // Every frame, neighbour discovery included, so it comes first.
    if let Some(root) = mac_root {
        anti_spoof.push(format!("--jump {root}"));
    }
    let spoofed = format!("-m set ! --match-set {known} src,src --jump DROP");
    match family {
        Family::V4 => {
            // route_localnet is on for these interfaces, so the kernel would take them.
            anti_spoof.push("--destination 127.0.0.0/8 --jump DROP".to_owned());
            anti_spoof.push("--source 127.0.0.0/8 --jump DROP".to_owned());
            anti_spoof.push(spoofed);
        }
        Family::V6 => {
            anti_spoof.push(format!(
                "-p icmpv6 -m icmp6 --icmpv6-type {ROUTER_ADVERTISEMENT} --jump DROP"
            ));
            // Nearly all packets end here.
            anti_spoof.push(format!("-m set --match-set {known} src,src --jump RETURN"));
            // Such packets never leave the host: the sets that forwarded packets are looked up in
            // hold no such address.
            anti_spoof.extend(nd_lines("--source fe80::/10", "--jump RETURN"));
            // The unspecified address: duplicate address detection and what goes with it.
            anti_spoof.extend(nd_lines("--source ::/128", "--jump RETURN"));
            anti_spoof.push("--jump DROP".to_owned());
        }
    }
    let prerouting =
        interfaces(settings).map(|p| format!("-i {p} --goto cali-anti-spoof")).collect();
    vec![("cali-PREROUTING".to_owned(), prerouting), ("cali-anti-spoof".to_owned(), anti_spoof)]
}

/// The chains of `table` in a family that is switched off. Nobody decides about packets of that
/// family then, so none comes from a pod, to the host's own addresses neither, and none is forwarded
/// to one. This takes no set, and what an earlier run left is replaced in place.
pub fn off(table: Table, settings: &Settings) -> Vec<(String, Vec<String>)> {
    let (name, way) = match table {
        Table::Raw => ("cali-PREROUTING", "-i"),
        Table::Filter => ("cali-FORWARD", "-o"),
        Table::Mangle | Table::Nat => return Vec::new(),
    };
    let lines = interfaces(settings).map(|p| format!("{way} {p} --jump DROP")).collect();
    vec![(name.to_owned(), lines)]
}

/// The chains of the table `nat`, when packets of any pool are translated on their way out.
pub fn nat(
    settings: &Settings,
    family: Family,
    any_masquerade: bool,
    random_fully: bool,
) -> Vec<(String, Vec<String>)> {
    if !any_masquerade {
        return Vec::new();
    }
    let out = settings.nat_outgoing_interface.as_ref().map(|i| format!(" -o {i}"));
    let target = match settings.nat_outgoing_address {
        Some(address) if Family::of(address) == family => {
            format!("--jump SNAT --to-source {address}")
        }
        _ if random_fully => "--jump MASQUERADE --random-fully".to_owned(),
        _ => "--jump MASQUERADE".to_owned(),
    };
    let rule = format!(
        "-m set --match-set {} src -m set ! --match-set {} dst{} {target}",
        names::masq_pools(family),
        names::all_pools(family),
        out.unwrap_or_default(),
    );
    vec![
        ("cali-POSTROUTING".to_owned(), vec!["--jump cali-nat-outgoing".to_owned()]),
        ("cali-nat-outgoing".to_owned(), vec![rule]),
    ]
}
