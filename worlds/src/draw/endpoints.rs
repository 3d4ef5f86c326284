//! Endpoints of workloads and of hosts.

use serde_json::{Map, Value, json};

use super::{ACCOUNTS, DEFAULT_ALLOW, Drawing, NAMESPACES, NODES, PROFILES, rules, selectors};
use crate::chance::Chance;

/// The two addresses of a number.
fn addresses(number: usize) -> [String; 2] {
    [format!("10.65.0.{number}/32"), format!("fd65::{number:x}/128")]
}

impl Drawing {
    pub(super) fn workloads(&mut self) {
        let near = 2 + self.chance.below(4);
        let far = 2 + self.chance.below(4);
        for number in 0..near + far {
            let node = NODES[usize::from(number >= near)];
            self.workload(number, node);
        }
    }

    fn workload(&mut self, number: usize, node: &str) {
        let c = &mut self.chance;
        let namespace = if c.percent(55) { NAMESPACES[0] } else { NAMESPACES[1] };
        let mut labels = selectors::labels(c, 65);
        labels.insert("projectcalico.org/namespace".into(), json!(namespace));
        if c.percent(8) {
            // Only the namespace's profile may say such a thing.
            labels.insert("pcns.stage".into(), json!("prod"));
        }
        let mut networks: Vec<String> = addresses(number).to_vec();
        match c.below(16) {
            0 => drop(networks.remove(c.below(2))),
            1 => networks.extend(addresses(12 + c.below(3))),
            // An address that another one has as well.
            2..=5 => networks.push(addresses(c.below(10))[c.below(2)].clone()),
            6 if c.percent(30) => networks.clear(),
            _ => {}
        }
        let mut profiles = profiles(c);
        profiles.push(format!("kns.{namespace}"));
        let mut spec = json!({
            "orchestrator": "cni", "node": node, "endpoint": "eth0", "ipNetworks": networks,
            "interfaceName": format!("cali{number}"), "ports": rules::named_ports(c),
        });
        if c.percent(35) {
            let account = *c.one(&ACCOUNTS);
            spec["serviceAccountName"] = json!(account);
            profiles.push(format!("ksa.default.{account}"));
        }
        spec["profiles"] = json!(profiles);
        self.put(
            "workloadendpoints",
            Some(namespace),
            &format!("{node}-cni-p{number}-eth0"),
            labels,
            &spec,
        );
    }

    pub(super) fn host_endpoints(&mut self) {
        for number in 0..self.chance.below(4) {
            let c = &mut self.chance;
            let labels: Map<String, Value> = selectors::labels(c, 65);
            let mut ips = vec![format!("172.18.18.{}", 100 + number), format!("fd18::{number}")];
            if c.percent(40) {
                // A pod's address: whoever it is, rules mean both.
                ips.push(format!("10.65.0.{}", c.below(8)));
            }
            let mut spec = json!({
                "node": c.one(&NODES), "expectedIPs": ips, "profiles": profiles(c),
                "ports": rules::named_ports(c),
            });
            match c.below(5) {
                0 | 1 => spec["interfaceName"] = json!(format!("eth{}", c.below(2))),
                2 => spec["interfaceName"] = json!("*"),
                _ => {}
            }
            self.put("hostendpoints", None, &format!("h{number}"), labels, &spec);
        }
    }
}

pub(super) fn profiles(c: &mut Chance) -> Vec<String> {
    let mut profiles: Vec<String> = c.some(&PROFILES, 0, 2).into_iter().map(String::from).collect();
    if c.percent(75) {
        profiles.retain(|name| name != "never-made");
    }
    if profiles.len() > 1 && c.percent(50) {
        profiles.swap(0, 1);
    }
    if c.percent(30) {
        let at = c.below(profiles.len() + 1);
        profiles.insert(at, DEFAULT_ALLOW.to_owned());
    }
    profiles
}
