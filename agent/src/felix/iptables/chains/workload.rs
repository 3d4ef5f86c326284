//! The chains of the table `filter` for packets from and to pods.

use calico_datastore::model::Family;

use super::host::{self, FORWARD_END};
use super::spoof::unknown_source;
use super::{count, dispatch_name, interfaces, nd_lines, openstack};
use crate::config::{AllowAction, HostAction, RKT_METADATA_PORT, Settings};
use crate::felix::iptables::marks;
use crate::felix::iptables::names;
use crate::felix::iptables::rules::{Style, joined};
use crate::felix::ruleset::Direction;

/// What an allowed packet does in the end.
fn allow(settings: &Settings) -> &'static str {
    match settings.filter_allow {
        AllowAction::Accept => "--jump ACCEPT",
        AllowAction::Return => "--jump RETURN",
    }
}

/// What comes before policy for a packet of an endpoint that we know: the connection's first packet
/// was asked already.
fn connection_shortcuts(settings: &Settings, invalid: &[String]) -> Vec<String> {
    let mut out = vec![format!("-m conntrack --ctstate RELATED,ESTABLISHED {}", allow(settings))];
    if !settings.allow_conntrack_invalid {
        out.extend_from_slice(invalid);
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
fn encapsulated(drop: &str) -> [String; 2] {
    [format!("-p udp -m udp --dport {VXLAN_PORT} {drop}"), format!("-p {IPIP} {drop}")]
}

/// The chains of the table `filter` that follow from the settings. `spoofers`: some endpoints may send
/// from more than their own addresses.
///
/// With `hosts` host endpoints are in force: what is forwarded is asked for the interface that it comes
/// in by before, and for the one that it leaves by after, and pods only say their part.
pub fn filter(
    settings: &Settings,
    style: &Style,
    spoofers: bool,
    hosts: bool,
) -> Vec<(String, Vec<String>)> {
    let counted = style.counted;
    let known = match counted {
        true => names::receivers(style.family),
        false => names::local_endpoints(style.family),
    };
    let unknown_source = format!("{} --jump DROP", unknown_source(style.family, spoofers, false));
    let drop = Direction::ALL.map(|direction| style.drops(direction).into_owned());
    let [drop_to, drop_from] = drop;
    let clear = marks::clear(style.marks.all());
    let both = |target: &str| -> Vec<String> {
        interfaces(settings)
            .flat_map(|p| [format!("-i {p} {target}"), format!("-o {p} {target}")])
            .collect()
    };

    // A packet of an endpoint that went away, or of one that never was, meets DROP before the
    // shortcut for established connections, in either direction.
    let unknown: Vec<String> = interfaces(settings)
        .map(|p| format!("-i {p} {unknown_source}"))
        .chain(
            interfaces(settings)
                .map(|p| format!("-o {p} -m set ! --match-set {known} dst,dst {drop_from}")),
        )
        .collect();
    // Where host endpoints decide before, they drop packets that are to be counted: those of endpoints
    // that we know, so that is asked first.
    let first = hosts && counted;
    let mut forward = if first { Vec::new() } else { unknown.clone() };
    let invalid = "-m conntrack --ctstate INVALID";
    let from = interfaces(settings).filter(|_| counted);
    let from = from.map(|p| format!("-i {p} {invalid} {drop_from}"));
    let invalid_of_both: Vec<String> = from.chain([format!("{invalid} {drop_to}")]).collect();
    forward.extend(connection_shortcuts(settings, &invalid_of_both));
    forward.push(clear.clone());
    forward.extend(
        interfaces(settings)
            .flat_map(|p| encapsulated(&drop_from).map(|line| format!("-i {p} {line}"))),
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
    forward.push(if hosts { format!("--goto {FORWARD_END}") } else { allow(settings).to_owned() });

    let mut to_host = Vec::new();
    if style.family == Family::V6 {
        // Without these the pod cannot even find its host. The table raw has checked the source.
        to_host.extend(nd_lines("", "--jump ACCEPT"));
    }
    to_host.extend(openstack::asks_for_an_address(settings, style.family, "--jump ACCEPT"));
    to_host.push(unknown_source);
    to_host.extend(openstack::asks_its_host(settings, style.family));
    to_host.extend(connection_shortcuts(settings, &[format!("{invalid} {drop_from}")]));
    to_host.push(clear);
    to_host.extend(encapsulated(&drop_from));
    to_host.push(format!("--jump {}", dispatch_name(Direction::Egress)));
    if settings.rkt_metadata_service && style.family == Family::V4 {
        to_host.push(format!("-p tcp -m tcp --dport {RKT_METADATA_PORT} --jump ACCEPT"));
    }
    match settings.endpoint_to_host {
        HostAction::Drop => to_host.push(drop_from),
        HostAction::Accept => to_host.push("--jump ACCEPT".to_owned()),
        HostAction::Return => {}
    }

    let mut input: Vec<String> =
        interfaces(settings).map(|p| format!("-i {p} --goto cali-wl-to-host")).collect();
    let mut entry = both("--goto cali-wl-forward");
    if hosts {
        let marks = style.marks;
        let accepted = joined(&marks::has(marks.accept), allow(settings));
        let others = marks::clear(marks.all() & !marks.accept);
        let from = host::forward_name(Direction::Ingress);
        let from = joined(&marks::lacks(marks.accept), &format!("--jump {from}"));
        let unknown = unknown.into_iter().filter(|_| first);
        entry.splice(0..0, unknown.chain([others, from]));
        entry.push(format!("--goto {FORWARD_END}"));
        input.push(accepted.clone());
        input.push(marks::clear(marks.all()));
        input.push(format!("--jump {}", host::dispatch_name(Direction::Ingress)));
        input.push(accepted);
    }
    let mut chains = vec![
        ("cali-FORWARD".to_owned(), entry),
        ("cali-INPUT".to_owned(), input),
        ("cali-wl-forward".to_owned(), forward),
        ("cali-wl-to-host".to_owned(), to_host),
    ];
    chains.extend(count::chains(style));
    chains
}
