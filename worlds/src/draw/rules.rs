//! Rules with few criteria, so that each of them matters.

use serde_json::{Map, Value, json};

use super::{ACCOUNTS, selectors};
use crate::chance::Chance;

/// Ports that rules and endpoints agree about.
const PORTS: [u16; 5] = [53, 80, 443, 7000, 8080];
/// Names that endpoints give to ports.
const PORT_NAMES: [&str; 3] = ["http", "dns", "x-1_y"];

/// The world's addresses are 10.65.0.0–15 and fd65::0–f for endpoints; the rest is of nobody.
const NETS: [&str; 20] = [
    "10.65.0.1",
    "10.65.0.2/32",
    "10.65.0.4/31",
    "10.65.0.0/29",
    "10.65.0.8/30",
    "10.65.0.9/28",
    "10.65.0.0/16",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "128.0.0.0/1",
    "172.18.18.0/24",
    "203.0.113.0/24",
    "::/0",
    "fd65::1",
    "fd65::4/127",
    "fd65::/125",
    "fd65::8/124",
    "fd65::/64",
    "fd18::/64",
    "2001:db8::/32",
];

/// Prefixes for rules and sets, of one family or of both.
pub(super) fn nets(c: &mut Chance, least: usize, most: usize) -> Vec<&'static str> {
    let list = match c.below(5) {
        0 => &NETS[..12],
        1 => &NETS[12..],
        _ => &NETS[..],
    };
    c.some(list, least, most.min(list.len()))
}

/// A handful of rules of a policy (which is in a namespace or not) or of a profile.
pub(super) fn rules(c: &mut Chance, namespaced: Option<bool>, most: usize) -> Vec<Value> {
    (0..c.below(most + 1)).map(|_| rule(c, namespaced.unwrap_or(false))).collect()
}

fn rule(c: &mut Chance, namespaced: bool) -> Value {
    let action = match c.below(20) {
        0..=8 => "Allow",
        9..=13 => "Deny",
        14..=17 => "Pass",
        _ => "Log",
    };
    let mut all = Map::new();
    all.insert("action".into(), json!(action));
    let with_ports = about_protocol(c, &mut all);
    let is_icmp = all.contains_key("protocol") && !with_ports;
    if !is_icmp && c.percent(8) {
        all.insert("ipVersion".into(), json!(c.one(&[4, 6])));
    }
    let (mut source, mut destination) = (Map::new(), Map::new());
    // What kind of message an ICMP packet is matters only where little else is asked.
    let most = if all.contains_key("icmp") || all.contains_key("notICMP") { 2 } else { 3 };
    for _ in 0..c.below(most) {
        let side = if c.percent(55) { &mut source } else { &mut destination };
        criterion(c, side, namespaced);
    }
    if with_ports && c.percent(75) {
        let side = if c.percent(70) { &mut destination } else { &mut source };
        let name = if c.percent(65) { "ports" } else { "notPorts" };
        let list = if name == "notPorts" && c.percent(40) {
            vec![json!(c.one(&PORT_NAMES))]
        } else {
            ports(c)
        };
        side.insert(name.into(), list.into());
        if c.percent(15) {
            let side = if c.percent(50) { &mut destination } else { &mut source };
            side.insert("notPorts".into(), ports(c).into());
        }
    } else if !all.contains_key("protocol") && c.percent(6) {
        // A name without a protocol is one of TCP.
        let name = if c.percent(50) { "ports" } else { "notPorts" };
        destination.insert(name.into(), json!([c.one(&PORT_NAMES)]));
    }
    if c.percent(3) {
        destination.insert("services".into(), json!({ "name": "s", "namespace": "default" }));
    }
    all.insert("source".into(), source.into());
    all.insert("destination".into(), destination.into());
    if c.percent(4) {
        all.insert("http".into(), json!({ "methods": ["GET"] }));
    }
    all.into()
}

