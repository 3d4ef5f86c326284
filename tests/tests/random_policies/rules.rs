//! Random rules and selectors, of every form that the documentation knows.

use serde_json::{Map, Value, json};

use crate::chance::Chance;

/// TCP ports on which every site answers.
pub(crate) const TCP: [u16; 5] = [80, 443, 7000, 8080, 9090];
/// UDP ports on which every site answers.
pub(crate) const UDP: [u16; 3] = [53, 5353, 7001];
/// Questions come from one of these source ports and the 4,999 after it: below what the kernel
/// gives to the agents' own connections.
pub(crate) const SOURCES: [u16; 4] = [10_000, 15_000, 20_000, 25_000];
/// Names that endpoints give to ports.
pub(crate) const PORT_NAMES: [&str; 4] = ["http", "dns", "web.1", "x-1_y"];
/// Label keys and values.
pub(crate) const LABELS: [(&str, [&str; 3]); 4] = [
    ("role", ["web", "db", ""]),
    ("env", ["prod", "production", "dev"]),
    ("projects.org/app", ["a", "ab", "b"]),
    ("in", ["x", "xy", "it's"]),
];
/// Labels of namespaces and of service accounts, without prefix.
pub(crate) const OUTER: [(&str, [&str; 2]); 2] = [("stage", ["prod", "dev"]), ("team", ["a", "b"])];
/// Service accounts.
pub(crate) const ACCOUNTS: [&str; 2] = ["ci", "ops"];

const NETS: [&str; 22] = [
    "192.168.0.0/32",
    "192.168.0.1",
    "192.168.0.64/32",
    "192.168.0.65/31",
    "192.168.0.0/26",
    "192.168.0.77/26",
    "192.168.0.0/16",
    "0.0.0.0/0",
    "128.0.0.0/1",
    "172.18.18.0/24",
    "172.18.18.102/32",
    "172.18.18.250/32",
    "10.0.0.0/8",
    "::/0",
    "fd00::/8",
    "fd80:24e2:f998:72d6::/64",
    "fd80:24e2:f998:72d6::40/122",
    "fd80:24e2:f998:72d6::/128",
    "fd80:24e2:f998:72d6::1",
    "fd00:172:18:18::/64",
    "fd00:172:18:18::101/128",
    "2001:db8::/32",
];

/// Ranges for rules and sets.
pub(crate) fn nets(c: &mut Chance, most: usize) -> Vec<&'static str> {
    let mut all = c.some(&NETS, 1, most);
    if c.percent(10) {
        all.push(all[0]);
    }
    all
}

fn quoted(c: &mut Chance, text: &str) -> String {
    if text.contains('\'') || c.percent(50) { format!("\"{text}\"") } else { format!("'{text}'") }
}

/// A selector over these labels.
pub(crate) fn selector<const N: usize>(
    c: &mut Chance,
    labels: &[(&str, [&str; N])],
    depth: usize,
) -> String {
    if depth > 0 && c.percent(35) {
        let (a, b) = (selector(c, labels, depth - 1), selector(c, labels, depth - 1));
        return match c.below(6) {
            0 | 1 => format!("{a} || {b}"),
            2 => format!("{a}&&{b}"),
            3 => format!("({a} || {b}) && {}", selector(c, labels, 0)),
            4 => format!("!({a})"),
            _ => format!("!!( {a}\t) "),
        };
    }
    let &(key, values) = c.one(labels);
    let value = *c.one(&values);
    let other = *c.one(&values);
    let (text, more) = (quoted(c, value), quoted(c, other));
    let part = quoted(c, value.get(..1).unwrap_or(""));
    let end = quoted(c, value.get(1..).unwrap_or(""));
    match c.below(15) {
        0 | 1 => format!("{key} == {text}"),
        2 => format!("{key}=={text}"),
        3 => format!("{key} != {text}"),
        4 => format!("{key} in {{{text}, {more}}}"),
        5 => format!("{key} not in {{{text},{more},}}"),
        6 => format!("{key} notin {{ {text} }}"),
        7 => format!("{key} contains {end}"),
        8 => format!("{key} starts with {part}"),
        9 => format!("{key} ends with {end}"),
        10 => format!("has({key})"),
        11 => format!("!has( {key} )"),
        12 => format!("{key} in {{}}"),
        13 => format!("! {key} startswith {part}"),
        _ => "all()".to_owned(),
    }
}

fn numbers(c: &mut Chance, ports: &[u16]) -> Value {
    match c.below(7) {
        0 | 1 => json!(c.one(ports)),
        2 => json!(c.one(ports).to_string()),
        3 => json!("7000:8999"),
        4 => json!(format!("{}:{}", c.one(ports), 9100)),
        5 => json!("0:65535"),
        _ => json!(format!("{0}:{0}", c.one(ports))),
    }
}

fn ports(c: &mut Chance, real: &[u16]) -> Vec<Value> {
    let mut all: Vec<Value> = (0..=c.below(3)).map(|_| numbers(c, real)).collect();
    // A range over two ends takes two of the fifteen slots of a match.
    if c.percent(15) {
        let noise = (0..8 + c.below(12)).map(|n| {
            if c.percent(40) {
                json!(format!("{}:{}", 1000 + 20 * n, 1010 + 20 * n))
            } else {
                json!(1015 + 20 * n)
            }
        });
        let mut long: Vec<Value> = noise.collect();
        let at = c.below(long.len());
        long.splice(at..at, all);
        all = long;
    }
    if c.percent(30) {
        let name = json!(c.one(&PORT_NAMES));
        if c.percent(50) { all.push(name) } else { all = vec![name] }
    }
    all
}

