//! Replays stores as real writers of Calico up to 2.6 left them through the v1 layout.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a replay that cannot go on has failed")]

mod shared;

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::layout::{Decoded, Rejection, v1};
use calico_datastore::model::*;
use shared::{load, text};

/// What became of a store.
struct Replay {
    objects: BTreeMap<String, Update>,
    refused: Vec<Rejection>,
    /// How many keys are what: an object, a part of one, refused, ignored.
    keys: [usize; 4],
    unsupported: BTreeMap<String, usize>,
}

/// Files one after the other, a key of a later one in the place of the same of an earlier one, with
/// the number of keys that there must be.
fn replay(files: &[&str], count: usize) -> Option<Replay> {
    let mut store = BTreeMap::new();
    for file in files {
        let entries = load(file)?;
        for entry in entries.as_array().unwrap() {
            store.insert(text(&entry["key"]).to_owned(), text(&entry["value"]).to_owned());
        }
    }
    assert_eq!(store.len(), count);
    let mut keys = [0; 4];
    let mut unsupported = BTreeMap::new();
    for (key, value) in &store {
        let decoded = v1::decode(key, value.as_bytes());
        match &decoded {
            Decoded::Object(update) => assert_eq!(v1::id_of(key), Some(update.id()), "{key}"),
            Decoded::Part(part) => assert_eq!(v1::id_of(key).as_ref(), Some(part.id()), "{key}"),
            _ => {}
        }
        match decoded {
            Decoded::Object(_) => keys[0] += 1,
            Decoded::Part(_) => keys[1] += 1,
            Decoded::Rejected(_) => keys[2] += 1,
            Decoded::Ignored => keys[3] += 1,
            Decoded::Unsupported { kind } => *unsupported.entry(kind).or_default() += 1,
        }
    }
    let (objects, refused) =
        v1::decode_all(store.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
    let objects = objects.into_iter().map(|(id, update)| (id.to_string(), update)).collect();
    Some(Replay { objects, refused, keys, unsupported })
}

macro_rules! get {
    ($replay:expr, $kind:ident, $id:expr) => {
        match $replay.objects.get($id) {
            Some(Update::$kind(_, Some(value))) => value.clone(),
            other => panic!("{}: {other:?}", $id),
        }
    };
}

impl Replay {
    fn kinds(&self) -> BTreeMap<&str, usize> {
        let mut kinds = BTreeMap::new();
        for id in self.objects.keys() {
            *kinds.entry(id.split(' ').next().unwrap()).or_default() += 1;
        }
        kinds
    }

    /// The labels of an endpoint, with those of its profiles.
    fn labels(&self, own: &Labels, profiles: &[Name]) -> Labels {
        let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
        for profile in profiles.iter().rev() {
            if let Some(Update::Profile(_, Some(profile))) =
                self.objects.get(&format!("Profile {profile}"))
            {
                labels.extend(profile.labels.iter().map(|(key, value)| (&**key, &**value)));
            }
        }
        labels.extend(own.iter().map(|(key, value)| (&**key, &**value)));
        labels.into_iter().collect()
    }

    /// The addresses of the endpoints that a selector matches.
    fn members(&self, selector: &str) -> BTreeSet<String> {
        let selector: Selector = selector.parse().unwrap();
        let matches =
            |own: &Labels, profiles: &[Name]| selector.matches(&self.labels(own, profiles));
        let mut members = BTreeSet::new();
        for update in self.objects.values() {
            match update {
                Update::WorkloadEndpoint(_, Some(pod)) if matches(&pod.labels, &pod.profiles) => {
                    members.extend(pod.addresses.iter().map(|a| a.address().to_string()));
                }
                Update::HostEndpoint(_, Some(host)) if matches(&host.labels, &host.profiles) => {
                    members.extend(host.expected_addresses.iter().map(ToString::to_string));
                }
                _ => {}
            }
        }
        members
    }
}

fn set(members: &[&str]) -> BTreeSet<String> {
    members.iter().map(ToString::to_string).collect()
}

fn canonical(selector: &Option<Selector>) -> Option<&str> {
    selector.as_ref().map(Selector::canonical)
}

const RKT: &str = "fixtures/v1-rkt.json";

#[test]
fn the_rkt_world() {
    let Some(world) = replay(&[RKT], 53) else { return };
    // Ignored: four handles, and eight keys of status.
    assert_eq!((world.keys, world.refused.len()), ([10, 29, 0, 12], 0));
    assert_eq!(world.unsupported, BTreeMap::from([("bgppeers".to_owned(), 2)]));
    assert_eq!(
        world.kinds(),
        BTreeMap::from([
            ("BGPConfiguration", 1),
            ("ClusterInformation", 1),
            ("FelixConfiguration", 3),
            ("IPPool", 1),
            ("Node", 2),
            ("Profile", 2),
            ("WorkloadEndpoint", 4),
            ("affinity", 2),
            ("block", 2),
        ])
    );
    match &world.objects["ClusterInformation default"] {
        Update::ClusterInformation(Some(info)) => assert!(info.datastore_ready),
        other => panic!("{other:?}"),
    }
    let felix = get!(world, FelixConfiguration, "FelixConfiguration default");
    let parameters: Vec<_> = felix.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        parameters,
        [
            "ClusterGUID=8a1f6ef3b4c14d0f9e5a7c2b1d3e4f50",
            "EndpointReportingEnabled=true",
            "IpInIpEnabled=true",
            "LogSeverityScreen=info",
            "ReportingIntervalSecs=0",
        ]
    );
    let felix = get!(world, FelixConfiguration, "FelixConfiguration node.calico-01");
    assert_eq!(felix.parameters.len(), 1);
    assert_eq!(&*felix.parameters["DefaultEndpointToHostAction"], "RETURN");

    // The hosts, as peers of tunnels and of BGP.
    for (name, address, number, tunnel) in [
        ("Node calico-01", "172.18.18.101", None, "192.168.0.2"),
        ("Node calico-02", "172.18.18.102", Some(AsNumber(64513)), "192.168.0.66"),
    ] {
        let node = get!(world, Node, name);
        assert_eq!((node.ipv4.unwrap().to_string().as_str(), node.as_number), (address, number));
        assert_eq!(node.ipip_tunnel.unwrap().to_string(), tunnel);
        assert_eq!(node.ipv4_network.unwrap().to_string(), "172.18.18.0/24");
        assert_eq!(node.bgp_addresses().count(), 1);
    }
    let bgp = get!(world, BgpConfiguration, "BGPConfiguration default");
    assert_eq!((bgp.as_number, bgp.node_to_node_mesh), (Some(AsNumber(64512)), true));

    let pool = get!(world, Pool, "IPPool 192.168.0.0-16");
    assert_eq!(
        (pool.ipip, pool.nat_outgoing, pool.disabled),
        (EncapMode::CrossSubnet, true, false)
    );
    let block = get!(world, Block, "block 192.168.0.64/26");
    assert_eq!(block.host, Some("calico-02".into()));
    let affinity = get!(world, Affinity, "affinity of calico-01 to block 192.168.0.0/26");
    assert_eq!(affinity.state, AffinityState::Confirmed);
}

