//! Every match and target that our rules use, as a rule that shows whether it is there: pure.
//!
//! Not a list of modules: what a module is called and whether it is one differs from kernel to
//! kernel. A test renders everything that the renderer can say and holds this list against it.

use calico_datastore::model::Family;

use super::judge::kernel::Need;
use crate::config::{DenyAction, RKT_METADATA_PORT, Settings};
use crate::felix::iptables::save::Table;

/// The chain that the rules stand in.
pub const CHAIN: &str = "cali-check";

/// A rule that needs one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its table.
    pub table: Table,
    /// What it needs, as iptables calls it.
    pub name: &'static str,
    /// How much depends on it.
    pub need: Need,
    /// The rule, without chain.
    pub line: String,
    /// It names a set.
    pub uses_set: bool,
}

/// The sets that rules of that family may name: of prefixes, of ports, of interfaces.
pub fn sets(family: Family) -> [String; 3] {
    ["net", "port", "iface"].map(|what| format!("cali{}check-{what}", family.number()))
}

/// What is needed with these settings. `set`: a set that exists, of (prefix, interface) pairs.
pub fn features(
    family: Family,
    settings: &Settings,
    random_fully: bool,
    set: &str,
) -> Vec<Feature> {
    let (icmp, everyone) = match family {
        Family::V4 => ("-p icmp -m icmp --icmp-type 8", "192.0.2.0/24"),
        Family::V6 => ("-p icmpv6 -m icmp6 --icmpv6-type 135", "2001:db8::/32"),
    };
    let icmp_name = match family {
        Family::V4 => "icmp",
        Family::V6 => "icmp6",
    };
    let mut out = Vec::new();
    let mut add = |table, name, need, line: String| {
        let uses_set = line.contains("--match-set");
        out.push(Feature { table, name, need, line, uses_set });
    };
    let in_set = format!("-m set --match-set {set} src,src");
    for table in [Table::Raw, Table::Filter] {
        add(table, "comment", Need::Always, "-m comment --comment \"cali:x\" -j RETURN".into());
        add(table, "set", Need::Always, format!("{in_set} -j DROP"));
        add(table, icmp_name, Need::Always, format!("{icmp} -j RETURN"));
    }
    if settings.endpoint_counters {
        let line = format!("{in_set} ! --update-counters -j DROP");
        for table in [Table::Raw, Table::Filter] {
            add(table, "set ! --update-counters", Need::Always, line.clone());
        }
    }
    let mac = "-i cali+ -m mac ! --mac-source 02:00:00:00:00:01 -j DROP";
    add(Table::Raw, "mac", Need::For("checking the Ethernet address of a pod"), mac.into());
    let filter = |name, need, line: &str| (Table::Filter, name, need, line.to_owned());
    let always = [
        filter("conntrack", Need::Always, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        filter("mark", Need::Always, "-m mark --mark 0x0/0x10000 -j RETURN"),
        filter("MARK", Need::Always, "-j MARK --set-mark 0x10000/0x10000"),
        filter("udp", Need::Always, "-p udp -m udp --dport 4789 -j DROP"),
        filter(
            "multiport",
            Need::For("a rule with ports"),
            "-p tcp -m multiport --destination-ports 80,443:444 -j RETURN",
        ),
        filter(
            "LOG",
            Need::For("a rule with the action Log"),
            "-j LOG --log-prefix \"check: \" --log-level 5",
        ),
    ];
    for (table, name, need, line) in always {
        add(table, name, need, line);
    }
    let hosts = Need::For("host endpoints");
    for (table, name, line) in [
        (Table::Raw, "CT", "-j CT --notrack"),
        (Table::Raw, "MARK", "-j MARK --set-mark 0x10000/0x10000"),
        (Table::Raw, "mark", "-m mark --mark 0x0/0x10000 -j RETURN"),
        (Table::Raw, "multiport", "-p tcp -m multiport --destination-ports 80 -j RETURN"),
        (Table::Raw, "LOG", "-j LOG --log-prefix \"check: \" --log-level 5"),
        (Table::Mangle, "comment", "-m comment --comment \"cali:x\" -j RETURN"),
        (Table::Mangle, "conntrack", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        (Table::Mangle, "MARK", "-j MARK --set-mark 0x10000/0x10000"),
        (Table::Mangle, "mark", "-m mark --mark 0x0/0x10000 -j RETURN"),
        (Table::Mangle, "multiport", "-p tcp -m multiport --destination-ports 80 -j RETURN"),
        (Table::Mangle, "LOG", "-j LOG --log-prefix \"check: \" --log-level 5"),
    ] {
        add(table, name, hosts, line.into());
    }
    add(Table::Mangle, "set", hosts, format!("{in_set} -j DROP"));
    add(Table::Mangle, icmp_name, hosts, format!("{icmp} -j RETURN"));
    if settings.rkt_metadata_service && family == Family::V4 {
        let line = format!("-p tcp -m tcp --dport {RKT_METADATA_PORT} -j ACCEPT");
        add(Table::Filter, "tcp", Need::Always, line);
    }
    if settings.denied_log {
        let need = Need::For("reporting denied packets (DeniedLog)");
        let line = "-m limit --limit 10/second -j NFLOG --nflog-group 5 --nflog-prefix \"cali:x\"";
        add(Table::Filter, "limit", need, "-m limit --limit 10/second -j RETURN".into());
        add(Table::Filter, "NFLOG", need, line.into());
        let need = Need::For("reporting packets that host endpoints deny early (DeniedLog)");
        for table in [Table::Raw, Table::Mangle] {
            add(table, "limit", need, "-m limit --limit 10/second -j RETURN".into());
            add(table, "NFLOG", need, line.into());
        }
    }
    if let Some(service) = settings.metadata_service().filter(|_| family == Family::V4) {
        let line = format!("-p tcp -m tcp --dport {} -j ACCEPT", service.port());
        add(Table::Filter, "tcp", Need::Always, line);
        let line = format!("-p tcp -m tcp --dport 80 -j DNAT --to-destination {service}");
        add(Table::Nat, "DNAT", Need::For("OpenStack's metadata"), line);
    }
    if settings.has_openstack() {
        let line = "-p udp -m udp --sport 68 --dport 67 -j RETURN".to_owned();
        add(Table::Raw, "udp", Need::For("OpenStack's DHCP"), line);
    }
    if settings.filter_deny == DenyAction::Reject {
        add(Table::Filter, "REJECT", Need::Always, "-j REJECT".into());
    }
    if settings.floating_ips {
        let (to, need) = (everyone.split('/').next().unwrap_or_default(), Need::For("ipNATs"));
        add(Table::Nat, "DNAT", need, format!("-d {everyone} -j DNAT --to-destination {to}"));
        add(Table::Nat, "SNAT", need, format!("-s {everyone} -j SNAT --to-source {to}"));
    }
    let leaves = format!("{in_set} -d {everyone}");
    let need = Need::For("a pool with natOutgoing");
    let snat = settings.nat_outgoing_addresses.iter().find(|one| Family::of(**one) == family);
    let (name, target) = match snat {
        Some(address) => ("SNAT", format!("SNAT --to-source {address}")),
        None => ("MASQUERADE", "MASQUERADE".to_owned()),
    };
    if random_fully {
        let name = if snat.is_some() { "SNAT --random-fully" } else { "MASQUERADE --random-fully" };
        add(Table::Nat, name, need, format!("{leaves} -j {target} --random-fully"));
    } else {
        add(Table::Nat, name, need, format!("{leaves} -j {target}"));
    }
    out
}

/// One transaction with all of them.
pub fn transaction(features: &[&Feature]) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let mut lines = features.iter().filter(|feature| feature.table == table).peekable();
        if lines.peek().is_none() {
            continue;
        }
        text.push_str(&format!("*{}\n:{CHAIN} - [0:0]\n", table.name()));
        for feature in lines {
            text.push_str(&format!("-A {CHAIN} {}\n", feature.line));
        }
        text.push_str("COMMIT\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::desired::{
        DesiredState, HostEndpoints, HostTiers, LocalHostEndpoint, SideMatch, TierAcl,
    };
    use crate::felix::hosts::choose::choose;
    use crate::felix::iptables::chains::{self, Hosts};
    use crate::felix::iptables::marks::Marks;
    use crate::felix::iptables::rules::{Report, Style, lines};
    use crate::felix::ruleset::deny::{DeniedBy, DenyPoint};
    use crate::felix::ruleset::{Direction, Rule};
    use crate::routes::monitor::Links;
    use calico_datastore::model::{
        Action, HostEndpointId, IcmpMatch, Mac, PolicyId, PortRange, Protocol, TierAction,
    };

    /// Matches, and targets that are no chain and no verdict: (table, name).
    fn used(table: Table, line: &str) -> BTreeSet<(&'static str, String)> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut found = BTreeSet::new();
        for pair in words.windows(2) {
            let verdict =
                ["DROP", "ACCEPT", "RETURN"].contains(&pair[1]) || pair[1].starts_with("cali");
            match pair[0] {
                "-m" => found.insert((table.name(), pair[1].to_owned())),
                "!" if pair[1] == "--update-counters" => {
                    found.insert((table.name(), pair.join(" ")))
                }
                "--jump" | "-j" if !verdict => found.insert((table.name(), pair[1].to_owned())),
                _ => false,
            };
        }
        found
    }

    /// One rule with every criterion that there is.
    fn full_rule(action: Action, family: Family, icmp: bool) -> Rule {
        let ports: Vec<PortRange> = (1..40).map(|p| PortRange::new(p, p).unwrap()).collect();
        let nets = match family {
            Family::V4 => ["10.0.0.0/8", "11.0.0.0/8"],
            Family::V6 => ["fd00::/16", "fd01::/16"],
        };
        let nets: Vec<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let side = SideMatch {
            nets: nets.clone(),
            not_nets: nets,
            ports: if icmp { vec![] } else { ports.clone() },
            not_ports: if icmp { vec![] } else { ports },
            ..SideMatch::default()
        };
        let own = if family == Family::V4 { Protocol::ICMP } else { Protocol::ICMPV6 };
        Rule {
            action,
            protocol: Some(if icmp { own } else { Protocol::TCP }),
            not_protocol: None,
            icmp: icmp.then_some(IcmpMatch { icmp_type: 8, code: None }),
            not_icmp: None,
            source: side.clone(),
            destination: side,
        }
    }

    /// One host endpoint that asks everything.
    fn host_endpoints() -> HostEndpoints {
        let tiers = vec![TierAcl {
            tier: "t".into(),
            policies: vec![PolicyId { namespace: None, name: "p".into() }],
            default_action: TierAction::Deny,
        }];
        let both = HostTiers { ingress: tiers.clone(), egress: tiers.clone() };
        let endpoint = LocalHostEndpoint {
            interface: Some("eth0".into()),
            normal: both.clone(),
            forward: both.clone(),
            untracked: both,
            pre_dnat: tiers,
            ..LocalHostEndpoint::default()
        };
        let id = HostEndpointId { name: "h".into() };
        let endpoints = [(id, Arc::new(endpoint))].into_iter().collect();
        HostEndpoints { endpoints, ..HostEndpoints::default() }
    }

    #[test]
    fn everything_that_the_renderer_says_is_tried() {
        for family in Family::ALL {
            for deny in [DenyAction::Drop, DenyAction::Reject] {
                for snat in
                    [None, Some(if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" })]
                {
                    let settings = Settings {
                        filter_deny: deny,
                        rkt_metadata_service: true,
                        denied_log: true,
                        floating_ips: true,
                        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
                        nat_outgoing_addresses: snat
                            .iter()
                            .map(|text| text.parse().unwrap())
                            .collect(),
                        nat_port_range: PortRange::new(1024, 2048),
                        ..Settings::default()
                    };
                    let style = Style {
                        family,
                        marks: Marks::of_mask(settings.mark_mask).unwrap(),
                        deny: if deny == DenyAction::Drop {
                            "--jump DROP".into()
                        } else {
                            "--jump REJECT".into()
                        },
                        report: Some(Report { group: 5, rate: 10 }),
                        counted: true,
                        log_prefix: "x: ".into(),
                    };
                    let mut rendered: BTreeSet<(&str, String)> = BTreeSet::new();
                    let mut take = |table, lines: Vec<String>| {
                        for line in lines {
                            rendered.extend(used(table, &line));
                        }
                    };
                    for hosts in [false, true] {
                        for (_, lines) in chains::filter(&settings, &style, true, hosts) {
                            take(Table::Filter, lines);
                        }
                    }
                    let state = DesiredState {
                        host_endpoints: host_endpoints(),
                        settings: Arc::new(settings.clone()),
                        ..DesiredState::default()
                    };
                    let chosen = choose(&state.host_endpoints, &Links::new(), &settings);
                    let hosts = Hosts { state: &state, chosen: &chosen, style: &style };
                    for table in Table::ALL {
                        for (_, lines) in hosts.chains(table) {
                            take(table, lines);
                        }
                    }
                    let macs = [("cali1".parse().unwrap(), Mac::new([2, 0, 0, 0, 0, 1]))].into();
                    let tree = crate::felix::iptables::mac::tree(&macs);
                    for (_, lines) in chains::raw(&settings, family, Some("cali-mac"), true)
                        .into_iter()
                        .chain(tree)
                    {
                        take(Table::Raw, lines);
                    }
                    let nat = chains::Nat {
                        settings: &settings,
                        family,
                        masquerade: true,
                        random_fully: true,
                        external: vec![("192.0.2.9".parse().unwrap(), "10.0.0.1".parse().unwrap())],
                    };
                    for (_, lines) in chains::nat(&nat) {
                        take(Table::Nat, lines);
                    }
                    for action in [Action::Allow, Action::Pass, Action::Deny, Action::Log] {
                        for icmp in [false, true] {
                            let rule = full_rule(action, family, icmp);
                            for table in [Table::Raw, Table::Mangle, Table::Filter] {
                                take(table, lines(&rule, &style.of(table)));
                            }
                        }
                    }
                    let point = DenyPoint { direction: Direction::Ingress, place: DeniedBy::End };
                    for table in [Table::Raw, Table::Mangle, Table::Filter] {
                        take(table, chains::closed(point.direction, &style.of(table)));
                        let denied = chains::denied(&point, &style.of(table));
                        take(table, denied.expect("reported").1);
                    }
                    let tried: BTreeSet<(&str, String)> = features(family, &settings, true, "s")
                        .iter()
                        .flat_map(|feature| used(feature.table, &feature.line))
                        .collect();
                    let missing: Vec<_> = rendered.difference(&tried).collect();
                    assert!(
                        missing.is_empty(),
                        "{family} {deny:?} {snat:?}: never tried: {missing:?}"
                    );
                    assert!(rendered.len() > 8, "{rendered:?}");
                }
            }
        }
    }

    #[test]
    fn one_transaction_a_table() {
        let all = features(Family::V4, &Settings::default(), true, "s");
        let text = transaction(&all.iter().collect::<Vec<_>>());
        assert_eq!(text.matches("COMMIT").count(), 4);
        assert!(text.starts_with("*raw\n:cali-check - [0:0]\n-A cali-check -m comment"), "{text}");
        let one: Vec<_> = all.iter().filter(|feature| feature.name == "mac").collect();
        let one = transaction(&one);
        assert_eq!(one.lines().count(), 4, "{one}");
    }
}
