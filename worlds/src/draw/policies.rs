//! Tiers and policies.

use serde_json::{Map, Value, json};

use super::{Drawing, NAMESPACES, rules, selectors};
use crate::chance::Chance;

/// The one that stores without tiers have first.
pub(super) const TIERS: [&str; 3] = ["default", "alpha", "beta"];

impl Drawing {
    pub(super) fn tiers(&mut self) {
        for name in &TIERS[1..] {
            let c = &mut self.chance;
            if c.percent(10) {
                continue;
            }
            let orders = [json!(10), json!(10), json!(20.5), json!(2e6), Value::Null];
            let mut spec = json!({ "order": c.one(&orders) });
            if c.percent(80) {
                spec["defaultAction"] = json!(c.one(&["Pass", "Pass", "Deny"]));
            }
            self.put("tiers", None, name, Map::new(), &spec);
        }
        let c = &mut self.chance;
        if c.percent(75) {
            let spec = json!({
                "order": c.one(&[json!(1_000_000), json!(1_000_000), json!(15)]),
                "defaultAction": c.one(&["Deny", "Deny", "Pass"]),
            });
            self.put("tiers", None, "default", Map::new(), &spec);
        }
    }

    pub(super) fn policy(&mut self, number: usize, mut tier: &str) {
        let c = &mut self.chance;
        let global = c.percent(60);
        // Names that sort otherwise than the numbers.
        let name = format!("{tier}.{}{number}", c.one(&["p", "m", "z"]));
        if c.percent(4) {
            tier = "ghost";
        }
        let mut spec = Map::new();
        let mut labels = Map::new();
        match c.below(6) {
            0 | 1 if tier != "ghost" => {}
            2 => drop(labels.insert("projectcalico.org/tier".into(), json!(tier))),
            _ => drop(spec.insert("tier".into(), json!(tier))),
        }
        let orders = [json!(10), json!(10), json!(10), json!(10.5), json!(-3), json!(9)];
        if c.percent(80) {
            spec.insert("order".into(), c.one(&orders).clone());
        }
        if c.percent(85) {
            let text = if c.percent(35) { "all()".into() } else { selectors::selector(c) };
            spec.insert("selector".into(), json!(text));
        }
        let types = [
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
            json!(["ingress", "egress"]),
            json!([]),
        ];
        if c.percent(85) {
            spec.insert("types".into(), c.one(&types).clone());
        }
        for direction in ["ingress", "egress"] {
            let list = rules::rules(c, Some(!global), 4);
            spec.insert(direction.into(), list.into());
        }
        if c.percent(10) {
            spec.insert("serviceAccountSelector".into(), json!(selectors::outer_selector(c)));
        }
        if global && c.percent(15) {
            spec.insert("namespaceSelector".into(), json!(selectors::outer_selector(c)));
        }
        if global {
            for_hosts(c, &mut spec);
        }
        if c.percent(4) {
            spoil(c, &mut spec);
        }
        let staged = if c.percent(7) { "staged" } else { "" };
        let namespace = *c.one(&NAMESPACES);
        let spec = Value::Object(spec);
        if global {
            let plural = format!("{staged}globalnetworkpolicies");
            self.put(&plural, None, &name, labels, &spec);
        } else {
            let plural = format!("{staged}networkpolicies");
            self.put(&plural, Some(namespace), &name, labels, &spec);
        }
    }
}

/// Some global policies are about host endpoints, and about pods only when they are normal.
fn for_hosts(c: &mut Chance, spec: &mut Map<String, Value>) {
    match c.below(16) {
        0..=3 => drop(spec.insert("applyOnForward".into(), json!(true))),
        4 | 5 => {
            spec.insert("applyOnForward".into(), json!(true));
            spec.insert("doNotTrack".into(), json!(true));
        }
        6 | 7 => {
            spec.insert("applyOnForward".into(), json!(true));
            spec.insert("preDNAT".into(), json!(true));
            spec.insert("types".into(), json!(["Ingress"]));
            spec.remove("egress");
        }
        _ => {}
    }
}

/// Makes a policy one that cannot be read: it is absent then.
fn spoil(c: &mut Chance, spec: &mut Map<String, Value>) {
    let rule = match c.below(8) {
        0 => json!({ "action": "Reject" }),
        1 => json!({ "action": "Allow", "source": { "nets": ["10.65.0.0/33"] } }),
        2 => json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": [65536] } }),
        3 => json!({ "action": "Allow", "destination": { "ports": [80] } }),
        4 => json!({ "action": "Allow", "protocol": "ICMP", "icmp": { "code": 0 } }),
        5 => json!({ "action": "Allow", "ipVersion": 5 }),
        6 => json!({ "action": "Allow", "source": { "selector": "has (role)" } }),
        _ => {
            spec.insert("selector".into(), json!("role == "));
            return;
        }
    };
    spec.insert("ingress".into(), json!([{ "action": "Allow" }, rule]));
}