/// What must come of the rkt tutorial's world.
#[test]
fn the_rkt_networks() {
    let Some(world) = replay(&[RKT], 53) else { return };
    let id = "WorkloadEndpoint calico-01/cni/c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11/eth0";
    let pod = get!(world, WorkloadEndpoint, id);
    assert_eq!((pod.interface.as_str(), pod.active), ("calic89f2f35-1b", true));
    assert_eq!(pod.mac.unwrap().to_string(), "ca:fe:1d:52:bb:e1");
    assert_eq!(pod.profiles, [Name::from("frontend")]);
    assert_eq!(world.members("has(frontend)"), set(&["192.168.0.0", "192.168.0.65"]));
    assert_eq!(world.members("has(backend)"), set(&["192.168.0.1", "192.168.0.64"]));

    let backend = get!(world, Profile, "Profile backend");
    assert_eq!(backend.egress, [Rule::any(Action::Allow)]);
    let [own, web] = &backend.ingress[..] else { panic!("{backend:?}") };
    assert_eq!(canonical(&own.source.selector), Some("has(backend)"));
    assert_eq!((own.protocol, &own.destination), (None, &Peer::default()));
    assert_eq!(canonical(&web.source.selector), Some("has(frontend)"));
    assert_eq!((web.protocol, web.action), (Some(Protocol::TCP), Action::Allow));
    assert_eq!(web.destination.ports.ranges, [PortRange::single(80)]);
}

