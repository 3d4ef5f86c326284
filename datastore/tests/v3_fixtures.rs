//! Replays stores as real writers left them through the v3 layout.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a replay that cannot go on has failed")]

mod shared;

use std::collections::BTreeMap;

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::*;
use serde_json::Value;
use shared::{load, text};

/// What became of a store: the objects by id, and how many keys ended otherwise.
#[derive(Default)]
struct Replay {
    objects: BTreeMap<String, Update>,
    gone: Vec<String>,
    ignored: usize,
    unsupported: BTreeMap<String, usize>,
}

fn replay(store: &Value, count: usize) -> Replay {
    let store = store.as_array().unwrap();
    assert_eq!(store.len(), count);
    let mut replay = Replay::default();
    for entry in store {
        let key = text(&entry["key"]);
        match v3::decode(key, text(&entry["value"]).as_bytes()) {
            Decoded::Object(update) => {
                let id = update.id();
                assert_eq!(v3::id_of(key), Some(id.clone()), "{key}");
                assert_eq!(v3::keys::key_of(&id).as_deref(), Some(key));
                if update == Update::deleted(id.clone()) {
                    replay.gone.push(id.to_string());
                } else {
                    replay.objects.insert(id.to_string(), update);
                }
            }
            Decoded::Unsupported { kind } => *replay.unsupported.entry(kind).or_default() += 1,
            Decoded::Ignored => replay.ignored += 1,
            Decoded::Part(part) => panic!("{key}: {part:?}"),
            Decoded::Rejected(rejection) => panic!("{key}: {}", rejection.reason),
        }
    }
    replay
}

macro_rules! get {
    ($replay:expr, $kind:ident, $id:expr) => {
        match $replay.objects.get($id) {
            Some(Update::$kind(_, Some(value))) => value.clone(),
            other => panic!("{}: {other:?}", $id),
        }
    };
}

fn canonical(selector: &Option<Selector>) -> Option<&str> {
    selector.as_ref().map(Selector::canonical)
}

#[test]
fn the_rkt_world() {
    let Some(store) = load("fixtures/v3-rkt.json") else { return };
    let world = replay(&store, 56);
    assert_eq!((world.objects.len(), world.gone.len(), world.ignored), (38, 0, 15));
    assert_eq!(
        world.unsupported,
        BTreeMap::from([("bgppeers".to_owned(), 2), ("ipreservations".to_owned(), 1)])
    );

    match &world.objects["ClusterInformation default"] {
        Update::ClusterInformation(Some(info)) => {
            assert!(info.datastore_ready);
            assert_eq!(info.guid.as_deref(), Some("8a1f6ef3b4c14d0f9e5a7c2b1d3e4f50"));
        }
        other => panic!("{other:?}"),
    }
    let felix = get!(world, FelixConfiguration, "FelixConfiguration default");
    let parameters: Vec<(&str, &str)> =
        felix.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        parameters,
        [
            ("EndpointReportingEnabled", "true"),
            ("FailsafeInboundHostPorts", "tcp:22,udp:68"),
            ("IpInIpEnabled", "true"),
            ("IptablesRefreshInterval", "90"),
            ("Ipv6Support", "true"),
            ("LogSeverityScreen", "Info"),
            ("ReportingIntervalSecs", "0"),
            ("SomeFutureOption", "42"),
        ]
    );
    let felix = get!(world, FelixConfiguration, "FelixConfiguration node.calico-01");
    assert_eq!(felix.parameters.len(), 1);
    assert_eq!(&*felix.parameters["DefaultEndpointToHostAction"], "Return");

    let bgp = get!(world, BgpConfiguration, "BGPConfiguration default");
    assert!(bgp.node_to_node_mesh);
    assert_eq!(bgp.as_number, Some(AsNumber(64512)));
    let node = get!(world, Node, "Node calico-02");
    assert_eq!(node.as_number, Some(AsNumber(64513)));
    assert_eq!(node.ipv4_network.unwrap().to_string(), "172.18.18.0/24");
    assert_eq!(node.ipip_tunnel.unwrap().to_string(), "192.168.0.66");
    assert_eq!(node.labels.get("rack"), Some("r2"));

    let v4 = get!(world, Pool, "IPPool default-ipv4-ippool");
    assert_eq!((v4.ipip, v4.nat_outgoing, v4.block_size), (EncapMode::CrossSubnet, true, 26));
    let v6 = get!(world, Pool, "IPPool default-ipv6-ippool");
    assert_eq!((v6.ipip, v6.nat_outgoing, v6.block_size), (EncapMode::Never, false, 122));

    let mut tiers: Vec<(Order, &str)> = ["security", "default", "adminnetworkpolicy"]
        .map(|name| (get!(world, Tier, &format!("Tier {name}")).order, name))
        .to_vec();
    tiers.sort();
    let names: Vec<&str> = tiers.iter().map(|(_, name)| *name).collect();
    assert_eq!(names, ["security", "adminnetworkpolicy", "default"]);

    let affinity = get!(world, Affinity, "affinity of calico-02 to block 192.168.9.0/26");
    assert_eq!(affinity.state, AffinityState::Pending);
    let block = get!(world, Block, "block fd80:24e2:f998:72d6::40/122");
    assert_eq!(block.host, Some(Name::from("calico-02")));
}

