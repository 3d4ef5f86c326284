//! Hosts made by hand, in which every rule of the chains of host endpoints decides about some packet:
//! two tiers at each hook, with policies that allow, deny and pass on, an endpoint of one interface
//! beside one of all others.

use std::collections::BTreeMap;

use calico_datastore::model::{Family, Name};
use calico_reference::{Host, Known, Packet, Passage, Place};
use calico_worlds::{Trip, World};
use serde_json::{Value, json};

/// The kinds of policies, each with the first of its ports.
const KINDS: [(&str, u16); 4] =
    [("doNotTrack", 1000), ("preDNAT", 2000), ("applyOnForward", 3000), ("normal", 4000)];
/// What is allowed at the end: from this port, and to some of the outside.
const FRIEND: u16 = 77;

fn object(plural: &str, name: &str, labels: &Value, spec: &Value) -> (String, Value) {
    let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{name}");
    let name = name.rsplit('/').next().unwrap_or(name);
    (key, json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
}

fn rule(action: &str, port: u16) -> Value {
    json!({ "action": action, "protocol": "TCP", "destination": { "ports": [port] } })
}

fn policy(kind: &str, tier: &str, name: &str, selector: &str, rules: &[Value]) -> (String, Value) {
    let mut spec = json!({
        "tier": tier, "order": 1, "selector": selector, "types": ["Ingress", "Egress"],
        "ingress": rules, "egress": rules, "applyOnForward": kind != "normal",
    });
    match kind {
        "doNotTrack" => spec["doNotTrack"] = json!(true),
        "preDNAT" => {
            spec["preDNAT"] = json!(true);
            spec["types"] = json!(["Ingress"]);
            spec["egress"] = json!([]);
        }
        _ => {}
    }
    object("globalnetworkpolicies", &format!("{tier}.{kind}-{name}"), &json!({}), &spec)
}

/// The world.
pub(crate) fn world() -> World {
    let mut objects: BTreeMap<String, Value> = BTreeMap::new();
    for (tier, order, action) in [("alpha", 1, "Pass"), ("beta", 2, "Deny")] {
        let spec = json!({ "order": order, "defaultAction": action });
        objects.extend([object("tiers", tier, &json!({}), &spec)]);
    }
    for (kind, port) in KINDS {
        let mut put = |tier: &str, name: &str, selector: &str, rules: &[Value]| {
            objects.extend([policy(kind, tier, name, selector, rules)]);
        };
        let of = |rules: &[(&str, u16)]| -> Vec<Value> {
            rules.iter().map(|(action, more)| rule(action, port + more)).collect()
        };
        let first = [("Pass", 1), ("Pass", 2), ("Pass", 3), ("Allow", 4), ("Deny", 5)];
        put("alpha", "a", "has(host)", &of(&first));
        put("alpha", "b", "has(host)", &of(&[("Deny", 3), ("Deny", 4), ("Pass", 8)]));
        put("beta", "a", "has(host)", &of(&[("Allow", 3), ("Allow", 6)]));
        let mut last = of(&[("Deny", 1), ("Allow", 2)]);
        if kind == "applyOnForward" || kind == "normal" {
            let friend = json!({ "ports": [FRIEND] });
            last.push(json!({ "action": "Allow", "protocol": "TCP", "source": friend }));
        }
        put("beta", "b", "has(host)", &last);
        // What only one of the endpoints says.
        put("alpha", "c", "has(star)", &of(&[("Deny", 10), ("Allow", 11)]));
        put("alpha", "d", "has(named)", &of(&[("Deny", 12), ("Allow", 13)]));
    }
    let open = json!({ "ingress": [{ "action": "Allow" }], "egress": [{ "action": "Allow" }] });
    objects.extend([object("profiles", "open", &json!({}), &open)]);
    let host = |name: &str, interface: &str| {
        let labels = json!({ "host": "", name: "" });
        let spec = json!({ "node": "near", "interfaceName": interface });
        object("hostendpoints", name, &labels, &spec)
    };
    objects.extend([host("star", "*"), host("named", "eth0")]);
    let pod = json!({
        "orchestrator": "cni", "node": "near", "endpoint": "eth0", "profiles": ["open"],
        "ipNetworks": ["10.65.0.1/32", "fd65::1/128"], "interfaceName": "cali1",
    });
    objects.extend([object("workloadendpoints", "default/near-cni-p1-eth0", &json!({}), &pod)]);
    World { node: Name::from("near"), objects }
}

/// The host: a fail-safe port that no policy allows with anybody, one only with some, each way.
pub(crate) fn host() -> Host {
    let safe = |port, net: Option<&str>| calico_reference::Failsafe {
        protocol: calico_datastore::model::Protocol::TCP,
        port,
        net: net.map(|net| net.parse().unwrap()),
    };
    let list = |port| {
        vec![
            safe(port, None),
            safe(port + 1, Some("198.51.100.0/25")),
            safe(port + 1, Some("2001:db8:7::/65")),
            // Ports that early policies deny.
            safe(1005, Some("198.51.100.0/25")),
            safe(1005, Some("2001:db8:7::/65")),
            safe(2005, Some("198.51.100.0/25")),
            safe(2005, Some("2001:db8:7::/65")),
        ]
    };
    Host { failsafe_in: list(22), failsafe_out: list(52), ..World::host(0) }
}

/// Every port that anything is said about, from everywhere to everywhere.
pub(crate) fn trips(world: &World, host: &Host) -> Vec<Trip> {
    let pod = world.reference().workloads().next().map(|(id, _)| id.clone()).unwrap();
    let outside = |at: usize| Place::Interface(host.interfaces[at].name.clone());
    let pod = Place::Workload(pod);
    let ways = [
        (outside(0), Place::Local),
        (outside(1), Place::Local),
        (Place::Local, outside(0)),
        (Place::Local, outside(1)),
        (outside(0), outside(1)),
        (outside(1), outside(0)),
        (outside(0), pod.clone()),
        (outside(1), pod.clone()),
        (pod.clone(), outside(0)),
        (pod, outside(1)),
    ];
    let mut ports = vec![22, 23, 24, 52, 53, 54];
    ports.extend(KINDS.iter().flat_map(|(_, first)| (1..=13).map(move |more| first + more)));
    let mut out = Vec::new();
    for family in Family::ALL {
        let text = |v4: &str, v6: &str| if family == Family::V4 { v4 } else { v6 }.parse().unwrap();
        // Fail-safe ports are for the first of these.
        let far = [
            text("198.51.100.7", "2001:db8:7::7"),
            text("198.51.100.200", "2001:db8:7::8000:0:0:7"),
        ];
        let own = host.interfaces[0].addresses.iter().find(|ip| Family::of(**ip) == family);
        let of_pod = text("10.65.0.1", "fd65::1");
        for (at, (from, to)) in ways.iter().enumerate() {
            for (number, port) in ports.iter().enumerate() {
                // The families have the same rules.
                if family == Family::V6 && (number + at) % 3 > 0 {
                    continue;
                }
                for other in [FRIEND, 78] {
                    let second = (number + at + usize::from(other)) % 2 == 1;
                    let far = far[usize::from(second)];
                    let address = |place: &Place, second: bool| match place {
                        Place::Local => *own.unwrap(),
                        Place::Workload(_) => of_pod,
                        // Two of the outside are two.
                        Place::Interface(_) if second => text("203.0.113.9", "2001:db8:9:9::9"),
                        Place::Interface(_) => far,
                    };
                    let through = matches!((from, to), (Place::Interface(_), Place::Interface(_)));
                    let (source, destination) = (address(from, false), address(to, through));
                    let mut put = |packet: Packet, known: Known, translated| {
                        let (from, to) = (from.clone(), to.clone());
                        out.push(Trip(Passage { from, to, known, packet, translated }));
                    };
                    let packet = Packet::tcp(source, other, destination, *port);
                    put(packet, Known::New, None);
                    if number < 6 || number % 3 == 0 {
                        put(Packet::tcp(source, *port, destination, other), Known::New, None);
                    }
                    if number % 4 == 0 {
                        put(packet, Known::Answered, None);
                        put(packet, Known::Nothing, None);
                    }
                    if *from == Place::Local {
                        // One address for each that it is translated to.
                        let early = if second {
                            text("100.64.0.10", "2001:db8:7777::a")
                        } else {
                            text("100.64.0.9", "2001:db8:7777::9")
                        };
                        put(Packet { destination: early, ..packet }, Known::New, Some(destination));
                    }
                }
            }
            if family == Family::V6 {
                let (source, destination) = match (from, to) {
                    (Place::Interface(_), Place::Local) => (far[0], *own.unwrap()),
                    (Place::Local, Place::Interface(_)) => (*own.unwrap(), far[0]),
                    _ => continue,
                };
                let packet =
                    Packet { source, destination, protocol: 58, ports: None, icmp: Some((128, 0)) };
                let (from, to) = (from.clone(), to.clone());
                let known = Known::New;
                out.push(Trip(Passage { from, to, known, packet, translated: None }));
            }
        }
    }
    out
}
