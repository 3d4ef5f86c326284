//! What a reader of `nft list ruleset` would see of small hosts, word by word: `golden/*.nft`.
//!
//! `CALICO_GOLDEN=write` writes the files anew, to be looked at before they are committed.

use std::path::Path;
use std::sync::Arc;

use calico_agent::config::Settings;
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::{Family, Name};
use calico_worlds::World;
use serde_json::{Value, json};

use crate::subject::Subject;

fn world(objects: Vec<(&str, &str, Value, Value)>) -> World {
    let objects = objects.into_iter().map(|(plural, path, labels, spec)| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{path}");
        (key, json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
    });
    World { node: Name::from("near"), objects: objects.collect() }
}

fn objects() -> Vec<(&'static str, &'static str, Value, Value)> {
    let pod = |number: u32| {
        json!({
            "orchestrator": "cni", "node": "near", "endpoint": "eth0", "profiles": ["open"],
            "ipNetworks": [format!("10.65.0.{number}/32"), format!("fd65::{number}/128")],
            "interfaceName": format!("cali{number}"),
            "ports": [{ "name": "web", "protocol": "TCP", "port": 80 }],
        })
    };
    let web = json!({
        "tier": "default", "order": 1, "selector": "role == 'web'", "types": ["Ingress", "Egress"],
        "ingress": [
            { "action": "Log", "protocol": "TCP", "destination": { "ports": ["web", 8080, "9000:9002"] } },
            { "action": "Allow", "protocol": "TCP", "source": { "selector": "role == 'client'" },
              "destination": { "ports": ["web", 8080] } },
            { "action": "Allow", "protocol": "ICMP", "icmp": { "type": 8, "code": 0 } },
            { "action": "Deny", "source": { "notNets": ["10.0.0.0/8", "fd00::/8"] } },
        ],
        "egress": [
            { "action": "Allow", "protocol": "UDP",
              "destination": { "selector": "role == 'net'", "ports": [53] } },
        ],
    });
    let secure = json!({
        "tier": "secure", "order": 1, "selector": "has(role)", "types": ["Ingress", "Egress"],
        "ingress": [
            { "action": "Deny", "source": { "nets": ["192.0.2.0/24", "198.51.100.0/24"] } },
            { "action": "Pass" },
        ],
        "egress": [{ "action": "Pass" }],
    });
    let open = json!({ "ingress": [{ "action": "Deny" }], "egress": [{ "action": "Allow" }] });
    let nets = json!({ "nets": ["203.0.113.0/24", "203.0.113.7/32", "2001:db8::/32"] });
    vec![
        ("tiers", "secure", json!({}), json!({ "order": 1 })),
        ("globalnetworkpolicies", "default.web", json!({}), web),
        ("globalnetworkpolicies", "secure.first", json!({}), secure),
        ("globalnetworksets", "nets", json!({ "role": "net" }), nets),
        ("profiles", "open", json!({}), open),
        ("workloadendpoints", "default/near-cni-p1-eth0", json!({ "role": "web" }), pod(1)),
        ("workloadendpoints", "default/near-cni-p2-eth0", json!({ "role": "client" }), pod(2)),
        ("workloadendpoints", "default/near-cni-p3-eth0", json!({}), pod(3)),
    ]
}

fn of_hosts() -> Vec<(&'static str, &'static str, Value, Value)> {
    let policy = |kind: &str, port: u16| {
        let rule =
            json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": [port] } });
        let (both, egress) = match kind {
            "preDNAT" => (json!(["Ingress"]), json!([])),
            _ => (json!(["Ingress", "Egress"]), json!([&rule])),
        };
        let mut spec = json!({
            "tier": "default", "order": 1, "selector": "has(host)", "types": both,
            "ingress": [rule], "egress": egress, "applyOnForward": true,
        });
        if kind != "applyOnForward" {
            spec[kind] = json!(true);
        }
        spec
    };
    let host = json!({ "node": "near", "interfaceName": "eth0", "profiles": [] });
    let pod = json!({
        "orchestrator": "cni", "node": "near", "endpoint": "eth0", "profiles": [],
        "ipNetworks": ["10.65.0.1/32"], "interfaceName": "cali1",
    });
    vec![
        ("globalnetworkpolicies", "default.early", json!({}), policy("preDNAT", 1)),
        ("globalnetworkpolicies", "default.raw", json!({}), policy("doNotTrack", 2)),
        ("globalnetworkpolicies", "default.through", json!({}), policy("applyOnForward", 3)),
        ("hostendpoints", "h", json!({ "host": "" }), host),
        ("workloadendpoints", "default/near-cni-p1-eth0", json!({}), pod),
    ]
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nft_worlds/golden").join(name);
    if std::env::var("CALICO_GOLDEN").is_ok_and(|what| what == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (number, (one, other)) in (1..).zip(golden.lines().zip(text.lines())) {
        assert_eq!(one, other, "{name}, line {number}");
    }
    assert_eq!(golden.len(), text.len(), "{name}");
}

fn listing(objects: Vec<(&str, &str, Value, Value)>, settings: Settings) -> String {
    let world = world(objects);
    let mut links = Links::new();
    links.insert("eth0".parse().unwrap(), Link { index: 1000, up: true, ..Link::default() });
    let subject = Subject::with_hosts(&world.node, world.updates(), Arc::new(settings), links);
    subject.made.ruleset(Family::V4).listing()
}

#[test]
fn pods_are_as_they_were() {
    compare("pods.nft", &listing(objects(), Settings::default()));
}

#[test]
fn reports_rejects_and_names_instead_of_groups_are_as_they_were() {
    let settings = Settings {
        denied_log: true,
        endpoint_counters: false,
        rkt_metadata_service: true,
        filter_deny: calico_agent::config::DenyAction::Reject,
        ipv6: false,
        ..Settings::default()
    };
    compare("reports.nft", &listing(objects(), settings));
}

#[test]
fn hosts_are_as_they_were() {
    compare("hosts.nft", &listing(of_hosts(), Settings::default()));
}
