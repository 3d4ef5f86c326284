use super::*;
use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::{self, keys};
use calico_datastore::model::{Node, Update};

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

/// A host whose address was typed without its length.
pub(crate) fn calico_01() -> Identity {
    Identity {
        name: Name::from("calico-01"),
        ip: fixed("172.18.18.101"),
        ip6: AddressChoice::Stored,
        as_number: None,
        skip_address_check: false,
        cluster_type: "bgp".to_owned(),
        host_action_overridden: false,
        may_initialise: true,
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

/// A Node that is stored with this address.
fn stored(address: &str) -> String {
    let identity = Identity { ip: fixed(address), ip6: AddressChoice::Absent, ..calico_01() };
    text(plan(&identity, None).change).unwrap()
}

/// What `plan` leaves stored under the key of this host's Node.
fn node_after(change: Change, before: Option<&str>) -> Node {
    let value = text(change).or(before.map(str::to_owned)).unwrap();
    match v3::decode(&keys::node(&calico_01().name), value.as_bytes()) {
        Decoded::Object(Update::Node(_, Some(node))) => (*node).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_node_has_what_was_said() {
    let identity = Identity {
        ip6: fixed("fd00:172:18:18::101/64"),
        as_number: Some(AsNumber(64513)),
        ..calico_01()
    };
    let result = plan(&identity, None);
    // The IPv6 address is on no interface.
    assert_eq!(result.problems.len(), 1, "{:?}", result.problems);
    assert_eq!(result.notes, [""; 0]);
    let addresses: [IpAddr; 2] =
        ["172.18.18.101".parse().unwrap(), "fd00:172:18:18::101".parse().unwrap()];
    assert_eq!(result.addresses, addresses);
    let node = node_after(result.change, None);
    assert_eq!(node.as_number, Some(AsNumber(64513)));
    assert_eq!(
        (node.ipv4.map(IpAddr::from), node.ipv6.map(IpAddr::from)),
        addresses.map(Some).into()
    );
}

#[test]
fn what_is_stored_and_right_is_not_written() {
    let before = stored("172.18.18.101/24");
    for ip in [fixed("172.18.18.101"), fixed("172.18.18.101/24"), AddressChoice::Stored] {
        let result = plan(&Identity { ip, ..calico_01() }, Some(&before));
        assert_eq!(
            (result.change, result.problems, result.notes),
            (None, vec![], vec![]),
            "{ip:?}"
        );
    }
}

#[test]
fn another_address_is_worth_a_warning() {
    let before = stored("172.18.18.55/24");
    let result = plan(&calico_01(), Some(&before));
    let note = "this node was stored with address 172.18.18.55/24, now 172.18.18.101/24";
    assert_eq!(result.notes, [note]);
    let gone = plan(&Identity { ip: AddressChoice::Absent, ..calico_01() }, Some(&before));
    assert_eq!(gone.notes, ["this node was stored with address 172.18.18.55/24, now none"]);
    // The same address in another network is none.
    let wider = plan(&Identity { ip: fixed("172.18.18.55/16"), ..calico_01() }, Some(&before));
    assert!(wider.change.is_some());
    assert_eq!(wider.notes, [""; 0]);
}

#[test]
fn the_prefix_of_a_bare_address() {
    for (ip, before, expected) in [
        // Of the interface that has it.
        ("172.18.18.101", None, "172.18.18.0/24"),
        // What was said wins.
        ("172.18.18.101/20", None, "172.18.16.0/20"),
        // No interface: the stored one's, when it is the same address.
        ("172.18.18.7", Some("172.18.18.7/22"), "172.18.16.0/22"),
        ("172.18.18.7", Some("172.18.18.8/22"), "172.18.18.7/32"),
        ("172.18.18.7", None, "172.18.18.7/32"),
    ] {
        let before = before.map(stored);
        let result = plan(&Identity { ip: fixed(ip), ..calico_01() }, before.as_deref());
        let unknown = ip.ends_with(".7");
        assert_eq!(result.problems.len(), usize::from(unknown), "{ip}");
        let network = node_after(result.change, before.as_deref()).ipv4_network;
        assert_eq!(network.unwrap().to_string(), expected, "{ip} over {before:?}");
    }
}

#[test]
fn without_an_address_the_node_is_written_without_bgp_and_status_says_so() {
    for ip in [AddressChoice::Stored, AddressChoice::Absent, AddressChoice::Detect] {
        let result = plan(&Identity { ip, ..calico_01() }, None);
        assert!(!node_after(result.change, None).bgp);
        let last = result.problems.last().unwrap();
        assert!(last.message.contains("BGP is off") && last.message.contains("IP="), "{last:?}");
        assert_eq!(result.problems.len() == 2, ip == AddressChoice::Detect, "{ip:?}");
    }
    // `none` takes a stored address away; nothing said keeps it.
    let before = stored("172.18.18.101/24");
    let absent = plan(&Identity { ip: AddressChoice::Absent, ..calico_01() }, Some(&before));
    assert_eq!(node_after(absent.change, None).ipv4, None);
    let kept = plan(&Identity { ip: AddressChoice::Detect, ..calico_01() }, Some(&before));
    assert_eq!((kept.change, kept.addresses.len()), (None, 1));
}

#[test]
fn two_nodes_never_share_an_address() {
    let other = |name: &str, address: &str| Claim {
        node: name.to_owned(),
        addresses: vec![address.parse().unwrap()],
    };
    let before = stored("172.18.18.101/24");
    let ask = |identity: &Identity, others: &[Claim]| {
        plan_node(identity, Some(before.as_bytes()), others, &eth0(), &birth())
    };
    let taken = [other("calico-02", "172.18.18.101")];
    let error = ask(&calico_01(), &taken).unwrap_err();
    assert!(error.to_string().contains("node calico-02 has the address 172.18.18.101"), "{error}");
    // Also when nothing changes: the other one may have come later.
    let unsaid = Identity { ip: AddressChoice::Stored, ..calico_01() };
    assert!(matches!(ask(&unsaid, &taken), Err(PlanError::AddressInUse { .. })));
    let skip = Identity { skip_address_check: true, ..calico_01() };
    assert!(ask(&skip, &taken).is_ok());
    let harmless = [other("calico-01", "172.18.18.101"), other("calico-02", "172.18.18.102")];
    assert!(ask(&calico_01(), &harmless).is_ok());
}

#[test]
fn a_name_in_other_letters_is_not_registered_beside_the_first() {
    let claim = |name: &str| Claim { node: name.to_owned(), addresses: vec![] };
    let ask = |name: &str, stored: Option<&str>| {
        let identity = Identity { name: name.into(), ..calico_01() };
        plan_node(&identity, stored.map(str::as_bytes), &[claim("calico-01")], &eth0(), &birth())
    };
    let error = ask("Calico-01", None).unwrap_err();
    assert!(error.to_string().contains("set NODENAME=calico-01"), "{error}");
    for name in ["calico-01", "calico-02", "calico-011"] {
        assert_eq!(ask(name, None).unwrap().problems, [], "{name}");
    }
    // Two that are there already are left alone, and status says so.
    let both = ask("Calico-01", Some(&stored("172.18.18.101/24"))).unwrap();
    assert_eq!(both.problems.len(), 1, "{:?}", both.problems);
}

#[test]
fn a_malformed_object_is_not_overwritten() {
    let error = plan_node(&calico_01(), Some(b"{"), &[], &[], &birth()).unwrap_err();
    assert!(error.to_string().contains("/nodes/calico-01 is malformed"), "{error}");
    assert!(plan_felix(&calico_01(), Some(b"{"), &birth()).is_err());
}

#[test]
fn cluster_information_is_made_once_and_never_touched() {
    let made = text(plan_cluster(None, "8a1f", "bgp", &birth())).unwrap();
    assert!(made.contains(r#""clusterGUID":"8a1f","clusterType":"bgp""#), "{made}");
    for stored in [made.as_str(), r#"{"spec":{"datastoreReady":false}}"#, "broken"] {
        assert_eq!(plan_cluster(Some(stored.as_bytes()), "x", "bgp", &birth()), None);
    }
}

#[test]
fn return_is_written_unless_this_host_was_told_otherwise() {
    let ask = |identity: &Identity, stored: Option<&str>| {
        text(plan_felix(identity, stored.map(str::as_bytes), &birth()).unwrap())
    };
    let made = ask(&calico_01(), None).unwrap();
    assert!(made.contains(r#":"Return""#), "{made}");
    assert_eq!(ask(&calico_01(), Some(&made)), None);
    let overridden = Identity { host_action_overridden: true, ..calico_01() };
    assert_eq!(ask(&overridden, None), None);
    assert_eq!(ask(&overridden, Some("{")), None);
}

#[test]
fn the_fixture_world_is_left_alone() {
    let Some(shared) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return;
    };
    let path = std::path::PathBuf::from(shared).join("fixtures/v3-rkt.json");
    let entries: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let entries = entries.as_array().unwrap().iter();
    let all: Vec<(String, Vec<u8>)> = entries
        .map(|e| (e["key"].as_str().unwrap().to_owned(), e["value"].as_str().unwrap().into()))
        .collect();
    let value = |key: String| {
        all.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_slice()).unwrap()
    };
    let claims: Vec<_> = all.iter().filter_map(|(key, value)| Claim::read(key, value)).collect();
    assert_eq!(claims.len(), 2);
    assert!(claims.iter().all(|claim| claim.addresses.len() == 2), "{claims:?}");
    let identity = calico_01();
    let name = &identity.name;
    let node = plan_node(&identity, Some(value(keys::node(name))), &claims, &eth0(), &birth());
    assert_eq!(node.unwrap().change, None);
    let felix = value(keys::felix_configuration_of(name));
    assert_eq!(plan_felix(&identity, Some(felix), &birth()), Ok(None));
    assert_eq!(plan_cluster(Some(value(keys::READY_KEY.to_owned())), "", "bgp", &birth()), None);
}
