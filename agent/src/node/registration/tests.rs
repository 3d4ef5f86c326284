use super::*;

fn birth() -> Birth {
    Birth {
        uid: "00000000-0000-4000-8000-000000000007".to_owned(),
        timestamp: "2024-11-05T10:00:00Z".to_owned(),
    }
}

fn fixed(text: &str) -> AddressChoice {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    AddressChoice::Fixed(address.parse().unwrap(), prefix.map(|p| p.parse().unwrap()))
}

fn calico_01() -> Identity {
    Identity {
        name: Name::from("calico-01"),
        ip: fixed("172.18.18.101"),
        ip6: AddressChoice::Stored,
        as_number: None,
        skip_address_check: false,
        cluster_type: "bgp".to_owned(),
        host_action_overridden: false,
    }
}

fn eth0() -> Vec<HostAddress> {
    vec![HostAddress { address: [172, 18, 18, 101].into(), prefix_len: 24 }]
}

fn plan(identity: &Identity, stored: Option<&str>) -> NodePlan {
    plan_node(identity, stored.map(str::as_bytes), &[], &eth0(), &birth()).unwrap()
}

fn text(change: Change) -> Option<String> {
    change.map(|bytes| String::from_utf8(bytes).unwrap())
}

/// What is stored after `change` over `before`.
fn after(change: Change, before: &str) -> String {
    text(change).unwrap_or_else(|| before.to_owned())
}

const STORED: &str = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"calico-01","uid":"u","creationTimestamp":"t","labels":{"rack":"r1"}},"spec":{"addresses":[{"address":"172.18.18.101/24","type":"CalicoNodeIP"},{"address":"10.9.9.9","type":"InternalIP"}],"bgp":{"ipv4Address":"172.18.18.101/24","ipv4IPIPTunnelAddr":"192.168.0.2"},"orchRefs":[]},"status":{}}"#;

#[test]
fn a_new_node_has_the_shape_that_calicoctl_stores() {
    let identity = Identity {
        ip6: fixed("fd00:172:18:18::101/64"),
        as_number: Some(AsNumber(64513)),
        ..calico_01()
    };
    let result = plan(&identity, None);
    let expected = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"calico-01","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"bgp":{"asNumber":64513,"ipv4Address":"172.18.18.101/24","ipv6Address":"fd00:172:18:18::101/64"}},"status":{}}"#;
    assert_eq!(text(result.change).as_deref(), Some(expected));
    // The IPv6 address is on no interface.
    assert_eq!(result.problems.len(), 1, "{:?}", result.problems);
    assert_eq!(result.notes, [""; 0]);
}

