//! Replays the API's validation cases through the decoder.
//!
//! The decoder is not a second API server: it must take everything that the API takes, refuse what
//! cannot be enforced as written, and may take the rest. What it takes although the API refuses it
//! stands in [`tolerated`] by name, with the reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a replay that cannot go on has failed")]

#[path = "../shared/mod.rs"]
mod shared;
mod tolerated;

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::layout::{Decoded, v3};
use serde_json::{Map, Value, json};
use shared::{load, text};
use tolerated::TOLERATED;

/// Go field names whose JSON name is not just a small first letter.
const FIELDS: [(&str, &str); 22] = [
    ("ObjectMeta", "metadata"),
    ("BGP", "bgp"),
    ("CIDR", "cidr"),
    ("ContainerID", "containerID"),
    ("DisableBGPExport", "disableBGPExport"),
    ("ExpectedIPs", "expectedIPs"),
    ("ExternalIP", "externalIP"),
    ("HTTP", "http"),
    ("HostIP", "hostIP"),
    ("ICMP", "icmp"),
    ("IPIPMode", "ipipMode"),
    ("IPNATs", "ipNATs"),
    ("IPNetworks", "ipNetworks"),
    ("IPVersion", "ipVersion"),
    ("IPv4Address", "ipv4Address"),
    ("IPv4IPIPTunnelAddr", "ipv4IPIPTunnelAddr"),
    ("IPv6Address", "ipv6Address"),
    ("InternalIP", "internalIP"),
    ("PreDNAT", "preDNAT"),
    ("RouteReflectorClusterID", "routeReflectorClusterID"),
    ("VXLANMode", "vxlanMode"),
    ("NotICMP", "notICMP"),
];

/// Names of constants that the cases left unevaluated.
const CONSTANTS: [(&str, &str); 12] = [
    ("api.PolicyTypeIngress", "Ingress"),
    ("api.PolicyTypeEgress", "Egress"),
    ("api.IPIPModeNever", "Never"),
    ("api.IPIPModeAlways", "Always"),
    ("api.VXLANModeNever", "Never"),
    ("api.VXLANModeAlways", "Always"),
    ("api.VXLANModeCrossSubnet", "CrossSubnet"),
    ("api.Pass", "Pass"),
    ("api.Deny", "Deny"),
    ("names.DefaultTierName", "default"),
    ("names.KubeAdminTierName", "kube-admin"),
    ("names.KubeBaselineTierName", "kube-baseline"),
];

fn field_name(go: &str) -> String {
    if let Some((_, name)) = FIELDS.iter().find(|(from, _)| *from == go) {
        return (*name).to_owned();
    }
    go[..1].to_ascii_lowercase() + &go[1..]
}

/// The stored form of a Go value; `None` when JSON cannot say it.
fn stored(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(fields) if fields.contains_key("call") => match text(&fields["call"]) {
            "numorstring.ProtocolFromInt" => fields["args"][0].clone(),
            _ => return None,
        },
        Value::Object(fields) if fields.contains_key("StrVal") => fields["StrVal"].clone(),
        Value::Object(fields) if fields.contains_key("PortName") => {
            if fields.len() > 1 {
                return None;
            }
            fields["PortName"].clone()
        }
        Value::Object(fields) if fields.contains_key("MinPort") => {
            json!(format!("{}:{}", fields["MinPort"], fields["MaxPort"]))
        }
        Value::Object(fields) => {
            let mut object = Map::new();
            for (name, value) in fields {
                let verbatim = ["Labels", "Annotations", "LabelsToApply"].contains(&&**name);
                let value = if verbatim { value.clone() } else { stored(value)? };
                object.insert(field_name(name), value);
            }
            Value::Object(object)
        }
        Value::Array(list) => Value::Array(list.iter().map(stored).collect::<Option<_>>()?),
        Value::String(text) => {
            let constant = CONSTANTS.iter().find(|(name, _)| name == text);
            match (constant, &**text) {
                (Some((_, value)), _) => json!(value),
                (None, "api.DefaultTierOrder") => json!(1_000_000),
                (None, "api.KubeAdminTierOrder") => json!(1000),
                (None, "api.KubeBaselineTierOrder") => json!(10_000_000),
                (None, text) => json!(text),
            }
        }
        scalar => scalar.clone(),
    })
}

