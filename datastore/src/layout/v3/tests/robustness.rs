use proptest::prelude::*;

use super::super::{Decoded, decode, id_of};
use crate::model::Update;

/// One key of each kind that has an object.
const KEYS: [&str; 16] = [
    "/calico/resources/v3/projectcalico.org/clusterinformations/default",
    "/calico/resources/v3/projectcalico.org/felixconfigurations/default",
    "/calico/resources/v3/projectcalico.org/bgpconfigurations/default",
    "/calico/resources/v3/projectcalico.org/nodes/n",
    "/calico/resources/v3/projectcalico.org/ippools/p",
    "/calico/resources/v3/projectcalico.org/tiers/t",
    "/calico/resources/v3/projectcalico.org/profiles/p",
    "/calico/resources/v3/projectcalico.org/hostendpoints/h",
    "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/p",
    "/calico/resources/v3/projectcalico.org/networkpolicies/n/p",
    "/calico/resources/v3/projectcalico.org/globalnetworksets/s",
    "/calico/resources/v3/projectcalico.org/networksets/n/s",
    "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n-cni-w-e",
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26",
    "/calico/ipam/v2/host/h/ipv4/block/10.0.0.0-26",
    "/calico/ipam/v2/host/h/ipv6/block/fd80::-122",
];

#[test]
fn a_resource_that_is_null_is_refused_and_an_allocation_that_is_null_is_gone() {
    for key in KEYS {
        match decode(key, b" null\n") {
            Decoded::Rejected(rejection) => {
                assert!(key.starts_with("/calico/resources/"), "{key}");
                assert_eq!(rejection.id, id_of(key), "{key}");
                assert!(rejection.reason.contains("null"), "{key}: {}", rejection.reason);
            }
            Decoded::Object(update) => {
                assert!(key.starts_with("/calico/ipam/"), "{key}");
                assert_eq!(update, Update::deleted(update.id()));
            }
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn a_reason_is_short_however_long_the_value() {
    let long = "é".repeat(500_000);
    let spec = format!(r#"{{"spec":{{"ingress":[{{"action":"{long}"}}]}}}}"#);
    let policy = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/";
    for (key, value) in [(format!("{policy}p"), spec.as_str()), (format!("{policy}{long}"), "{}")] {
        let Decoded::Rejected(rejection) = decode(&key, value.as_bytes()) else {
            panic!("accepted");
        };
        assert!(rejection.reason.len() < 1100, "{}", rejection.reason.len());
    }
}

/// Field names and values that some kind looks at, so that random documents get somewhere.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let text = prop::sample::select(vec![
        "",
        "a",
        "Allow",
        "10.0.0.0/8",
        "fd80::1",
        "eth0",
        "TCP",
        "1:2",
        "has(a)",
        "é\"'",
        "1m30s",
        "host:x",
        "confirmed",
        "Ingress",
    ]);
    let field = prop::sample::select(vec![
        "spec",
        "metadata",
        "labels",
        "annotations",
        "ingress",
        "egress",
        "source",
        "destination",
        "ports",
        "action",
        "protocol",
        "icmp",
        "type",
        "code",
        "nets",
        "selector",
        "bgp",
        "asNumber",
        "ipv4Address",
        "cidr",
        "ipNetworks",
        "interfaceName",
        "order",
        "types",
        "state",
        "affinity",
        "name",
        "port",
        "failsafeInboundHostPorts",
        "reportingTTL",
        "labelsToApply",
        "serviceAccounts",
        "names",
        "addresses",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-3i64..70000).prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text.prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
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

/// Whatever the value: the id is the same as the one without it, and a refusal says why.
fn check(key: &str, value: &[u8]) {
    match decode(key, value) {
        Decoded::Object(update) => assert_eq!(Some(update.id()), id_of(key)),
        Decoded::Rejected(rejection) => {
            assert_eq!(rejection.id, id_of(key));
            assert!(!rejection.reason.is_empty());
        }
        Decoded::Ignored | Decoded::Unsupported { .. } | Decoded::Part(_) => {
            assert_eq!(id_of(key), None)
        }
    }
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
            // The same document inside a resource, and cut short.
            check(key, format!(r#"{{"spec":{document},"metadata":{document}}}"#).as_bytes());
            check(key, &value[..value.len() / 2]);
        }
    }

    #[test]
    fn arbitrary_keys(key in "/calico/(resources/v3/projectcalico\\.org|ipam/v2)(/[a-z0-9.:%é -]{0,12}){0,5}|.{0,40}") {
        check(&key, b"{}");
    }
}

#[test]
fn every_key_of_the_list_has_an_object() {
    for key in KEYS {
        assert!(id_of(key).is_some(), "{key}");
        check(key, b"");
        assert!(matches!(decode(key, b"[1]"), Decoded::Rejected(_)), "{key}");
    }
}

#[test]
fn deep_documents_are_refused() {
    let deep = format!(r#"{{"spec":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for key in KEYS {
        check(key, deep.as_bytes());
    }
    let unknown = format!(r#"{{"unknown":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for key in KEYS {
        check(key, unknown.as_bytes());
    }
}

/// A derived struct would fill its fields from an array by position.
#[test]
fn arrays_are_not_objects() {
    for key in KEYS {
        for json in ["[]", r#"{"spec":[]}"#, r#"{"metadata":[],"spec":{}}"#] {
            if key.contains("/ipam/") && json != "[]" {
                continue;
            }
            assert!(matches!(decode(key, json.as_bytes()), Decoded::Rejected(_)), "{key} {json}");
        }
    }
    for rule in [
        r#"["Deny"]"#,
        r#"{"action":"Deny","source":[]}"#,
        r#"{"action":"Deny","source":[["10.0.0.0/8"]]}"#,
        r#"{"action":"Deny","protocol":"ICMP","icmp":[8]}"#,
        r#"{"action":"Deny","source":{"serviceAccounts":[["ci"]]}}"#,
    ] {
        let json = format!(r#"{{"spec":{{"ingress":[{rule}]}}}}"#);
        let key = "/calico/resources/v3/projectcalico.org/profiles/p";
        let Decoded::Rejected(rejection) = decode(key, json.as_bytes()) else {
            panic!("{rule} was accepted");
        };
        assert!(rejection.reason.starts_with("spec.ingress"), "{}", rejection.reason);
        assert!(rejection.reason.contains("expected an object"), "{}", rejection.reason);
    }
}