/// `has(frontend)` is how rkt's networks are selected: through a profile's label without a value.
#[test]
fn the_rkt_networks() {
    let Some(store) = load("fixtures/v3-rkt.json") else { return };
    let world = replay(&store, 56);
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut http = Vec::new();
    for update in world.objects.values() {
        let Update::WorkloadEndpoint(id, Some(endpoint)) = update else { continue };
        assert!(id.workload.as_str().starts_with("default/"));
        for network in ["frontend", "backend"] {
            let has: Selector = format!("has({network})").parse().unwrap();
            let profile = get!(world, Profile, &format!("Profile {}", endpoint.profiles[0]));
            if has.matches(&profile.labels) {
                let addresses = endpoint.addresses.iter().map(|cidr| cidr.address().to_string());
                members.entry(network).or_default().extend(addresses);
            }
        }
        let ports =
            endpoint.ports.iter().filter(|p| p.name == "http" && p.protocol == Protocol::TCP);
        http.extend(ports.flat_map(|port| {
            endpoint.addresses.iter().map(|cidr| format!("{},{}", cidr.address(), port.port))
        }));
    }
    for list in members.values_mut() {
        list.sort();
    }
    http.sort();
    let net = "fd80:24e2:f998:72d6::";
    assert_eq!(members["frontend"], ["192.168.0.0", "192.168.0.65", net, &format!("{net}41")]);
    assert_eq!(
        members["backend"],
        ["192.168.0.1", "192.168.0.64", &format!("{net}1"), &format!("{net}40")]
    );
    assert_eq!(
        http,
        [
            "192.168.0.1,8080".to_owned(),
            "192.168.0.64,8080".to_owned(),
            format!("{net}1,8080"),
            format!("{net}40,8080"),
        ]
    );
}