/// The first plugin for rkt: its orchestrator, addresses without blocks, ids in rules, and the AS
/// number of a peer as a number.
#[test]
fn the_first_rkt_plugin() {
    let Some(world) = replay(&["fixtures/v1-calico-rkt-0.1.json"], 32) else { return };
    // Ignored: four assignments of addresses and two markers.
    assert_eq!((world.keys, world.refused.len()), ([6, 19, 0, 6], 0));
    assert_eq!(world.unsupported, BTreeMap::from([("bgppeers".to_owned(), 1)]));
    assert_eq!(
        world.kinds(),
        BTreeMap::from([
            ("BGPConfiguration", 1),
            ("ClusterInformation", 1),
            ("FelixConfiguration", 3),
            ("IPPool", 1),
            ("Node", 2),
            ("Profile", 2),
            ("WorkloadEndpoint", 4),
        ])
    );
    let id = "WorkloadEndpoint calico-01/rkt/c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11/\
              4f2b9c0e53c211e5a1a4080027b7314f";
    let pod = get!(world, WorkloadEndpoint, id);
    assert_eq!((pod.interface.as_str(), pod.labels.len()), ("cali4f2b9c0e53c", 0));
    assert_eq!(world.members("has(frontend)"), set(&["10.1.0.1", "10.1.0.4"]));
    assert_eq!(world.members("has(backend)"), set(&["10.1.0.2", "10.1.0.3"]));
    let pool = get!(world, Pool, "IPPool 10.1.0.0-16");
    assert_eq!((pool.ipip, pool.nat_outgoing, pool.disabled), (EncapMode::Never, false, false));
    let node = get!(world, Node, "Node calico-02");
    assert_eq!(node.ipv4_network.unwrap().to_string(), "172.18.18.102/32");
}

