//! Worlds made by hand: what chance hardly ever draws so that it decides.

use std::collections::BTreeMap;

use calico_datastore::model::Name;
use calico_worlds::World;
use serde_json::{Value, json};

/// Rules with several lists, which need a mark for each; a profile that passes, behind a tier that
/// passed.
pub(crate) fn worlds() -> Vec<World> {
    vec![lists(), passing()]
}

fn world(objects: Vec<(&str, &str, Value)>) -> World {
    let objects = objects.into_iter().map(|(plural, path, spec)| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let metadata = json!({ "name": name });
        let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{path}");
        (key, json!({ "metadata": metadata, "spec": spec }))
    });
    World { node: Name::from("near"), objects: objects.collect::<BTreeMap<_, _>>() }
}

fn endpoint(number: usize, profiles: &[&str]) -> Value {
    json!({
        "orchestrator": "cni", "node": "near", "endpoint": "eth0", "profiles": profiles,
        "ipNetworks": [format!("10.65.0.{number}/32"), format!("fd65::{number}/128")],
        "interfaceName": format!("cali{number}"),
        "ports": [{ "name": "web", "protocol": "TCP", "port": 80 }],
    })
}

fn lists() -> World {
    // More ports than one rule takes.
    let ports: Vec<u16> = (0..18).map(|n| 80 + 2 * n).collect();
    let near = ["10.65.0.0/31", "10.65.0.4/32", "fd65::/127", "fd65::4/128"];
    let far = ["198.51.100.0/24", "10.65.0.0/30", "2001:db8:7::/64", "fd65::/126"];
    let both = |source: &[&str], destination: &[&str]| {
        json!([
            { "action": "Deny", "protocol": "UDP",
              "source": { "nets": source, "notNets": ["10.65.0.1/32", "192.0.2.0/24", "fd65::1/128", "2001:db8:9::/64"] },
              "destination": { "nets": destination, "ports": ports } },
            { "action": "Pass", "protocol": "SCTP", "source": { "nets": source },
              "destination": { "nets": destination } },
            { "action": "Allow", "protocol": "UDP" },
            { "action": "Allow", "protocol": "TCP", "source": { "nets": source, "ports": ports },
              "destination": { "nets": destination, "ports": ports } },
            { "action": "Deny" },
        ])
    };
    let spec = json!({
        "tier": "default", "order": 1, "selector": "all()", "types": ["Ingress", "Egress"],
        "ingress": both(&far, &near), "egress": both(&near, &far),
    });
    let open = json!({ "ingress": [{ "action": "Allow", "protocol": "SCTP" }], "egress": [] });
    world(vec![
        ("globalnetworkpolicies", "default.lists", spec),
        ("profiles", "open", open),
        ("workloadendpoints", "default/near-cni-p0-eth0", endpoint(0, &["open"])),
        ("workloadendpoints", "default/near-cni-p1-eth0", endpoint(1, &["open"])),
        ("workloadendpoints", "default/near-cni-p4-eth0", endpoint(4, &[])),
    ])
}

fn passing() -> World {
    let rules = json!([
        { "action": "Pass", "protocol": "TCP", "destination": { "ports": [81] } },
        { "action": "Allow", "protocol": "TCP", "destination": { "ports": [80, 81] } },
    ]);
    let last = json!([
        { "action": "Allow", "protocol": "UDP" },
        { "action": "Allow", "protocol": "TCP", "source": { "notPorts": ["web"] },
          "destination": { "ports": [443] } },
        { "action": "Allow", "protocol": "ICMP", "notICMP": { "type": 8 } },
        { "action": "Allow", "protocol": "ICMPv6", "notICMP": { "type": 128 } },
    ]);
    let pass = json!([{ "action": "Pass" }]);
    world(vec![
        (
            "globalnetworkpolicies",
            "default.pass",
            json!({
                "tier": "default", "order": 1, "selector": "all()",
                "types": ["Ingress", "Egress"], "ingress": pass, "egress": pass,
            }),
        ),
        ("profiles", "first", json!({ "ingress": rules, "egress": rules })),
        ("profiles", "second", json!({ "ingress": last, "egress": last })),
        ("workloadendpoints", "default/near-cni-p0-eth0", endpoint(0, &["first", "second"])),
        ("workloadendpoints", "default/near-cni-p1-eth0", endpoint(1, &["second", "first"])),
    ])
}
