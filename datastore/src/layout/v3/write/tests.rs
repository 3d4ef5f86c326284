use super::felix::HostAction;
use super::node::{AddressEdit, NodeEdit, NodeWrite, claimed_addresses};
use super::status::EndpointStatus;
use super::*;
use crate::layout::v3::keys;
use crate::model::{AsNumber, Name};

const UID: &str = "00000000-0000-4000-8000-000000000007";

fn birth() -> Birth {
    Birth { uid: UID.to_owned(), timestamp: "2024-11-05T10:00:00Z".to_owned() }
}

fn name() -> Name {
    Name::from("calico-01")
}

fn set(text: &str) -> AddressEdit {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    AddressEdit::Set(address.parse().unwrap(), prefix.map(|p| p.parse().unwrap()))
}

fn edit(edit: NodeEdit, stored: Option<&str>) -> NodeWrite {
    node::edit(&name(), &edit, stored.map(str::as_bytes), &birth()).unwrap()
}

fn text(change: Change) -> Option<String> {
    change.map(|bytes| String::from_utf8(bytes).unwrap())
}

const STORED: &str = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"calico-01","uid":"u","creationTimestamp":"t","labels":{"rack":"r1"}},"spec":{"addresses":[{"address":"172.18.18.101/24","type":"CalicoNodeIP"},{"address":"172.18.18.101/24","type":"InternalIP"}],"bgp":{"ipv4Address":"172.18.18.101/24","ipv4IPIPTunnelAddr":"192.168.0.2"},"orchRefs":[]},"status":{}}"#;

