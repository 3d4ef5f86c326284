use std::collections::BTreeMap;

use super::*;
use crate::drift::Change;
use crate::felix::tally::{Counts, EndpointCounters, Traffic};
use crate::reconcile::Problem;
use crate::routes::bird::{BgpSession, PeerType};
use crate::status::document::{
    CollectorStatus, DatastoreStatus, EndpointStatus, ExternalAddressStatus, ForwardedPortStatus,
    HangingLoop, HostEndpointStatus, Instead, PartStatus, RejectedKey, RepairStatus,
    SuspectedStatus,
};

fn problem(subject: &str, message: &str) -> Problem {
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}

fn texts<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(str::to_owned).to_vec()
}

fn endpoint(workload: &str, interface: &str, state: EndpointState) -> EndpointStatus {
    EndpointStatus {
        endpoint: format!("cni/default/{workload}/eth0"),
        interface: interface.to_owned(),
        addresses: texts(["192.168.0.1/32", "fd80::1/128"]),
        external_addresses: Vec::new(),
        class: "0123456789ab".to_owned(),
        policies: texts(["default/default.frontend"]),
        profiles: texts(["frontend"]),
        state,
        counters: None,
    }
}

fn document() -> StatusDocument {
    let part = |name: &str, applied, facts: &[(&str, &str)]| PartStatus {
        name: name.to_owned(),
        applied,
        problems: Vec::new(),
        facts: facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        repairs_total: 0,
        repairs: Vec::new(),
    };
    StatusDocument {
        node: "calico-01".to_owned(),
        version: "1.2.3".to_owned(),
        pid: 42,
        uptime_seconds: 100_000,
        state: Overall::Ready,
        hanging: Vec::new(),
        datastore: DatastoreStatus {
            in_sync: true,
            revision: 77,
            registration: "registered with 172.18.18.101".to_owned(),
            policy_order: "in the order of Calico 3.29 to 3.31 (ClusterInformation says v3.29.0)"
                .to_owned(),
            ..DatastoreStatus::default()
        },
        stored: None,
        collector: Some(CollectorStatus { rkt_pods: Some(2), ..CollectorStatus::default() }),
        generation: 5,
        parts: vec![
            part("felix", Some(5), &[("dataplane", "iptables-nft: in use already")]),
            part("routes", Some(5), &[("routes", "7")]),
            part("bird", Some(5), &[]),
        ],
        endpoints: vec![endpoint("a", "cali1", EndpointState::Up)],
        counters_error: None,
        host_endpoints: vec![],
        forwarded_ports: Vec::new(),
        forwarded_ports_error: None,
        counts: BTreeMap::new(),
        notices: Vec::new(),
        bgp: vec![BgpSession {
            name: "Mesh_172_18_18_102".to_owned(),
            peer_type: PeerType::Mesh,
            address: [172, 18, 18, 102].into(),
            as_number: Some(64513),
            state: "up".to_owned(),
            since: "10:11:12".to_owned(),
            info: "Established".to_owned(),
        }],
        bgp_error: None,
    }
}

#[test]
fn a_host_that_is_well() {
    insta::assert_snapshot!(render(&document()));
}

#[test]
fn packets_of_endpoints_are_told() {
    let counts = |packets, bytes| Counts { packets, bytes };
    let mut status = document();
    status.endpoints.push(endpoint("b", "cali2", EndpointState::Up));
    // Only that of the second is known.
    status.endpoints[1].counters = Some(EndpointCounters {
        ingress: Traffic { allowed: counts(12_345, 18_000_000), denied: counts(3, 180) },
        egress: Traffic { allowed: counts(1, 1024), denied: counts(0, 0) },
    });
    insta::assert_snapshot!(render(&status));
    status.counters_error = Some("cannot read the address sets: broken".to_owned());
    let text = render(&status);
    assert!(text.contains("\npackets     cannot read the address sets: broken\n"), "{text}");
    assert!(!text.contains("PACKETS OF"), "{text}");
}

#[test]
fn ports_that_lead_to_pods_are_explained() {
    let mut status = document();
    let denied = ForwardedPortStatus {
        protocol: "tcp".to_owned(),
        port: 8080,
        host_address: None,
        endpoint: "cni/default/a/eth0".to_owned(),
        address: [192, 168, 0, 1].into(),
        endpoint_port: 80,
        by: "rkt".to_owned(),
        from_outside: false,
        reason: "no policy and no profile allows it".to_owned(),
        also_from: texts(["10.0.0.0/8"]),
    };
    let allowed = ForwardedPortStatus {
        port: 53,
        protocol: "udp".to_owned(),
        host_address: Some("172.18.18.101/32".to_owned()),
        from_outside: true,
        reason: "policy dns of tier default, ingress[0]".to_owned(),
        also_from: Vec::new(),
        ..denied.clone()
    };
    status.forwarded_ports = vec![denied, allowed];
    insta::assert_snapshot!(render(&status));
    status.forwarded_ports_error = Some("iptables-nft-save exit status: 1: broken".to_owned());
    let text = render(&status);
    assert!(text.contains("forwarded   iptables-nft-save exit status: 1: broken\n"), "{text}");
}

