//! Host endpoints that police the hosts' uplinks, policies about them, fail-safe ports.

use std::collections::BTreeMap;

use calico_e2e::tutorial::HOSTS;
use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::object::{labels, object};
use crate::rules::{LABELS, TCP, UDP, rules, selector};
use crate::world::{ALWAYS, NEVER};

/// The hosts' interface to the wire.
pub(crate) const UPLINK: &str = "eth0";
/// Host endpoints besides the one that expects addresses.
pub(crate) const ENDPOINTS: usize = 3;
/// Policies about host endpoints.
pub(crate) const POLICIES: usize = 4;

/// A host endpoint of a name, or of all interfaces.
pub(crate) fn endpoint(
    c: &mut Chance,
    number: usize,
    profiles: &[String],
    ports: &[Value],
) -> (String, String) {
    let mut labels = labels(c, &LABELS, "");
    labels.insert("control".into(), json!("yes"));
    let spec = json!({
        "node": HOSTS[number % HOSTS.len()].name, "profiles": profiles, "ports": ports,
        "interfaceName": c.one(&[UPLINK, UPLINK, "*"]),
    });
    object("hostendpoints", None, &format!("up{number}"), labels, &spec)
}

/// What early policies begin with: what the control policy says of its ports holds.
pub(crate) fn leave_control_alone(spec: &mut Map<String, Value>) {
    for direction in ["ingress", "egress"] {
        let Some(list) = spec.get_mut(direction).and_then(Value::as_array_mut) else { continue };
        for side in ["source", "destination"] {
            let ports = json!({ "ports": [ALWAYS, NEVER] });
            list.insert(0, json!({ "action": "Pass", "protocol": "TCP", side: ports }));
        }
    }
}

/// A policy for host endpoints, though others may be selected as well.
pub(crate) fn policy(c: &mut Chance, number: usize, tier: &str) -> (String, String) {
    let mut spec = Map::new();
    spec.insert("tier".into(), json!(tier));
    spec.insert("order".into(), c.one(&[json!(5), json!(10), json!(15.5)]).clone());
    let text = if c.percent(45) { "has(control)".into() } else { selector(c, &LABELS, 1) };
    spec.insert("selector".into(), json!(text));
    let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])];
    spec.insert("types".into(), c.one(&types).clone());
    for direction in ["ingress", "egress"] {
        let mut list = rules(c, false, true);
        if c.percent(60) {
            // Otherwise hardly anything passes.
            list.push(json!({ "action": c.one(&["Allow", "Allow", "Pass"]) }));
        }
        spec.insert(direction.into(), list.into());
    }
    match c.below(10) {
        0..=2 => {}
        3..=5 => drop(spec.insert("applyOnForward".into(), json!(true))),
        6 | 7 => {
            spec.insert("applyOnForward".into(), json!(true));
            spec.insert("doNotTrack".into(), json!(true));
            leave_control_alone(&mut spec);
        }
        _ => {
            spec.insert("applyOnForward".into(), json!(true));
            spec.insert("preDNAT".into(), json!(true));
            spec.insert("types".into(), json!(["Ingress"]));
            spec.remove("egress");
            leave_control_alone(&mut spec);
        }
    }
    let name = format!("{tier}.h{number}");
    object("globalnetworkpolicies", None, &name, Map::new(), &spec.into())
}

/// A list of fail-safe ports: the agents reach etcd and each other by BGP, whatever else there is.
pub(crate) fn failsafes(c: &mut Chance) -> Value {
    let mut all: Vec<Value> =
        [179, 2379].iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect();
    let nets = ["172.18.18.0/24", "172.18.18.250/32", "192.168.0.0/16", "fd00:172:18:18::/64"];
    for _ in 0..c.below(4) {
        let (protocol, port) =
            if c.percent(60) { ("TCP", *c.one(&TCP)) } else { ("UDP", *c.one(&UDP)) };
        let net = if c.percent(40) { *c.one(&nets) } else { "" };
        all.push(json!({ "protocol": protocol, "port": port, "net": net }));
    }
    all.into()
}

/// How often host endpoints have to say something in a default run, at least: at these hooks, for
/// these reasons.
const LEAST: [(&[&str], &[&str], usize); 9] = [
    (&["Normal ingress"], &["allowed by a policy"], 8),
    (&["Normal ingress"], &["denied by a policy", "denied by an end"], 20),
    (&["Normal egress"], &["allowed by a policy"], 20),
    (&["Normal egress"], &["denied by a policy", "denied by an end"], 40),
    (&["Normal ingress", "Normal egress"], &["allowed by a profile"], 10),
    (&["Normal ingress", "Normal egress"], &["a fail-safe port"], 10),
    (&["Forward ingress", "Forward egress"], &["denied by a policy", "denied by an end"], 200),
    (&["PreDnat ingress", "Untracked ingress", "Untracked egress"], &["denied by a policy"], 10),
    (&["Untracked ingress", "Untracked egress"], &["allowed by a policy"], 50),
];

/// What was said more seldom than that.
pub(crate) fn lacking(closed: usize, told: &BTreeMap<String, usize>) -> Vec<String> {
    let rows = LEAST.iter().filter_map(|(hooks, reasons, least)| {
        let each = hooks.iter().flat_map(|hook| reasons.iter().map(move |why| (hook, why)));
        let count: usize = each.filter_map(|(hook, why)| told.get(&format!("{hook}: {why}"))).sum();
        (count < *least).then(|| format!("{hooks:?} {reasons:?}: {count} of {least}"))
    });
    let few = (closed < 300).then(|| format!("closed {closed} of 300"));
    rows.chain(few).collect()
}