#[test]
fn a_new_node_has_the_shape_that_calicoctl_stores() {
    let all = NodeEdit {
        as_number: Some(AsNumber(64513)),
        ipv4: set("172.18.18.101/24"),
        ipv6: set("fd00:172:18:18::101/64"),
    };
    let expected = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"calico-01","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"bgp":{"asNumber":64513,"ipv4Address":"172.18.18.101/24","ipv6Address":"fd00:172:18:18::101/64"}},"status":{}}"#;
    assert_eq!(text(edit(all, None).change).as_deref(), Some(expected));
    let bare = text(edit(NodeEdit::default(), None).change).unwrap();
    assert!(bare.contains(r#""spec":{},"status":{}"#), "{bare}");
}

#[test]
fn what_is_stored_and_right_is_not_written() {
    let same = NodeEdit { ipv4: set("172.18.18.101/24"), ..NodeEdit::default() };
    for stored in [
        STORED.to_owned(),
        // Another writer's spaces and escapes are no difference.
        STORED.replace(",\"", ", \"").replace("rack", "\\u0072ack"),
        STORED.replace("\"ipv4IP", "\"asNumber\":\"1.10\",\"ipv4IP"),
    ] {
        let as_number = stored.contains("1.10").then_some(AsNumber(65546));
        assert_eq!(text(edit(NodeEdit { as_number, ..same }, Some(&stored)).change), None);
    }
    for stored in
        [STORED, r#"{"metadata":{}}"#, r#"{"spec":{"bgp":{}}}"#, r#"{"spec":{"bgp":null}}"#]
    {
        assert_eq!(text(edit(NodeEdit::default(), Some(stored)).change), None, "{stored}");
    }
}

#[test]
fn a_change_touches_nothing_else() {
    let other = NodeEdit {
        as_number: Some(AsNumber(1)),
        ipv4: set("172.18.18.55/16"),
        ipv6: set("fd00::1/64"),
    };
    let written = edit(other, Some(STORED));
    // The copy in `spec.addresses` follows where it is ours, and only there.
    let expected = STORED
        .replacen("172.18.18.101/24", "172.18.18.55/16", 1)
        .replace("\"ipv4Address\":\"172.18.18.101/24\"", "\"ipv4Address\":\"172.18.18.55/16\"")
        .replace("\"bgp\":{", "\"bgp\":{\"asNumber\":1,")
        .replace("\"192.168.0.2\"", "\"192.168.0.2\",\"ipv6Address\":\"fd00::1/64\"");
    assert_eq!(text(written.change), Some(expected));
    assert_eq!(written.ipv4.moved_from().unwrap().to_string(), "172.18.18.101/24");
    assert_eq!(written.ipv4.address(), Some([172, 18, 18, 55].into()));
    assert_eq!(written.ipv6.moved_from(), None);
}

#[test]
fn an_address_that_goes_leaves_nothing_behind() {
    let gone = NodeEdit { ipv4: AddressEdit::Remove, ..NodeEdit::default() };
    let node = text(edit(gone, Some(STORED)).change).unwrap();
    let expected = STORED
        .replace(r#"{"address":"172.18.18.101/24","type":"CalicoNodeIP"},"#, "")
        .replace(r#""ipv4Address":"172.18.18.101/24","#, "");
    assert_eq!(node, expected);
    // The last one takes the section with it.
    let only = r#"{"spec":{"bgp":{"ipv4Address":"1.2.3.4/8"}}}"#;
    assert_eq!(text(edit(gone, Some(only)).change).as_deref(), Some(r#"{"spec":{}}"#));
}

#[test]
fn the_prefix_of_a_bare_address() {
    for (address, stored, expected) in [
        ("172.18.18.7/20", Some("172.18.18.7/22"), "172.18.18.7/20"),
        ("172.18.18.7", Some("172.18.18.7/22"), "172.18.18.7/22"),
        ("172.18.18.7", Some("172.18.18.7"), "172.18.18.7"),
        ("172.18.18.7", Some("172.18.18.8/22"), "172.18.18.7/32"),
        ("172.18.18.7", Some("nonsense"), "172.18.18.7/32"),
        ("172.18.18.7", None, "172.18.18.7/32"),
    ] {
        let document = stored.map(|s| format!(r#"{{"spec":{{"bgp":{{"ipv4Address":"{s}"}}}}}}"#));
        let ipv4 = set(address);
        let written = edit(NodeEdit { ipv4, ..NodeEdit::default() }, document.as_deref());
        let after = written.ipv4.after.unwrap().to_string();
        assert_eq!(after, expected, "{address} over {stored:?}");
        assert_eq!(written.change.is_none(), stored == Some(expected), "{address}, {stored:?}");
    }
}

#[test]
fn another_prefix_length_is_no_other_address() {
    let longer = NodeEdit { ipv4: set("172.18.18.101/25"), ..NodeEdit::default() };
    let written = edit(longer, Some(STORED));
    assert!(written.change.is_some());
    assert_eq!(written.ipv4.moved_from(), None);
}

#[test]
fn a_malformed_object_is_not_overwritten() {
    for bad in ["", "[]", "null", r#"{"spec":3}"#, r#"{"spec":{"bgp":"x"}}"#] {
        let error = node::edit(&name(), &NodeEdit::default(), Some(bad.as_bytes()), &birth());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/nodes/calico-01 is malformed"), "{bad}: {error}");
    }
    for bad in ["{", r#"{"spec":[]}"#] {
        let stored = Some(bad.as_bytes());
        felix::default_host_action(&name(), HostAction::Return, stored, &birth()).unwrap_err();
    }
}

#[test]
fn the_addresses_that_others_claim() {
    for (stored, claimed) in [
        (STORED, vec!["172.18.18.101"]),
        (
            r#"{"spec":{"bgp":{"ipv6Address":"fd00::1","ipv4Address":"1.2.3.4/8"}}}"#,
            vec!["1.2.3.4", "fd00::1"],
        ),
        // Refused for one address, it still has the other.
        (r#"{"spec":{"bgp":{"ipv4Address":"x","ipv6Address":"fd00::1/64"}}}"#, vec!["fd00::1"]),
        (r#"{"spec":{"bgp":[]}}"#, vec![]),
        ("{", vec![]),
    ] {
        let claimed: Vec<std::net::IpAddr> = claimed.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(claimed_addresses(stored.as_bytes()), claimed, "{stored}");
    }
}

#[test]
fn cluster_information_says_that_the_store_is_ready() {
    let made = text(Some(cluster::create("8a1f", "bgp", &birth()))).unwrap();
    let expected = r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"clusterGUID":"8a1f","clusterType":"bgp","datastoreReady":true}}"#;
    assert_eq!(made, expected);
    assert!(crate::layout::v3::LAYOUT.is_ready(Some(made.as_bytes())));
}

#[test]
fn the_host_action_is_set_where_nobody_said_otherwise() {
    let ask = |stored: Option<&str>| {
        let stored = stored.map(str::as_bytes);
        text(felix::default_host_action(&name(), HostAction::Return, stored, &birth()).unwrap())
    };
    let made = ask(None).unwrap();
    let expected = r#"{"kind":"FelixConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"node.calico-01","uid":"00000000-0000-4000-8000-000000000007","creationTimestamp":"2024-11-05T10:00:00Z"},"spec":{"defaultEndpointToHostAction":"Return","bpfLogLevel":""}}"#;
    assert_eq!(made, expected);
    assert_eq!(ask(Some(&made)), None);
    let drop = made.replace("Return", "Drop");
    assert_eq!(ask(Some(&drop)), None, "an administrator's choice was undone");
    let annotated = r#"{"metadata":{"annotations":{"config.projectcalico.org/DefaultEndpointToHostAction":"DROP"}},"spec":{}}"#;
    assert_eq!(ask(Some(annotated)), None);
    for unset in [r#""""#, "null"] {
        let stored = made.replace(r#""Return""#, unset);
        assert_eq!(ask(Some(&stored)).as_deref(), Some(&*made), "{unset}");
    }
    let other = r#"{"kind":"FelixConfiguration","spec":{"zeta":1,"alpha":[]}}"#;
    let added = r#"{"kind":"FelixConfiguration","spec":{"zeta":1,"alpha":[],"defaultEndpointToHostAction":"Return"}}"#;
    assert_eq!(ask(Some(other)).as_deref(), Some(added));
    let accept = felix::default_host_action(&name(), HostAction::Accept, None, &birth());
    assert!(text(accept.unwrap()).unwrap().contains(r#""Accept""#));
}

#[test]
fn what_is_written_reads_back() {
    use crate::layout::{Decoded, v3};
    use crate::model::Update;
    let ipv4 = set("172.18.18.101/24");
    let node = edit(NodeEdit { as_number: Some(AsNumber(7)), ipv4, ..NodeEdit::default() }, None);
    let Decoded::Object(Update::Node(read, Some(node))) =
        v3::decode(&keys::node(&name()), &node.change.unwrap())
    else {
        panic!("not a node")
    };
    assert_eq!(
        (read, node.ipv4, node.as_number),
        (name(), Some([172, 18, 18, 101].into()), Some(AsNumber(7)))
    );
    let felix = felix::default_host_action(&name(), HostAction::Return, None, &birth()).unwrap();
    let Decoded::Object(Update::FelixConfiguration(read, Some(felix))) =
        v3::decode(&keys::felix_configuration_of(&name()), &felix.unwrap())
    else {
        panic!("not a FelixConfiguration")
    };
    assert_eq!(read, crate::model::FelixConfiguration::name_of(&name()));
    assert_eq!(felix.parameters.get("DefaultEndpointToHostAction").map(|v| &**v), Some("Return"));
}

/// Every value that the plugin writes, against a store that the original wrote.
#[test]
fn replay_of_the_plugins_objects() {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return;
    };
    let path = std::path::PathBuf::from(shared).join("fixtures/v3-rkt.json");
    let entries: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let value = |key: String| {
        let entry = entries.as_array().unwrap().iter().find(|entry| entry["key"] == *key);
        let entry = entry.unwrap_or_else(|| panic!("{key} is not in the fixture"));
        entry["value"].as_str().unwrap().to_owned()
    };
    let born = |uid: u32| Birth {
        uid: format!("00000000-0000-4000-8000-{uid:012}"),
        timestamp: birth().timestamp,
    };
    let id = endpoint::id(&name(), "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11", "eth0");
    let stored = value(keys::workload_endpoint(&id).unwrap());
    assert_eq!(
        text(endpoint::write(&id, &frontend(), None, &born(12)).unwrap()),
        Some(stored.clone())
    );
    let again = endpoint::write(&id, &frontend(), Some(stored.as_bytes()), &birth());
    assert_eq!(again, Ok(None), "what is stored says the same");
    let prefix = keys::workload_endpoints_beside(&id).unwrap();
    assert!(keys::workload_endpoint(&id).unwrap().starts_with(&prefix));
    let held = endpoint::holdings(stored.as_bytes());
    let expected = frontend();
    assert_eq!(held.interface, Some(expected.interface));
    assert_eq!((held.mac, held.addresses), (Some(expected.mac), expected.addresses));
    assert_eq!(held.profiles, expected.profiles);

    let network = Name::from("backend");
    let made = profile::of_network(&network, &born(17)).unwrap();
    assert_eq!(text(Some(made)).unwrap(), value(keys::profile(&network)));

    let six: crate::model::Cidr = "fd80:24e2:f998:72d6::/64".parse().unwrap();
    let made = text(Some(pool::create(&six, &born(10)))).unwrap();
    let theirs = value(keys::pool(&Name::from("default-ipv6-ippool")));
    let named = theirs.replace("default-ipv6-ippool", pool::name_of(&six).as_str());
    assert_eq!(made, named);
}

fn frontend() -> endpoint::EndpointEdit {
    endpoint::EndpointEdit {
        addresses: vec!["192.168.0.0".parse().unwrap(), "fd80:24e2:f998:72d6::".parse().unwrap()],
        profiles: vec![Name::from("frontend")],
        interface: "calic89f2f35-1b".parse().unwrap(),
        mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
        labels: [("role".to_owned(), "frontend".to_owned())].into(),
    }
}

#[test]
fn an_endpoint_is_replaced_but_not_born_again() {
    let id = endpoint::id(&name(), "c1", "eth0");
    let edit = frontend();
    let first = text(endpoint::write(&id, &edit, None, &birth()).unwrap()).unwrap();
    let annotated = first.replace(r#""labels":"#, r#""annotations":{"a":"b"},"labels":"#);
    let other = annotated.replace("192.168.0.0/32", "192.168.0.9/32").replace("role", "rule");
    let later = Birth { uid: "later".to_owned(), timestamp: "later".to_owned() };
    let now = endpoint::write(&id, &edit, Some(other.as_bytes()), &later).unwrap();
    let now: Value = serde_json::from_str(&text(now).unwrap()).unwrap();
    let mut expected: Value = serde_json::from_str(&first).unwrap();
    expected["metadata"]["annotations"] = json!({"a": "b"});
    assert_eq!(now, expected);
    for broken in ["", "{", "[]", "null", r#"{"metadata":7}"#] {
        let now = endpoint::write(&id, &edit, Some(broken.as_bytes()), &birth()).unwrap();
        assert_eq!(text(now).as_deref(), Some(&*first), "over {broken:?}");
        assert_eq!(endpoint::holdings(broken.as_bytes()), endpoint::Holdings::default());
    }
    let liar = [("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned())];
    let edit = endpoint::EndpointEdit { labels: liar.into(), ..edit };
    let honest = text(endpoint::write(&id, &edit, None, &birth()).unwrap()).unwrap();
    assert!(honest.contains(r#""projectcalico.org/orchestrator":"cni""#), "{honest}");
}

#[test]
fn a_name_that_would_read_back_differently_is_refused() {
    for (container, ifname) in
        [("-a", "eth0"), ("a-", "eth0"), ("a", "eth0-"), ("a", "e:0"), ("", "e")]
    {
        let id = endpoint::id(&name(), container, ifname);
        let refused = endpoint::write(&id, &frontend(), None, &birth());
        assert!(refused.is_err(), "{container:?} {ifname:?}: {refused:?}");
    }
    assert!(profile::of_network(&Name::from("a/b"), &birth()).is_err());
    assert!(profile::of_network(&Name::from("a.b_c-1"), &birth()).is_ok());
}

#[test]
fn pools_of_every_size_read_back() {
    use crate::layout::{Decoded, v3};
    use crate::model::{Cidr, Update};
    for (cidr, expected, block) in [
        ("192.168.0.0/16", "192-168-0-0-16", 26),
        ("10.0.0.0/26", "10-0-0-0-26", 26),
        ("10.0.0.8/29", "10-0-0-8-29", 29),
        ("10.0.0.8/32", "10-0-0-8-32", 32),
        ("fd80::/64", "fd80---64", 122),
        ("fd80::10/124", "fd80--10-124", 124),
    ] {
        let cidr: Cidr = cidr.parse().unwrap();
        let name = pool::name_of(&cidr);
        assert_eq!(name, expected);
        let made = pool::create(&cidr, &birth());
        let Decoded::Object(Update::Pool(read, Some(pool))) = v3::decode(&keys::pool(&name), &made)
        else {
            panic!("not a pool: {cidr}")
        };
        assert_eq!((read, pool.cidr, pool.block_size), (name, cidr, block));
        assert!(!pool.nat_outgoing && !pool.disabled);
    }
}

/// Every value that the agent writes, against a store that the original wrote.
#[test]
fn replay_of_the_fixture_world() {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return;
    };
    let path = std::path::PathBuf::from(shared).join("fixtures/v3-rkt.json");
    let entries: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let value = |key: String| {
        let entry = entries.as_array().unwrap().iter().find(|entry| entry["key"] == *key);
        let entry = entry.unwrap_or_else(|| panic!("{key} is not in the fixture"));
        entry["value"].as_str().unwrap().to_owned()
    };
    let host = name();
    let node = value(keys::node(&host));
    let same = NodeEdit { ipv4: set("172.18.18.101"), ..NodeEdit::default() };
    assert_eq!(edit(same, Some(&node)).change, None);
    assert_eq!(claimed_addresses(node.as_bytes()).len(), 2);

    // A per-node object made by us is, but for its birth, the stored one byte for byte.
    let felix = value(keys::felix_configuration_of(&host));
    let born = Birth { uid: "00000000-0000-4000-8000-000000000003".to_owned(), ..birth() };
    let made = felix::default_host_action(&host, HostAction::Return, None, &born).unwrap();
    assert_eq!(text(made).as_deref(), Some(&*felix));
    let stored = Some(felix.as_bytes());
    let again = felix::default_host_action(&host, HostAction::Return, stored, &born);
    assert_eq!(again, Ok(None));

    let report =
        status::host("2024-11-05T10:11:12Z", std::time::Duration::from_micros(123_456_789), false);
    assert_eq!(value(keys::host_status(&host)), report);
    assert_eq!(value(keys::host_last_status(&host)), report);
    let id = crate::model::WorkloadEndpointId {
        node: host,
        orchestrator: "cni".into(),
        workload: "default/c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11".into(),
        endpoint: "eth0".into(),
    };
    assert_eq!(value(keys::workload_status(&id)), status::endpoint(EndpointStatus::Up));
}

#[test]
fn each_status_is_told_apart() {
    let told = [EndpointStatus::Up, EndpointStatus::Down, EndpointStatus::Error]
        .map(|status| serde_json::from_str::<Value>(status::endpoint(status)).unwrap());
    assert_eq!(told, ["up", "down", "error"].map(|status| json!({ "status": status })));
}

#[test]
fn a_profile_more_changes_nothing_else_of_an_endpoint() {
    let id = endpoint::id(&name(), "c1", "eth0");
    let add =
        |stored: &str| endpoint::with_profile(&id, &Name::from("web"), stored.as_bytes()).map(text);
    let stored = r#"{"kind":"WorkloadEndpoint","metadata":{"uid":"u"},"spec":{"profiles":["frontend"],"new":1}}"#;
    let expected = stored.replace(r#"["frontend"]"#, r#"["frontend","web"]"#);
    assert_eq!(add(stored), Ok(Some(expected.clone())));
    assert_eq!(add(&expected), Ok(None));
    for none in [r#"{"spec":{}}"#, r#"{"spec":{"profiles":null}}"#, "{}"] {
        assert_eq!(add(none), Ok(Some(r#"{"spec":{"profiles":["web"]}}"#.to_owned())), "{none}");
    }
    for bad in ["", "[]", r#"{"spec":[]}"#, r#"{"spec":{"profiles":"web"}}"#] {
        let error = add(bad).unwrap_err();
        assert!(error.to_string().contains("workloadendpoints"), "{error}");
    }
}