#[test]
fn a_host_in_trouble() {
    let mut status = document();
    status.state = Overall::Degraded;
    status.hanging = vec![HangingLoop { name: "bird".to_owned(), seconds: 31 }];
    status.datastore.waiting = Some("etcd: no member answers".to_owned());
    status.datastore.rejected = [Instead::Absent, Instead::LastVersion, Instead::AsTheReasonSays]
        .map(|instead| RejectedKey {
            key: "/k".to_owned(),
            reason: "spec.order: not a number".to_owned(),
            instead,
        })
        .to_vec();
    status.datastore.unsupported =
        BTreeMap::from([("bgppeers".to_owned(), 2), ("stagednetworkpolicies".to_owned(), 1)]);
    status.parts[0].applied = None;
    status.parts[0].problems = vec![problem("iptables", "the kernel refused a rule")];
    status.parts[0].repairs_total = 3;
    status.parts[0].repairs = vec![RepairStatus {
        subject: "IPv4 filter chain cali-FORWARD".to_owned(),
        change: Change::Modified,
        detail: "rule 2".to_owned(),
        count: 3,
        last: "2026-11-21T03:00:00Z".to_owned(),
    }];
    // The newest first, although it is of a later part.
    status.parts[1].repairs = vec![RepairStatus {
        subject: "route 192.168.0.1/32".to_owned(),
        change: Change::Missing,
        detail: String::new(),
        count: 1,
        last: "2026-11-21T04:00:00Z".to_owned(),
    }];
    status.parts[1].applied = Some(4);
    status.collector = Some(CollectorStatus {
        rkt_pods: None,
        suspected: vec![SuspectedStatus {
            subject: "cni/default/d/eth0".to_owned(),
            reason: "its ADD was killed".to_owned(),
            seconds: 61,
        }],
        collected: 3,
    });
    status.endpoints.push(EndpointStatus {
        policies: Vec::new(),
        profiles: Vec::new(),
        ..endpoint("b", "cali22222222222", EndpointState::Down("no interface".to_owned()))
    });
    status.endpoints.push(endpoint("c", "cali3", EndpointState::Error("refused".to_owned())));
    status.notices = vec![problem("IPPool overlay", "IPIP is not supported yet")];
    status.bgp.clear();
    status.bgp_error = Some("BIRD does not answer".to_owned());
    insta::assert_snapshot!(render(&status));
}

#[test]
fn a_host_that_begins() {
    let mut status = document();
    status.state = Overall::Starting;
    status.datastore = DatastoreStatus {
        registration: "not registered yet".to_owned(),
        ..DatastoreStatus::default()
    };
    status.generation = 0;
    status.collector = None;
    for part in &mut status.parts {
        part.applied = None;
    }
    status.endpoints.clear();
    status.bgp.clear();
    status.uptime_seconds = 61;
    insta::assert_snapshot!(render(&status));
}

#[test]
fn durations_are_read_at_a_glance() {
    let shown = [0, 59, 60, 3599, 3600, 86_399, 86_400, 100_000].map(duration);
    let expected =
        ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "23 h 59 min", "1 d 0 h", "1 d 3 h"];
    assert_eq!(shown, expected);
}

#[test]
fn external_addresses_stand_beside_the_own() {
    let mut status = document();
    let leads_to = "192.168.0.1".parse().unwrap();
    assert!(!render(&status).contains("external"));
    status.endpoints[0].external_addresses = ["203.0.113.7", "203.0.113.8"]
        .map(|one| ExternalAddressStatus { address: one.parse().unwrap(), leads_to })
        .to_vec();
    let text = render(&status);
    let said = " 192.168.0.1/32 fd80::1/128 (external 203.0.113.7 203.0.113.8)  up ";
    assert_eq!(text.matches(said).count(), 1, "{text}");
}

#[test]
fn host_endpoints_are_shown_where_there_are_any() {
    let mut status = document();
    assert!(!render(&status).contains("HOST ENDPOINT"));
    let one = HostEndpointStatus {
        endpoint: "calico-01-eth0".to_owned(),
        about: "eth0".to_owned(),
        interfaces: texts(["eth0"]).to_vec(),
        policies: texts(["default/web"]),
        profiles: texts(["hostprof"]),
        state: EndpointState::Up,
    };
    let other = HostEndpointStatus {
        endpoint: "z".to_owned(),
        interfaces: vec![],
        policies: vec![],
        profiles: vec![],
        state: EndpointState::Error("interface eth0 has HostEndpoint calico-01-eth0".to_owned()),
        ..one.clone()
    };
    status.host_endpoints = vec![one, other];
    let text = render(&status);
    let shown: Vec<&str> =
        text.lines().skip_while(|line| !line.starts_with("HOST ENDPOINT")).take(3).collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    HOST ENDPOINT   ABOUT  INTERFACES  STATE  POLICY
    calico-01-eth0  eth0   eth0        up     default/web, profile hostprof
    z               eth0               error  (drop all)                     interface eth0 has HostEndpoint calico-01-eth0
    ");
}