fn entity(c: &mut Chance, namespaced: bool, with_ports: Option<(&[u16], bool)>) -> Value {
    let mut all = Map::new();
    if c.percent(18) {
        all.insert("nets".into(), json!(nets(c, 5)));
    }
    if c.percent(10) {
        all.insert("notNets".into(), json!(nets(c, 2)));
    }
    if c.percent(35) {
        all.insert("selector".into(), json!(selector(c, &LABELS, 2)));
    }
    if c.percent(12) {
        all.insert("notSelector".into(), json!(selector(c, &LABELS, 1)));
    }
    if c.percent(if namespaced { 18 } else { 8 }) {
        let text = match c.below(5) {
            0 => "global()".to_owned(),
            1 => "all()".to_owned(),
            _ => selector(c, &OUTER, 1),
        };
        all.insert("namespaceSelector".into(), json!(text));
    }
    if c.percent(8) {
        let mut accounts = Map::new();
        if c.percent(60) {
            accounts.insert("names".into(), json!(c.some(&ACCOUNTS, 1, 2)));
        }
        if accounts.is_empty() || c.percent(40) {
            accounts.insert("selector".into(), json!(selector(c, &OUTER, 1)));
        }
        all.insert("serviceAccounts".into(), accounts.into());
    }
    if let Some((real, certain)) = with_ports
        && (certain || c.percent(10))
    {
        let name = if c.percent(25) { "notPorts" } else { "ports" };
        all.insert(name.into(), ports(c, real).into());
        if c.percent(10) {
            all.insert("notPorts".into(), ports(c, real).into());
        }
    }
    all.into()
}

fn protocol(c: &mut Chance, number: u8, name: &str) -> Value {
    match c.below(6) {
        0 => json!(number),
        1 => json!(name.to_lowercase()),
        _ => json!(name),
    }
}

/// Mostly the echo request of the protocol's family: that is what is asked.
fn icmp(c: &mut Chance, request: u8) -> Value {
    let kind = *c.one(&[request, request, request, 13, 0, 129]);
    match c.below(3) {
        0 => json!({ "type": kind, "code": 0 }),
        1 => json!({ "type": kind, "code": c.one(&[0, 1]) }),
        _ => json!({ "type": kind }),
    }
}

/// A rule. `passes`: in a policy, where it may go on to the next tier.
pub(crate) fn rule(c: &mut Chance, namespaced: bool, passes: bool) -> Value {
    let action = match c.below(20) {
        0..=9 => "Allow",
        10..=14 => "Deny",
        15..=17 if passes => "Pass",
        15..=17 => "Allow",
        _ => "Log",
    };
    let mut all = Map::new();
    all.insert("action".into(), json!(action));
    let (mut real, mut certain): (&[u16], bool) = (&[], false);
    match c.below(17) {
        0..=4 => {
            all.insert("protocol".into(), protocol(c, 6, "TCP"));
            (real, certain) = (&TCP, c.percent(70));
        }
        5..=6 => {
            all.insert("protocol".into(), protocol(c, 17, "UDP"));
            (real, certain) = (&UDP, c.percent(70));
        }
        7..=9 => {
            let (number, name, request) = *c.one(&[(1, "ICMP", 8), (58, "ICMPv6", 128)]);
            all.insert("protocol".into(), protocol(c, number, name));
            if c.percent(50) {
                all.insert("icmp".into(), icmp(c, request));
            }
            if c.percent(50) {
                all.insert("notICMP".into(), icmp(c, request));
            }
            if c.percent(20) {
                all.insert("ipVersion".into(), json!(if number == 1 { 4 } else { 6 }));
            }
        }
        10 => {
            all.insert(
                "protocol".into(),
                c.one(&[json!("SCTP"), json!(132), json!("UDPLite"), json!(47), json!("6")])
                    .clone(),
            );
        }
        11..=12 => {
            all.insert(
                "notProtocol".into(),
                c.one(&[
                    json!("TCP"),
                    json!("UDP"),
                    json!("ICMP"),
                    json!("ICMPv6"),
                    json!(6),
                    json!(17),
                ])
                .clone(),
            );
        }
        _ => {}
    }
    if !all.contains_key("ipVersion") && c.percent(10) && !all["action"].is_null() {
        let is_icmp = all.get("protocol").is_some_and(|p| {
            let text = p.to_string().to_lowercase();
            text.contains("icmp") || text == "1" || text == "58"
        });
        if !is_icmp {
            all.insert("ipVersion".into(), json!(c.one(&[4, 6])));
        }
    }
    let to_port = c.percent(75);
    let side = |yes: bool| {
        (!real.is_empty()).then_some((if yes { real } else { &SOURCE_PORTS[..] }, yes && certain))
    };
    let source = if to_port || real.is_empty() { None } else { Some((&SOURCE_PORTS[..], certain)) };
    all.insert("source".into(), entity(c, namespaced, source));
    let destination = side(to_port).filter(|_| to_port);
    all.insert("destination".into(), entity(c, namespaced, destination));
    if all["source"] == json!({}) && c.percent(50) {
        all.remove("source");
    }
    if c.percent(2) {
        all["destination"]["services"] = json!({ "name": "s", "namespace": "n" });
        all["destination"].as_object_mut().into_iter().for_each(|d| drop(d.remove("ports")));
    }
    if action == "Allow" && c.percent(2) {
        all.insert("http".into(), json!({ "methods": ["GET"] }));
    }
    all.into()
}

/// Ends of the ranges from which questions come, as ports of a rule.
const SOURCE_PORTS: [u16; 6] = [9_999, 10_000, 14_999, 15_000, 20_001, 29_999];

/// A handful of rules.
pub(crate) fn rules(c: &mut Chance, namespaced: bool, passes: bool) -> Vec<Value> {
    (0..c.below(5)).map(|_| rule(c, namespaced, passes)).collect()
}