/// The path below the prefix and the document that hold the case's value.
fn document(kind: Option<&str>, value: Value) -> Option<(String, Value)> {
    let rule = |rule: Value| ("profiles/p".to_owned(), json!({"spec": {"ingress": [rule]}}));
    let spec = |path: &str, spec: Value| (path.to_owned(), json!({ "spec": spec }));
    let whole = |plural: &str, value: Value| {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (format!("{plural}/{name}"), value)
    };
    let workload = |mut value: Value| {
        let fields = value.as_object_mut().unwrap();
        // Without addresses there is no endpoint, and nothing is looked at.
        fields.entry("ipNetworks").or_insert(json!(["10.9.9.9/32"]));
        spec("workloadendpoints/default/n-cni-w-eth0", value)
    };
    Some(match kind {
        None | Some("scalar" | "Protocol") => rule(json!({"action": "Allow", "protocol": value})),
        Some("Rule") => rule(value),
        Some("EntityRule") => rule(json!({"action": "Allow", "source": value})),
        Some("ICMPFields") => rule(json!({"action": "Allow", "protocol": "ICMP", "icmp": value})),
        Some("ProfileSpec") => spec("profiles/p", value),
        Some("GlobalNetworkPolicy") => whole("globalnetworkpolicies", value),
        Some("NetworkPolicy") => whole("networkpolicies/default", value),
        Some("Tier") => whole("tiers", value),
        Some("IPPool") => whole("ippools", value),
        Some("IPPoolSpec") => spec("ippools/p", value),
        Some("NodeSpec") => spec("nodes/n", value),
        Some("HostEndpointSpec") => spec("hostendpoints/h", value),
        Some("GlobalNetworkSet") => whole("globalnetworksets", value),
        Some("GlobalNetworkSetSpec") => spec("globalnetworksets/s", value),
        Some("NetworkSet") => whole("networksets/default", value),
        Some("NetworkSetSpec") => spec("networksets/default/s", value),
        Some("BGPConfigurationSpec") => spec("bgpconfigurations/default", value),
        Some("WorkloadEndpointSpec") => workload(value),
        Some("WorkloadEndpointPort") => {
            workload(json!({"interfaceName": "cali1", "ports": [value]}))
        }
        Some("IPNAT") => {
            let networks = json!([value["internalIP"]]);
            workload(json!({"interfaceName": "cali1", "ipNetworks": networks, "ipNATs": [value]}))
        }
        _ => return None,
    })
}

#[test]
fn cases_of_the_api() {
    let Some(cases) = load("cases/validation.json") else { return };
    let (mut taken, mut refused, mut allowed, mut inexpressible) = (0, 0, 0, 0);
    let mut tolerated: BTreeSet<&str> = BTreeSet::new();
    let mut wrong: BTreeMap<&str, String> = BTreeMap::new();
    for case in cases["cases"].as_array().unwrap() {
        if case["api"] != "v3" {
            continue;
        }
        let (name, valid) = (text(&case["name"]), case["valid"].as_bool().unwrap());
        let kind = case["kind"].as_str();
        let Some(value) = stored(&case["input"]) else {
            if document(kind, json!({})).is_some() {
                inexpressible += 1;
            }
            continue;
        };
        let Some((path, document)) = document(kind, value) else { continue };
        let key = format!("{}{path}", v3::RESOURCES_PREFIX);
        match (v3::decode(&key, document.to_string().as_bytes()), valid) {
            (Decoded::Object(_), true) => taken += 1,
            (Decoded::Rejected(_), false) => refused += 1,
            (Decoded::Object(_), false) if TOLERATED.iter().any(|(_, n)| n.contains(&name)) => {
                tolerated.insert(name);
                allowed += 1;
            }
            (decoded, _) => {
                wrong.insert(name, format!("valid: {valid}, but {decoded:?} of {document}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
    let listed: BTreeSet<&str> = TOLERATED.iter().flat_map(|(_, names)| *names).copied().collect();
    assert_eq!(tolerated, listed, "an entry that no case needs any more");
    assert_eq!((taken, refused, allowed, inexpressible), (178, 74, 118, 2));
}