#[test]
fn what_is_stored_and_right_is_not_written() {
    for stored in [
        STORED.to_owned(),
        // Another writer's spaces and escapes are no difference.
        STORED.replace(",\"", ", \"").replace("rack", "\\u0072ack"),
        STORED.replace("\"ipv4IP", "\"asNumber\":\"1.10\",\"ipv4IP"),
    ] {
        let identity = Identity {
            as_number: stored.contains("1.10").then_some(AsNumber(65546)),
            ..calico_01()
        };
        let result = plan(&identity, Some(&stored));
        assert_eq!((text(result.change), result.problems), (None, vec![]), "{stored}");
    }
    let nothing_said = Identity { ip: AddressChoice::Stored, ..calico_01() };
    for stored in
        [STORED, r#"{"metadata":{}}"#, r#"{"spec":{"bgp":{}}}"#, r#"{"spec":{"bgp":null}}"#]
    {
        assert_eq!(text(plan(&nothing_said, Some(stored)).change), None, "{stored}");
    }
}

#[test]
fn a_change_touches_nothing_else() {
    let identity = Identity {
        ip: fixed("172.18.18.55/16"),
        ip6: fixed("fd00::1/64"),
        as_number: Some(AsNumber(1)),
        skip_address_check: true,
        ..calico_01()
    };
    let result = plan(&identity, Some(STORED));
    let expected = STORED
        .replace("172.18.18.101/24", "172.18.18.55/16")
        .replace("\"bgp\":{", "\"bgp\":{\"asNumber\":1,")
        .replace("\"192.168.0.2\"", "\"192.168.0.2\",\"ipv6Address\":\"fd00::1/64\"");
    assert_eq!(text(result.change), Some(expected));
    assert_eq!(result.notes.len(), 1, "another address is worth a warning");
}

#[test]
fn the_prefix_of_a_bare_address() {
    for (ip, stored, expected) in [
        // Of the interface that has it.
        ("172.18.18.101", None, "172.18.18.101/24"),
        // What was said wins.
        ("172.18.18.101/20", None, "172.18.18.101/20"),
        // No interface: the stored one's, when it is the same address.
        ("172.18.18.7", Some("172.18.18.7/22"), "172.18.18.7/22"),
        ("172.18.18.7", Some("172.18.18.8/22"), "172.18.18.7/32"),
        ("172.18.18.7", None, "172.18.18.7/32"),
    ] {
        let stored = stored.map(|s| format!(r#"{{"spec":{{"bgp":{{"ipv4Address":"{s}"}}}}}}"#));
        let identity = Identity { ip: fixed(ip), ..calico_01() };
        let result = plan(&identity, stored.as_deref());
        let unknown = ip.ends_with(".7");
        assert_eq!(result.problems.len(), usize::from(unknown), "{ip}");
        let now = after(result.change, stored.as_deref().unwrap_or_default());
        assert!(now.contains(&format!("\"{expected}\"")), "{ip} over {stored:?}: {now}");
    }
}

#[test]
fn without_an_address_the_node_is_written_without_bgp_and_status_says_so() {
    for ip in [AddressChoice::Stored, AddressChoice::Absent, AddressChoice::Detect] {
        let result = plan(&Identity { ip, ..calico_01() }, None);
        let node = text(result.change).unwrap();
        assert!(node.contains(r#""spec":{},"status":{}"#), "{node}");
        let last = result.problems.last().unwrap();
        assert!(last.message.contains("BGP is off") && last.message.contains("IP="), "{last:?}");
    }
    // `none` takes a stored address away; nothing said keeps it.
    let absent = plan(&Identity { ip: AddressChoice::Absent, ..calico_01() }, Some(STORED));
    let node = text(absent.change).unwrap();
    assert!(!node.contains("172.18.18.101") && node.contains("192.168.0.2"), "{node}");
}

#[test]
fn two_nodes_never_share_an_address() {
    let other = |name: &str, address: &str| {
        let value = format!(r#"{{"spec":{{"bgp":{{"ipv4Address":"{address}"}}}}}}"#);
        (format!("{NODES_PREFIX}{name}"), value.into_bytes())
    };
    let ask = |identity: &Identity, others: &[(String, Vec<u8>)]| {
        plan_node(identity, Some(STORED.as_bytes()), others, &eth0(), &birth())
    };
    let taken = [other("calico-02", "172.18.18.101/16")];
    let error = ask(&calico_01(), &taken).unwrap_err();
    assert!(error.to_string().contains("node calico-02 has the address 172.18.18.101"), "{error}");
    // Also when nothing changes: the other one may have come later.
    let stored = Identity { ip: AddressChoice::Stored, ..calico_01() };
    assert!(matches!(ask(&stored, &taken), Err(PlanError::AddressInUse { .. })));
    let skip = Identity { skip_address_check: true, ..calico_01() };
    assert!(ask(&skip, &taken).is_ok());
    let harmless = [
        other("calico-01", "172.18.18.101/24"),
        other("calico-02", "172.18.18.102/24"),
        (format!("{NODES_PREFIX}broken"), b"{".to_vec()),
    ];
    assert!(ask(&calico_01(), &harmless).is_ok());
}

#[test]
fn a_malformed_object_is_not_overwritten() {
    for bad in ["", "[]", "null", r#"{"spec":3}"#, r#"{"spec":{"bgp":"x"}}"#] {
        let error = plan_node(&calico_01(), Some(bad.as_bytes()), &[], &[], &birth()).unwrap_err();
        assert!(error.to_string().contains("/nodes/calico-01 is malformed"), "{bad}: {error}");
    }
    assert!(plan_felix(&calico_01(), Some(b"{"), &birth()).is_err());
}

#[test]
fn cluster_information_is_made_once_and_never_touched() {
    let made = text(plan_cluster(None, "8a1f", "bgp", &birth())).unwrap();
    let expected = r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"clusterGUID":"8a1f","clusterType":"bgp","datastoreReady":true}}"#;
    assert_eq!(made, expected);
    for stored in [made.as_str(), r#"{"spec":{"datastoreReady":false}}"#, "broken"] {
        assert_eq!(plan_cluster(Some(stored.as_bytes()), "x", "bgp", &birth()), None);
    }
}

#[test]
fn return_is_written_where_nobody_said_otherwise() {
    let ask = |identity: &Identity, stored: Option<&str>| {
        text(plan_felix(identity, stored.map(str::as_bytes), &birth()).unwrap())
    };
    let made = ask(&calico_01(), None).unwrap();
    let expected = r#"{"kind":"FelixConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"node.calico-01","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"defaultEndpointToHostAction":"Return","bpfLogLevel":""}}"#;
    assert_eq!(made, expected);
    assert_eq!(ask(&calico_01(), Some(&made)), None);
    let drop = made.replace("Return", "Drop");
    assert_eq!(ask(&calico_01(), Some(&drop)), None, "an administrator's choice was undone");
    let annotated = r#"{"metadata":{"annotations":{"config.projectcalico.org/DefaultEndpointToHostAction":"DROP"}},"spec":{}}"#;
    assert_eq!(ask(&calico_01(), Some(annotated)), None);
    let other = r#"{"kind":"FelixConfiguration","spec":{"zeta":1,"alpha":[]}}"#;
    let added = r#"{"kind":"FelixConfiguration","spec":{"zeta":1,"alpha":[],"defaultEndpointToHostAction":"Return"}}"#;
    assert_eq!(ask(&calico_01(), Some(other)).as_deref(), Some(added));
    let overridden = Identity { host_action_overridden: true, ..calico_01() };
    assert_eq!(ask(&overridden, None), None);
}

#[test]
fn the_fixture_world_is_left_alone() {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return;
    };
    let path = std::path::PathBuf::from(shared).join("fixtures/v3-rkt.json");
    let entries: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let entries = entries.as_array().unwrap().iter();
    let all: Vec<(String, Vec<u8>)> = entries
        .map(|e| (e["key"].as_str().unwrap().to_owned(), e["value"].as_str().unwrap().into()))
        .collect();
    let value = |key: String| {
        all.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_slice()).unwrap()
    };
    let nodes: Vec<_> = all.iter().filter(|(k, _)| k.starts_with(NODES_PREFIX)).cloned().collect();
    assert_eq!(nodes.len(), 2);
    let identity = calico_01();
    let name = &identity.name;
    let node = plan_node(&identity, Some(value(node_key(name))), &nodes, &eth0(), &birth());
    assert_eq!(node.unwrap().change, None);
    assert_eq!(plan_felix(&identity, Some(value(felix_key(name))), &birth()), Ok(None));
    assert_eq!(plan_cluster(Some(value(cluster_key())), "", "bgp", &birth()), None);
    // A per-node object made by us is, but for its birth, the stored one byte for byte.
    let born = Birth { uid: "00000000-0000-4000-8000-000000000003".to_owned(), ..birth() };
    let made = plan_felix(&identity, None, &born).unwrap().unwrap();
    assert_eq!(made, value(felix_key(name)));
}