#[test]
fn the_rkt_policies() {
    let Some(store) = load("fixtures/v3-rkt.json") else { return };
    let world = replay(&store, 56);
    let ns = r#"projectcalico.org/namespace == "default""#;

    let block = get!(world, Policy, "GlobalNetworkPolicy security.block-threats");
    assert_eq!(block.tier.as_ref().unwrap(), &"security");
    let actions: Vec<Action> = block.ingress.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Log, Action::Deny, Action::Pass]);
    assert_eq!(canonical(&block.ingress[1].source.selector), Some(r#"threat == "yes""#));

    let ssh = get!(world, Policy, "GlobalNetworkPolicy default.host-ssh");
    assert_eq!(
        (ssh.tier.clone(), ssh.kind, ssh.apply_on_forward),
        (None, PolicyKind::Normal, true)
    );
    assert_eq!((ssh.governs_ingress, ssh.governs_egress), (true, false));
    assert_eq!(ssh.ingress[1].icmp, Some(IcmpMatch { icmp_type: 8, code: Some(0) }));
    let kind = |id: &str| get!(world, Policy, id).kind;
    assert_eq!(kind("GlobalNetworkPolicy default.host-prednat"), PolicyKind::PreDnat);
    assert_eq!(kind("GlobalNetworkPolicy default.host-untracked"), PolicyKind::Untracked);

    let backend = get!(world, Policy, "NetworkPolicy default/default.backend-ports");
    assert_eq!(backend.selector.canonical(), format!(r#"(role == "backend" && {ns})"#));
    let sources: Vec<_> = backend.ingress.iter().map(|r| canonical(&r.source.selector)).collect();
    let accounts =
        format!(r#"({ns} && (pcsa.team == "a" && projectcalico.org/serviceaccount in {{"ci"}}))"#);
    assert_eq!(
        sources,
        [
            Some(&*format!(r#"({ns} && role == "frontend")"#)),
            Some(r#"pcns.env == "prod""#),
            Some(&*format!(r#"({ns} && trust == "partner")"#)),
            Some(r#"(!has(projectcalico.org/namespace) && threat != "yes")"#),
            Some(&*accounts),
        ]
    );
    let ports = &backend.ingress[0].destination.ports;
    assert_eq!(ports.named, ["http"]);
    let ranges: Vec<String> = ports.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["9090", "10000:10100"]);
    assert_eq!(canonical(&backend.ingress[2].source.not_selector), Some(r#"threat == "yes""#));
    assert_eq!(backend.egress[0].family, Some(Family::V4));
    assert_eq!(backend.egress[1].not_protocol, Some(Protocol::SCTP));

    let last = get!(world, Policy, "NetworkPolicy default/default.frontend-no-order");
    assert_eq!(last.order, Order::LAST);
    assert_eq!(last.ingress[1].protocol, Some(Protocol::ICMPV6));
    let k8s = get!(world, Policy, "NetworkPolicy default/knp.default.from-k8s");
    assert_eq!(
        canonical(&k8s.ingress[0].source.selector).unwrap(),
        format!(r#"({ns} && (projectcalico.org/orchestrator == "k8s" && app == "x"))"#)
    );

    let partners = get!(world, NetworkSet, "NetworkSet default/partners");
    assert_eq!(partners.profiles, ["kns.default"]);
    assert_eq!(partners.labels.get("projectcalico.org/namespace"), Some("default"));
    let all = get!(world, HostEndpoint, "HostEndpoint calico-02-all");
    assert_eq!(all.interface, Some(Name::from("*")));
}

#[test]
fn variants_of_other_versions() {
    let Some(store) = load("fixtures/v3-variants.json") else { return };
    let world = replay(&store, 12);
    assert_eq!((world.objects.len(), world.ignored, world.unsupported.len()), (9, 1, 1));
    assert_eq!(world.unsupported["stagednetworkpolicies"], 1);
    assert_eq!(
        world.gone,
        ["WorkloadEndpoint calico-01/k8s/default/nginx-0/eth0"],
        "no addresses: absent, not rejected"
    );

    let dns = get!(world, Policy, "GlobalNetworkPolicy default.allow-dns");
    assert_eq!((dns.tier.clone(), dns.governs_ingress, dns.governs_egress), (None, false, true));
    let redis = get!(world, Policy, "NetworkPolicy default/default.allow-tcp-6379");
    assert_eq!(redis.tier, Some(Name::from("default")));
    let omitted = get!(world, Policy, "GlobalNetworkPolicy security.omitzero");
    assert_eq!(omitted.ingress, [Rule::any(Action::Pass)]);

    let docker = get!(
        world,
        WorkloadEndpoint,
        "WorkloadEndpoint calico-01/libnetwork/libnetwork/libnetwork/75b5c7f3a1d24c8e"
    );
    assert_eq!(docker.mac, None);
    assert!(get!(world, Profile, "Profile net1").labels.is_empty());

    let state = |block: &str| {
        get!(world, Affinity, &format!("affinity of calico-01 to block {block}")).state
    };
    assert_eq!(state("192.168.10.0/26"), AffinityState::Confirmed);
    assert_eq!(state("192.168.10.64/26"), AffinityState::Confirmed);
    assert_eq!(state("192.168.10.128/26"), AffinityState::PendingDeletion);
    assert_eq!(get!(world, Block, "block 192.168.10.64/26").host, None);
}

#[test]
fn names_of_workload_endpoints() {
    let Some(cases) = load("fixtures/v3-wep-names.json") else { return };
    let key = |name: &str| format!("{}workloadendpoints/ns/{name}", v3::RESOURCES_PREFIX);
    let ok = cases["ok"].as_array().unwrap();
    assert_eq!(ok.len(), 5);
    for case in ok {
        let name = text(&case["name"]);
        let id = match v3::id_of(&key(name)) {
            Some(ResourceId::WorkloadEndpoint(id)) => id,
            other => panic!("{name}: {other:?}"),
        };
        let workload = id.workload.as_str().strip_prefix("ns/").unwrap();
        let parts = [id.node.as_str(), id.orchestrator.as_str(), workload, id.endpoint.as_str()];
        assert_eq!(
            parts.to_vec(),
            case["parts"].as_array().unwrap().iter().map(text).collect::<Vec<_>>()
        );
        assert_eq!(v3::keys::key_of(&ResourceId::WorkloadEndpoint(id)), Some(key(name)));
    }
    let bad = cases["bad"].as_array().unwrap();
    assert_eq!(bad.len(), 4);
    for name in bad {
        let decoded = v3::decode(&key(text(name)), b"{}");
        assert!(matches!(&decoded, Decoded::Rejected(r) if r.id.is_none()), "{name}: {decoded:?}");
    }
}

/// Ports, protocols and AS numbers in the JSON forms of the API's own tests. DSCP values are not
/// part of anything that the model has.
#[test]
fn scalars_of_the_api() {
    let Some(cases) = load("cases/portranges.json") else { return };
    // The API parses these and refuses them later, when it validates; here both is one step.
    let refused_later = ["0", "\"0\"", "\"256\""];
    let mut counts = BTreeMap::new();
    for case in cases["json_parse"].as_array().unwrap() {
        let (kind, json) = (text(&case["type"]), text(&case["json"]));
        let valid = case["valid"].as_bool().unwrap();
        let (path, document, expected) = match kind {
            "asn" => {
                ("bgpconfigurations/default", format!(r#"{{"spec":{{"asNumber":{json}}}}}"#), valid)
            }
            "port" => (
                "profiles/p",
                format!(
                    r#"{{"spec":{{"ingress":[{{"action":"Allow","protocol":"TCP","source":{{"ports":[{json}]}}}}]}}}}"#
                ),
                valid,
            ),
            "protocol" => (
                "profiles/p",
                format!(r#"{{"spec":{{"ingress":[{{"action":"Allow","protocol":{json}}}]}}}}"#),
                valid && !refused_later.contains(&json),
            ),
            "dscp" => continue,
            other => panic!("unknown type {other}"),
        };
        let decoded = v3::decode(&format!("{}{path}", v3::RESOURCES_PREFIX), document.as_bytes());
        assert_eq!(matches!(decoded, Decoded::Object(_)), expected, "{kind} {json}: {decoded:?}");
        if let Decoded::Object(Update::BgpConfiguration(_, Some(bgp))) = decoded {
            let number = case["value"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap();
            assert_eq!(bgp.as_number, Some(AsNumber(number)));
        }
        *counts.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("asn", 14), ("port", 13), ("protocol", 8)]));

    let names = cases["named_port_validity"].as_array().unwrap();
    assert_eq!(names.len(), 4);
    for case in names {
        let name = text(&case["input"]);
        let json = format!(
            r#"{{"spec":{{"ingress":[{{"action":"Allow","protocol":"TCP","source":{{"ports":["{name}"]}}}}]}}}}"#
        );
        let key = format!("{}profiles/p", v3::RESOURCES_PREFIX);
        let accepted = matches!(v3::decode(&key, json.as_bytes()), Decoded::Object(_));
        assert_eq!(accepted, case["valid"].as_bool().unwrap(), "{name}");
    }
}
