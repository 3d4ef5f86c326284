use std::sync::Arc;

use super::{accepted, rejected};
use crate::model::{HostEndpoint, Labels, Name, Update, WorkloadEndpoint};

const KEY: &str = "/calico/v1/host/h/workload/rkt/w/endpoint/e";
const HOST: &str = "/calico/v1/host/h/endpoint/eth0-ep";

#[track_caller]
fn endpoint(json: &str) -> Arc<WorkloadEndpoint> {
    match accepted(KEY, json) {
        Update::WorkloadEndpoint(_, Some(endpoint)) => endpoint,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn host(json: &str) -> Arc<HostEndpoint> {
    match accepted(HOST, json) {
        Update::HostEndpoint(_, Some(endpoint)) => endpoint,
        other => panic!("{other:?}"),
    }
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::from(*name)).collect()
}

#[test]
fn an_endpoint_with_nulls_everywhere() {
    let endpoint = endpoint(
        r#"{"ipv6_gateway":null,"state":"active","name":"cali4f2b9c0e53c","mac":null,"labels":null,
            "profile_ids":null,"ipv4_nets":["10.1.0.1"],"ipv6_nets":null,"ipv4_nat":null,"x":[1]}"#,
    );
    assert_eq!(endpoint.addresses, ["10.1.0.1/32".parse().unwrap()]);
    assert_eq!((endpoint.mac, endpoint.active), (None, true));
    assert_eq!((&endpoint.profiles, &endpoint.labels), (&Vec::new(), &Labels::default()));
}

#[test]
fn only_active_is_active() {
    for (state, active) in [("\"active\"", true), ("\"inactive\"", false), ("\"x\"", false)] {
        let json = format!(r#"{{"state":{state},"name":"cali1","ipv4_nets":["10.1.0.1/32"]}}"#);
        assert_eq!(endpoint(&json).active, active, "{state}");
    }
    assert!(!endpoint(r#"{"name":"cali1","ipv4_nets":["10.1.0.1/32"]}"#).active);
}

#[test]
fn the_one_profile_of_old_counts_without_a_list() {
    for (fields, expected) in [
        (r#""profile_id":"a""#, vec!["a"]),
        (r#""profile_id":null"#, vec![]),
        (r#""profile_id":"a","profile_ids":null"#, vec!["a"]),
        (r#""profile_id":"a","profile_ids":[]"#, vec![]),
        (r#""profile_id":"a","profile_ids":["b","c"]"#, vec!["b", "c"]),
    ] {
        let json = format!(r#"{{"name":"cali1","ipv4_nets":["10.1.0.1/32"],{fields}}}"#);
        assert_eq!(endpoint(&json).profiles, names(&expected), "{fields}");
    }
}

#[test]
fn an_endpoint_without_addresses_is_none() {
    let none = Update::deleted(super::id_of(KEY).unwrap());
    assert_eq!(accepted(KEY, r#"{"state":"active","name":"cali1","ipv4_nets":[]}"#), none);
}

#[test]
fn nat_of_both_families() {
    let endpoint = endpoint(
        r#"{"name":"cali1","ipv4_nets":["10.1.0.1/32"],"ipv6_nets":["fd80::1/128"],
            "ipv4_nat":[{"int_ip":"10.1.0.1","ext_ip":"172.18.19.3"}],
            "ipv6_nat":[{"int_ip":"fd80::1","ext_ip":"fd81::1"}]}"#,
    );
    let nat: Vec<_> = endpoint.nat.iter().map(|(a, b)| format!("{a} {b}")).collect();
    assert_eq!(nat, ["10.1.0.1 172.18.19.3", "fd80::1 fd81::1"]);
}

#[test]
fn what_is_wrong_with_an_endpoint_is_named() {
    for (fields, reason) in [
        (r#""name":"""#, "name: "),
        (r#""name":"sixteen-chars-xx""#, "name: "),
        (r#""name":7"#, "name: "),
        (r#""name":"cali1","mac":"x""#, "mac: "),
        (r#""name":"cali1","profile_ids":["a","b c"]"#, "profile_ids[1]: "),
        (r#""name":"cali1","profile_ids":["projectcalico-default-allow"]"#, "profile_ids[0]: "),
        (r#""name":"cali1","profile_id":"é""#, "profile_id: "),
        (r#""name":"cali1","ipv6_nets":["fd80::/129"]"#, "ipv6_nets[0]: "),
        (r#""name":"cali1","ipv6_nets":["10.0.0.1"]"#, "ipv6_nets[0]: "),
        (r#""name":"cali1","ipv4_nat":[{"int_ip":"10.1.0.1"}]"#, "ipv4_nat[0].ext_ip: "),
        (
            r#""name":"cali1","ipv4_nat":[{"int_ip":"10.1.0.2","ext_ip":"1.1.1.1"}]"#,
            "ipv4_nat[0].int_ip: ",
        ),
        (r#""name":"cali1","labels":["a"]"#, "labels: "),
        (
            r#""name":"cali1","ports":[{"name":"a","protocol":"icmp","port":1}]"#,
            "ports[0].protocol",
        ),
    ] {
        let said = rejected(KEY, &format!(r#"{{"ipv4_nets":["10.1.0.1/32"],{fields}}}"#));
        assert!(said.starts_with(reason), "{fields}: {said}");
    }
}

#[test]
fn a_host_endpoint_by_name_or_by_address() {
    let named =
        host(r#"{"name":"eth0","labels":{"kind":"bare-metal"},"profile_ids":["hostprof"]}"#);
    assert_eq!((named.node.as_str(), named.interface.clone()), ("h", Some(Name::from("eth0"))));
    assert_eq!(named.profiles, names(&["hostprof"]));
    let by_address =
        host(r#"{"expected_ipv4_addrs":["172.18.18.102"],"expected_ipv6_addrs":["fd00::1"]}"#);
    assert_eq!((by_address.interface.clone(), by_address.expected_addresses.len()), (None, 2));
    // Every interface of a host: only v3 knows that.
    assert!(rejected(HOST, r#"{"name":"*"}"#).starts_with("name: "));
    assert!(rejected(HOST, "{}").starts_with("name: "));
    assert!(
        rejected(HOST, r#"{"expected_ipv4_addrs":["x"]}"#).starts_with("expected_ipv4_addrs[0]: ")
    );
    // What is no address opens nothing that the name or another address closes.
    for rest in [r#""name":"eth0""#, r#""expected_ipv6_addrs":["fd00::1","y"]"#] {
        let kept = host(&format!(r#"{{"expected_ipv4_addrs":["10.0.0.1/24"],{rest}}}"#));
        let left_out = kept.left_out.clone().unwrap_or_default();
        assert!(left_out.starts_with("expected_ipv4_addrs[0]: "), "{left_out}");
        assert_eq!(left_out.ends_with("; and 1 more"), rest.contains('y'), "{left_out}");
    }
    assert_eq!(by_address.left_out, None);
}