/// Tiers, every form of a rule, host endpoints, NAT, IPv6, and the forms of other writers.
#[test]
fn policy_of_every_form() {
    let Some(world) = replay(&[RKT, "fixtures/v1-policy-extras.json"], 79) else { return };
    assert_eq!((world.keys, world.refused.len()), ([27, 33, 0, 15], 0), "{:?}", world.refused);
    assert_eq!(
        world.unsupported,
        BTreeMap::from([("bgpfilters".to_owned(), 1), ("bgppeers".to_owned(), 3)])
    );
    assert_eq!(
        world.kinds(),
        BTreeMap::from([
            ("BGPConfiguration", 1),
            ("ClusterInformation", 1),
            ("FelixConfiguration", 3),
            ("GlobalNetworkPolicy", 7),
            ("HostEndpoint", 2),
            ("IPPool", 3),
            ("Node", 2),
            ("Profile", 3),
            ("Tier", 2),
            ("WorkloadEndpoint", 6),
            ("affinity", 3),
            ("block", 3),
        ])
    );
    let order = |value: f64| Order::new(value).unwrap();
    assert_eq!(
        ["security", "default"].map(|name| get!(world, Tier, &format!("Tier {name}")).order),
        [order(10.0), order(1000.0)]
    );
    let policy = |name: &str| get!(world, Policy, &format!("GlobalNetworkPolicy {name}"));
    let quarantine = policy("security.quarantine");
    assert_eq!(
        (quarantine.tier.as_ref().unwrap().as_str(), quarantine.order),
        ("security", order(1.0))
    );
    assert_eq!(quarantine.selector.canonical(), r#"quarantine == "true""#);
    assert_eq!(quarantine.ingress, [Rule::any(Action::Deny)]);
    assert_eq!(policy("security.pass-rest").egress, [Rule::any(Action::Pass)]);
    assert_eq!(policy("kns.a/b%c").selector.canonical(), r#"a/b.c_d-e in {"x", "y z"}"#);
    let unordered = policy("no-order-no-types");
    assert_eq!((unordered.order, unordered.selector.is_all()), (Order::LAST, true));
    assert!(unordered.governs_ingress && unordered.governs_egress);
    assert_eq!(unordered.ingress[0].protocol, Some(Protocol::ICMPV6));
    assert_eq!(unordered.ingress[0].family, Some(Family::V6));
    assert_eq!(unordered.egress, [Rule::any(Action::Allow)]);
    for (name, kind) in [("host-raw", PolicyKind::Untracked), ("host-prednat", PolicyKind::PreDnat)]
    {
        let policy = policy(name);
        assert_eq!(
            (policy.kind, policy.governs_ingress, policy.governs_egress),
            (kind, true, false)
        );
    }

    let web = policy("allow-web");
    let [log, tcp, selected, ping, no_ping] = &web.ingress[..] else { panic!("{web:?}") };
    assert_eq!(log.action, Action::Log);
    assert_eq!((tcp.family, tcp.source.nets.len()), (Some(Family::V4), 2));
    let ports: Vec<_> = tcp.destination.ports.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["80", "443", "8000:8999"]);
    assert_eq!(selected.protocol, Some(Protocol::TCP));
    assert_eq!(canonical(&selected.source.selector), Some(r#"(role == "client" && has(team))"#));
    assert_eq!(canonical(&selected.source.not_selector), Some(r#"banned == "yes""#));
    assert_eq!(selected.source.not_nets, ["10.66.0.0/16".parse().unwrap()]);
    let echo = Some(IcmpMatch { icmp_type: 8, code: Some(0) });
    assert_eq!((ping.icmp, no_ping.not_icmp, no_ping.action), (echo, echo, Action::Deny));
    let [metadata, dns, rest] = &web.egress[..] else { panic!("{web:?}") };
    assert_eq!(metadata.not_protocol, Some(Protocol::UDP));
    assert_eq!(metadata.destination.nets, ["169.254.169.254/32".parse().unwrap()]);
    assert_eq!(canonical(&dns.destination.selector), Some("has(backend)"));
    assert_eq!(canonical(&dns.destination.not_selector), Some("has(frontend)"));
    assert_eq!(dns.destination.not_ports.ranges, [PortRange::single(53)]);
    assert_eq!(*rest, Rule::any(Action::Allow));

    let host = get!(world, HostEndpoint, "HostEndpoint calico-01/eth0-ep");
    assert_eq!(
        (host.node.as_str(), host.interface.as_ref().unwrap().as_str()),
        ("calico-01", "eth0")
    );
    // Of the endpoint itself, and inherited from its profile.
    assert_eq!(world.members("team == 'infra'"), set(&["172.18.18.101", "fd00:172:18:18::101"]));
    let by_address = get!(world, HostEndpoint, "HostEndpoint calico-02/byip");
    assert_eq!((by_address.interface.as_ref(), by_address.profiles.len()), (None, 0));

    let two = get!(
        world,
        WorkloadEndpoint,
        "WorkloadEndpoint calico-01/libnetwork/libnetwork/\
         75b5c7f3a1d24c8e9f60b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c"
    );
    assert_eq!(two.profiles, [Name::from("frontend"), Name::from("backend")]);
    assert_eq!(two.nat.len(), 1);
    assert!(world.members("has(frontend)").contains("fd80:24e2:f998:72d6::3"));
    let down = get!(world, WorkloadEndpoint, "WorkloadEndpoint calico-02/k8s/default.web-0/eth0");
    assert_eq!((down.active, down.mac, down.profiles.len()), (false, None, 0));

    let disabled = get!(world, Pool, "IPPool 10.200.0.0-24");
    assert_eq!((disabled.disabled, disabled.nat_outgoing), (true, true));
    let node = get!(world, Node, "Node calico-01");
    assert_eq!(node.ipv6_network.unwrap().to_string(), "fd00:172:18:18::/64");
    let block = get!(world, Block, "block 192.168.0.128/26");
    assert_eq!(block.host, None);
}

/// Every value of the stores, cut short at each place: nothing panics, and what is refused says so.
#[test]
fn values_that_are_cut_short() {
    let Some(store) = load("fixtures/v1-policy-extras.json") else { return };
    let mut refused = 0;
    for entry in store.as_array().unwrap() {
        let (key, value) = (text(&entry["key"]), text(&entry["value"]));
        for end in 0..value.len() {
            if let Decoded::Rejected(rejection) = v1::decode(key, &value.as_bytes()[..end]) {
                assert_eq!(rejection.id, v1::id_of(key), "{key}");
                refused += 1;
            }
        }
    }
    assert!(refused > 3_000, "{refused}");
}

/// Keys mean what the original takes them for.
#[test]
fn keys() {
    let Some(file) = load("cases/etcd-keys.json") else { return };
    let mut counts = BTreeMap::<&str, usize>::new();
    for case in file["keys"].as_array().unwrap() {
        let (path, key) = (text(&case["path"]), &case["key"]);
        let name = |field: &str| Name::from(text(&key[field]));
        let id = v1::id_of(path);
        let kind = match key["kind"].as_str() {
            Some("WorkloadEndpointKey") => {
                let expected = WorkloadEndpointId {
                    node: name("Hostname"),
                    orchestrator: name("OrchestratorID"),
                    workload: name("WorkloadID"),
                    endpoint: name("EndpointID"),
                };
                assert_eq!(
                    v1::keys::key_of(&ResourceId::WorkloadEndpoint(expected.clone())).as_deref(),
                    Some(path)
                );
                assert_eq!(id, Some(ResourceId::WorkloadEndpoint(expected)));
                "object"
            }
            Some("HostEndpointKey") => {
                let name = format!("{}/{}", text(&key["Hostname"]), text(&key["EndpointID"]));
                let expected = ResourceId::HostEndpoint(HostEndpointId { name: name.into() });
                assert_eq!(v1::keys::key_of(&expected).as_deref(), Some(path));
                assert_eq!(id, Some(expected));
                "object"
            }
            Some("IPPoolKey") => {
                let Decoded::Object(Update::Pool(_, Some(pool))) = v1::decode(path, b"{}") else {
                    panic!("{path}");
                };
                assert_eq!(pool.cidr.to_string(), text(&key["CIDR"]));
                "object"
            }
            Some("ReadyFlagKey") => {
                assert_eq!(id, Some(ResourceId::ClusterInformation));
                "object"
            }
            Some("HostIPKey") => {
                assert_eq!(id, Some(ResourceId::Node(name("Hostname"))));
                "part"
            }
            Some("GlobalConfigKey") => {
                assert_eq!(id, Some(ResourceId::FelixConfiguration("default".into())));
                "part"
            }
            Some("HostConfigKey") => {
                let name = FelixConfiguration::name_of(&name("Hostname"));
                assert_eq!(id, Some(ResourceId::FelixConfiguration(name)));
                "part"
            }
            // This layout knows no namespaces: they are in the name.
            Some("LegacyPolicyKey") => {
                let Some(ResourceId::Policy(policy)) = &id else { panic!("{path}: {id:?}") };
                assert_eq!(policy.namespace, None);
                let own = text(&key["PolicyKey"]["Name"]);
                assert!(policy.name.as_str().ends_with(own), "{policy} {own}");
                let Decoded::Object(Update::Policy(_, Some(policy))) = v1::decode(path, b"{}")
                else {
                    panic!("{path}");
                };
                assert_eq!(policy.tier, Some(name("Tier")));
                "object"
            }
            // Of later versions, which keep these in memory or in the other store.
            Some("PolicyKey" | "NetworkSetKey" | "ResourceKey") => "ignored",
            Some("WorkloadEndpointStatusKey" | "ActiveStatusReportKey" | "LastStatusReportKey") => {
                "ignored"
            }
            None if path.starts_with(v1::V1_PREFIX) => {
                let refused =
                    matches!(v1::decode(path, b"{}"), Decoded::Rejected(r) if r.id.is_none());
                assert!(refused && case["should_fail"] == true, "{path}");
                "refused"
            }
            None => "ignored",
            Some(other) => panic!("{other}"),
        };
        if kind == "ignored" {
            assert_eq!((v1::decode(path, b"{}"), id), (Decoded::Ignored, None), "{path}");
        }
        *counts.entry(kind).or_default() += 1;
    }
    let expected = [("ignored", 11), ("object", 11), ("part", 3), ("refused", 1)];
    assert_eq!(counts, BTreeMap::from(expected));
    for case in file["bgp_peer_keys"].as_array().unwrap() {
        let path = text(&case["path"]);
        let decoded = v1::decode(path, b"{}");
        assert_eq!(decoded, Decoded::Unsupported { kind: "bgppeers".to_owned() }, "{path}");
    }
    assert_eq!(file["bgp_peer_keys"].as_array().map(Vec::len), Some(5));
}