/// Adds what the rule says of protocols; true when it can say something of ports.
fn about_protocol(c: &mut Chance, all: &mut Map<String, Value>) -> bool {
    match c.below(20) {
        0..=5 => {
            all.insert("protocol".into(), c.one(&[json!("TCP"), json!(6), json!("tcp")]).clone());
            true
        }
        6..=7 => {
            all.insert("protocol".into(), json!("UDP"));
            true
        }
        8 => {
            all.insert("protocol".into(), c.one(&[json!("SCTP"), json!(132)]).clone());
            true
        }
        9..=12 => {
            icmp(c, all);
            false
        }
        13 => {
            all.insert("protocol".into(), c.one(&[json!("UDPLite"), json!(47)]).clone());
            false
        }
        14 | 15 => {
            let names = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP"];
            all.insert("notProtocol".into(), json!(c.one(&names)));
            false
        }
        _ => false,
    }
}

fn icmp(c: &mut Chance, all: &mut Map<String, Value>) {
    let (name, kinds, version) =
        if c.percent(60) { ("ICMP", [8, 8, 3], 4) } else { ("ICMPv6", [128, 128, 1], 6) };
    all.insert("protocol".into(), json!(name));
    for field in ["icmp", "notICMP"] {
        if c.percent(55) {
            let mut wanted = json!({ "type": c.one(&kinds) });
            if c.percent(65) {
                wanted["code"] = json!(c.below(2));
            }
            all.insert(field.into(), wanted);
        }
    }
    if c.percent(15) {
        all.insert("ipVersion".into(), json!(version));
    }
}

fn criterion(c: &mut Chance, side: &mut Map<String, Value>, namespaced: bool) {
    match c.below(20) {
        0..=4 => drop(side.insert("nets".into(), json!(nets(c, 1, 5)))),
        5..=7 => drop(side.insert("notNets".into(), json!(nets(c, 1, 3)))),
        8..=13 => drop(side.insert("selector".into(), json!(selectors::selector(c)))),
        14..=15 => drop(side.insert("notSelector".into(), json!(selectors::selector(c)))),
        16..=17 => {
            let text = match c.below(if namespaced { 4 } else { 5 }) {
                0 => "global()".to_owned(),
                1 => "all()".to_owned(),
                _ => selectors::outer_selector(c),
            };
            side.insert("namespaceSelector".into(), json!(text));
        }
        _ => {
            let mut accounts = Map::new();
            if c.percent(60) {
                accounts.insert("names".into(), json!(c.some(&ACCOUNTS, 1, 2)));
            }
            if accounts.is_empty() || c.percent(30) {
                accounts.insert("selector".into(), json!(selectors::outer_selector(c)));
            }
            side.insert("serviceAccounts".into(), accounts.into());
        }
    }
}

fn ports(c: &mut Chance) -> Vec<Value> {
    let mut all: Vec<Value> = (0..=c.below(2)).map(|_| number(c)).collect();
    if c.percent(10) {
        // More than one match of the kernel holds.
        all.extend((0..9 + c.below(9)).map(|n| match c.below(2) {
            0 => json!(format!("{}:{}", 1000 + 20 * n, 1010 + 20 * n)),
            _ => json!(1015 + 20 * n),
        }));
    }
    if c.percent(40) {
        let name = json!(c.one(&PORT_NAMES));
        if c.percent(40) { all.push(name) } else { all = vec![name] }
    }
    all
}

fn number(c: &mut Chance) -> Value {
    match c.below(6) {
        0..=2 => json!(c.one(&PORTS)),
        3 => json!(c.one(&PORTS).to_string()),
        4 => json!("7000:8999"),
        _ => json!("0:443"),
    }
}

/// The named ports of an endpoint.
pub(super) fn named_ports(c: &mut Chance) -> Vec<Value> {
    let mut all = Vec::new();
    for name in PORT_NAMES {
        if c.percent(60) {
            let protocol = *c.one(&["TCP", "UDP", "UDP", "SCTP"]);
            let port = *c.one(&PORTS);
            all.push(json!({ "name": name, "protocol": protocol, "port": port }));
        }
    }
    all
}
