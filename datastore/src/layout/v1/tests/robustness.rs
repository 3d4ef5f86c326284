use proptest::prelude::*;

use super::super::{Decoded, decode, id_of};

/// One key of each kind that is an object or a part of one.
const KEYS: [&str; 27] = [
    "/calico/v1/Ready",
    "/calico/v1/config/LogPrefix",
    "/calico/v1/host/h/config/LogPrefix",
    "/calico/v1/host/h/config/IpInIpTunnelAddr",
    "/calico/v1/host/h/metadata",
    "/calico/v1/host/h/bird_ip",
    "/calico/v1/host/h/workload/o/w/endpoint/e",
    "/calico/v1/host/h/endpoint/e",
    "/calico/v1/policy/profile/p/tags",
    "/calico/v1/policy/profile/p/labels",
    "/calico/v1/policy/profile/p/rules",
    "/calico/v1/policy/tier/t/metadata",
    "/calico/v1/policy/tier/t/policy/p",
    "/calico/v1/ipam/v4/pool/10.0.0.0-8",
    "/calico/v1/ipam/v6/pool/fd80::-64",
    "/calico/bgp/v1/global/as_num",
    "/calico/bgp/v1/global/node_mesh",
    "/calico/bgp/v1/global/loglevel",
    "/calico/bgp/v1/host/h/ip_addr_v4",
    "/calico/bgp/v1/host/h/ip_addr_v6",
    "/calico/bgp/v1/host/h/network_v4",
    "/calico/bgp/v1/host/h/network_v6",
    "/calico/bgp/v1/host/h/as_num",
    "/calico/bgp/v1/host/h/loglevel",
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26",
    "/calico/ipam/v2/host/h/ipv4/block/10.0.0.0-26",
    "/calico/ipam/v2/host/h/ipv6/block/fd80::-122",
];

/// Whatever the value: the id is that of the key, and a refusal says why.
fn check(key: &str, value: &[u8]) {
    let decoded = decode(key, value);
    assert_eq!(decode(key, value), decoded, "equal values decode equally");
    match decoded {
        Decoded::Object(update) => assert_eq!(Some(update.id()), id_of(key)),
        Decoded::Part(part) => assert_eq!(Some(part.id()), id_of(key).as_ref()),
        Decoded::Rejected(rejection) => {
            assert_eq!(rejection.id, id_of(key));
            assert!(!rejection.reason.is_empty() && rejection.reason.len() < 1100);
        }
        Decoded::Ignored | Decoded::Unsupported { .. } => assert_eq!(id_of(key), None),
    }
}

/// Field names and values that some kind looks at, so that random documents get somewhere.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let text = prop::sample::select(vec![
        "",
        "a",
        "allow",
        "next-tier",
        "10.0.0.0/8",
        "fd80::1",
        "cali1",
        "tcp",
        "1:2",
        "has(a)",
        "é\"'",
        "active",
        "default",
        "ingress",
        "tunl0",
    ]);
    let field = prop::sample::select(vec![
        "state",
        "name",
        "mac",
        "profile_ids",
        "profile_id",
        "ipv4_nets",
        "ipv6_nets",
        "ipv4_nat",
        "int_ip",
        "ext_ip",
        "labels",
        "ports",
        "expected_ipv4_addrs",
        "order",
        "inbound_rules",
        "outbound_rules",
        "selector",
        "types",
        "untracked",
        "pre_dnat",
        "action",
        "protocol",
        "!protocol",
        "icmp_type",
        "icmp_code",
        "src_net",
        "src_nets",
        "src_tag",
        "src_ports",
        "!dst_selector",
        "!dst_ports",
        "cidr",
        "ipip",
        "ipip_mode",
        "masquerade",
        "enabled",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-3i64..70000).prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text.prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(field.clone(), inner, 0..5).prop_map(|map| {
                map.into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes(value in prop::collection::vec(any::<u8>(), 0..200)) {
        for key in KEYS {
            check(key, &value);
        }
    }

    #[test]
    fn arbitrary_documents(document in any_json()) {
        let value = serde_json::to_vec(&document).unwrap();
        for key in KEYS {
            check(key, &value);
            check(key, &value[..value.len() / 2]);
        }
    }

    #[test]
    fn arbitrary_keys(key in "/calico/(v1|bgp/v1|ipam/v2)(/[a-z0-9.:%é -]{0,12}){0,8}|.{0,40}") {
        check(&key, b"{}");
    }
}

#[test]
fn every_key_of_the_list_is_known() {
    for key in KEYS {
        assert!(id_of(key).is_some(), "{key}");
        check(key, b"");
    }
}

#[test]
fn a_reason_is_short_however_long_the_value() {
    let long = "é".repeat(500_000);
    for key in KEYS {
        check(key, long.as_bytes());
        check(
            key,
            format!(r#"{{"inbound_rules":[{{"action":"{long}"}}],"name":"{long}"}}"#).as_bytes(),
        );
    }
    let key = format!("/calico/v1/policy/tier/default/policy/{long}");
    let Decoded::Rejected(rejection) = decode(&key, b"{}") else { panic!("accepted") };
    assert!(rejection.reason.len() < 1100);
}

#[test]
fn deep_documents_are_refused() {
    let deep = format!(r#"{{"unknown":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for key in KEYS {
        check(key, deep.as_bytes());
    }
}

/// A derived struct would fill its fields from an array by position.
#[test]
fn arrays_are_not_objects() {
    for key in KEYS.iter().filter(|key| {
        ["/endpoint/", "/rules", "/tier/", "/pool/", "/block/", "/node_mesh", "/labels"]
            .iter()
            .any(|part| key.contains(part))
    }) {
        assert!(matches!(decode(key, b"[]"), Decoded::Rejected(_)), "{key}");
    }
}
