use std::sync::Arc;

use super::{accepted, rejected};
use crate::model::{Cidr, HostEndpoint, Protocol, Update, WorkloadEndpoint};

const WORKLOAD: &str = "workloadendpoints/default/calico--01-cni-c89f--1b7e-eth0";

#[track_caller]
fn workload(json: &str) -> Option<Arc<WorkloadEndpoint>> {
    match accepted(WORKLOAD, json) {
        Update::WorkloadEndpoint(id, value) => {
            assert_eq!(id.node, "calico-01");
            assert_eq!(id.orchestrator, "cni");
            assert_eq!(id.workload, "default/c89f-1b7e");
            assert_eq!(id.endpoint, "eth0");
            value
        }
        other => panic!("{other:?}"),
    }
}

fn spec(rest: &str) -> String {
    format!(
        r#"{{"spec":{{"interfaceName":"cali1","ipNetworks":["192.168.0.0/32"]{}{rest}}}}}"#,
        if rest.is_empty() { "" } else { "," }
    )
}

#[track_caller]
fn host(json: &str) -> Arc<HostEndpoint> {
    match accepted("hostendpoints/h", json) {
        Update::HostEndpoint(_, Some(value)) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_of_rkt() {
    let endpoint = workload(
        r#"{"kind":"WorkloadEndpoint","metadata":{"name":"someone-elses-name","labels":{"role":"frontend","empty":""}},
            "spec":{"node":"somewhere-else","ipNetworks":["192.168.0.0/32","fd80::1"],"profiles":["frontend","b"],
            "interfaceName":"calic89f2f35-1b","mac":"CA-FE-1D-52-BB-E1",
            "ipNATs":[{"internalIP":"192.168.0.0","externalIP":"172.18.19.3"}],
            "allowSpoofedSourcePrefixes":["8.8.8.8","10.9.8.7/16","::/0"],"unknown":{"a":[1]}}}"#,
    )
    .unwrap();
    assert_eq!(endpoint.interface.as_str(), "calic89f2f35-1b");
    assert!(endpoint.active);
    assert_eq!(endpoint.mac.unwrap().to_string(), "ca:fe:1d:52:bb:e1");
    let addresses: Vec<String> = endpoint.addresses.iter().map(Cidr::to_string).collect();
    assert_eq!(addresses, ["192.168.0.0/32", "fd80::1/128"]);
    assert_eq!(endpoint.profiles, ["frontend", "b"]);
    assert_eq!(endpoint.nat, [("192.168.0.0".parse().unwrap(), "172.18.19.3".parse().unwrap())]);
    let spoof: Vec<String> = endpoint.spoof.iter().map(Cidr::to_string).collect();
    assert_eq!(spoof, ["8.8.8.8/32", "10.9.0.0/16", "::/0"]);
    assert_eq!(endpoint.labels.get("empty"), Some(""), "an empty label is a label");
}

#[test]
fn an_endpoint_without_addresses_counts_as_absent_not_as_rejected() {
    for json in [
        "{}",
        r#"{"spec":null}"#,
        r#"{"spec":{"interfaceName":"cali1"}}"#,
        r#"{"spec":{"interfaceName":"cali1","ipNetworks":null}}"#,
        r#"{"spec":{"interfaceName":"cali1","ipNetworks":[]}}"#,
    ] {
        assert_eq!(workload(json), None, "{json}");
    }
}

#[test]
fn null_is_the_same_as_missing() {
    let full = workload(&spec(
        r#""profiles":null,"mac":null,"ports":null,"ipNATs":null,"serviceAccountName":null"#,
    ));
    assert_eq!(full, workload(&spec("")));
    assert!(full.is_some());
    let with_metadata = spec("").replacen('{', r#"{"metadata":null,"#, 1);
    assert_eq!(workload(&with_metadata), full);
    let null_labels =
        spec("").replacen('{', r#"{"metadata":{"labels":null,"annotations":null},"#, 1);
    assert_eq!(workload(&null_labels), full);
}

#[test]
fn labels_of_namespaces_and_accounts_cannot_be_forged() {
    let json = spec(r#""serviceAccountName":"ci""#).replacen(
        '{',
        r#"{"metadata":{"labels":{"pcns.env":"prod","pcsa.team":"a","pcnsx":"kept","projectcalico.org/serviceaccount":"other"}},"#,
        1,
    );
    let endpoint = workload(&json).unwrap();
    let labels: Vec<(&str, &str)> = endpoint.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(labels, [("pcnsx", "kept"), ("projectcalico.org/serviceaccount", "ci")]);
}

#[test]
fn named_ports() {
    let endpoint = workload(&spec(
        r#""ports":[{"name":"http","protocol":"TCP","port":8080,"hostPort":0,"hostIP":""},
            {"name":"","protocol":"TCP","port":80,"hostPort":8080},{"port":80},
            {"name":"dns","protocol":"udp","port":53},{"name":"http","protocol":6,"port":81},
            {"name":"x","protocol":"132","port":65535}]"#,
    ))
    .unwrap();
    let ports: Vec<_> =
        endpoint.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect();
    assert_eq!(
        ports,
        [
            ("http", Protocol::TCP, 8080),
            ("dns", Protocol::UDP, 53),
            ("http", Protocol::TCP, 81),
            ("x", Protocol::SCTP, 65535)
        ]
    );
    for (port, field) in [
        (r#"{"name":"a b","protocol":"TCP","port":1}"#, "spec.ports[0].name"),
        (r#"{"name":"a","port":1}"#, "spec.ports[0].protocol"),
        (r#"{"name":"a","protocol":"ICMP","port":1}"#, "spec.ports[0].protocol"),
        (r#"{"name":"a","protocol":"TCP"}"#, "spec.ports[0].port"),
        (r#"{"name":"a","protocol":"TCP","port":0}"#, "spec.ports[0].port"),
        (r#"{"name":"a","protocol":"TCP","port":65536}"#, "spec.ports[0].port"),
        (r#"{"name":"a","protocol":"TCP","port":"80"}"#, "spec.ports[0].port"),
    ] {
        let reason = rejected(WORKLOAD, &spec(&format!(r#""ports":[{port}]"#)));
        assert!(reason.starts_with(&format!("{field}: ")), "{reason}");
    }
}

#[test]
fn bad_workload_endpoints_name_the_field() {
    let base = r#"{"spec":{"interfaceName":"cali1","ipNetworks":["10.0.0.1"]}}"#;
    for (from, to, field) in [
        ("cali1", "cali/1", "spec.interfaceName"),
        ("cali1", "sixteen-chars-xx", "spec.interfaceName"),
        ("cali1", "", "spec.interfaceName"),
        ("10.0.0.1", "10.0.0.0/26", "spec.ipNetworks[0]"),
        ("10.0.0.1", "fd80::/122", "spec.ipNetworks[0]"),
        ("10.0.0.1", "10.0.0.x", "spec.ipNetworks[0]"),
        ("10.0.0.1", "10.0.0.1/33", "spec.ipNetworks[0]"),
        (r#""10.0.0.1""#, r#""10.0.0.1",7"#, "spec.ipNetworks[1]"),
        (r#""cali1""#, r#""c","mac":"ca:fe""#, "spec.mac"),
        (r#""cali1""#, r#""c","profiles":["a b"]"#, "spec.profiles[0]"),
        (
            r#""cali1""#,
            r#""c","ipNATs":[{"internalIP":"10.0.0.9","externalIP":"1.2.3.4"}]"#,
            "spec.ipNATs[0].internalIP",
        ),
        (
            r#""cali1""#,
            r#""c","ipNATs":[{"internalIP":"10.0.0.1","externalIP":"fd80::1"}]"#,
            "spec.ipNATs[0].externalIP",
        ),
        (r#""cali1""#, r#""c","ipNATs":[{}]"#, "spec.ipNATs[0].internalIP"),
    ] {
        let reason = rejected(WORKLOAD, &base.replace(from, to));
        assert!(reason.starts_with(&format!("{field}: ")), "{to}: {reason}");
    }
}

#[test]
fn host_endpoints() {
    let endpoint = host(
        r#"{"metadata":{"labels":{"kind":"bare-metal"}},"spec":{"node":"calico-01","interfaceName":"eth0",
            "expectedIPs":["172.18.18.101","fd00::101"],"profiles":["projectcalico-default-allow"],
            "ports":[{"name":"ssh","protocol":"TCP","port":22}]}}"#,
    );
    assert_eq!(endpoint.node, "calico-01");
    assert_eq!(endpoint.interface.as_ref().unwrap(), &"eth0");
    assert_eq!(endpoint.expected_addresses.len(), 2);
    assert_eq!(endpoint.labels.get("kind"), Some("bare-metal"));
    assert_eq!(endpoint.ports.len(), 1);

    let all = host(r#"{"spec":{"node":"n","interfaceName":"*"}}"#);
    assert_eq!(all.interface.as_ref().unwrap(), &"*");
    let by_address = host(r#"{"spec":{"node":"n","interfaceName":"","expectedIPs":["10.0.0.1"]}}"#);
    assert_eq!(by_address.interface, None);

    for (json, field) in [
        ("{}", "spec.interfaceName"),
        (r#"{"spec":{"interfaceName":"eth0"}}"#, "spec.node"),
        (r#"{"spec":{"node":"n","interfaceName":"","expectedIPs":[]}}"#, "spec.interfaceName"),
        (r#"{"spec":{"node":"n","interfaceName":"**"}}"#, "spec.interfaceName"),
        (r#"{"spec":{"node":"n","expectedIPs":["10.0.0.0/24"]}}"#, "spec.expectedIPs[0]"),
    ] {
        let reason = rejected("hostendpoints/h", json);
        assert!(reason.starts_with(&format!("{field}: ")), "{reason}");
    }
}

/// As the original: one bad entry does not open the host.
#[test]
fn what_is_no_address_of_a_host_endpoint_is_left_out() {
    let of = |rest: &str| host(&format!(r#"{{"spec":{{"node":"n",{rest}}}}}"#));
    let left_out = |text: &str| Some(format!("spec.expectedIPs{text}"));
    let endpoint = of(r#""interfaceName":"eth0","expectedIPs":["10.0.0.1","10.0.0.1/24"]"#);
    assert_eq!(endpoint.interface.as_ref().unwrap(), &"eth0");
    assert_eq!(endpoint.expected_addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(endpoint.left_out, left_out(r#"[1]: "10.0.0.1/24" is not an address"#));

    let nothing = of(r#""interfaceName":"eth0","expectedIPs":["","fd00::1","host.example"]"#);
    assert_eq!(nothing.expected_addresses.len(), 1);
    assert_eq!(nothing.left_out, left_out(r#"[0]: "" is not an address; and 1 more"#));
    let by_address = of(r#""expectedIPs":["10.0.0.1/24","10.0.0.1"]"#);
    assert_eq!(by_address.expected_addresses.len(), 1);
    assert!(by_address.left_out.is_some());
    let good = of(r#""interfaceName":"eth0","expectedIPs":["10.0.0.1"]"#);
    assert_eq!(good.left_out, None);
    // Whatever somebody wrote there is said in bounds.
    let long = of(&format!(r#""interfaceName":"eth0","expectedIPs":["{}"]"#, "x".repeat(5000)));
    assert!(long.left_out.as_ref().unwrap().len() < 1100);
}
