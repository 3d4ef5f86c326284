//! The way of a packet through a host with host endpoints, from tables written by hand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Name, Protocol, Update, WorkloadEndpointId};
use calico_reference::{
    Direction, Failsafe, Hook, Host, Interface, Packet, Place, Reason, Reference, Subject, Walk,
};

fn object(path: &str, spec: &str) -> Update {
    let key = format!("/calico/resources/v3/projectcalico.org/{path}");
    let value = format!(r#"{{"metadata":{{"labels":{{"at":"edge"}}}},"spec":{spec}}}"#);
    match v3::decode(&key, value.as_bytes()) {
        Decoded::Object(update) => update,
        other => panic!("{path}: {other:?}"),
    }
}

fn policy(name: &str, spec: &str) -> Update {
    object(&format!("globalnetworkpolicies/{name}"), spec)
}

const HOST: &str = r#"{"node":"n","interfaceName":"eth0","expectedIPs":["172.18.0.1"]}"#;
const POD: &str = r#"{"interfaceName":"cali1","ipNetworks":["10.0.0.1/32"],
    "profiles":["projectcalico-default-allow"]}"#;

fn host() -> Host {
    let interface = |name: &str, address: &str| Interface {
        name: name.parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
    };
    let failsafe = |port| vec![Failsafe { protocol: Protocol::TCP, port, net: None }];
    Host {
        node: Name::from("n"),
        interfaces: vec![interface("eth0", "172.18.0.1"), interface("eth1", "172.19.0.1")],
        failsafe_in: failsafe(22),
        failsafe_out: failsafe(2379),
    }
}

fn pod() -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: Name::from("n"),
        orchestrator: Name::from("cni"),
        workload: Name::from("default/p"),
        endpoint: Name::from("eth0"),
    }
}

/// Where a packet is: `host`, `pod`, or the name of an interface.
fn place(text: &str) -> Place {
    match text {
        "host" => Place::Local,
        "pod" => Place::Workload(pod()),
        name => Place::Interface(name.parse().unwrap()),
    }
}

fn walk(objects: &[Update], from: &str, to: &str, ports: (u16, u16)) -> Walk {
    let mut all = vec![
        object("hostendpoints/h", HOST),
        object("workloadendpoints/default/n-cni-p-eth0", POD),
    ];
    all.extend_from_slice(objects);
    let address = |text: &str, outside: &str| match text {
        "host" => "172.18.0.1".parse().unwrap(),
        "pod" => "10.0.0.1".parse().unwrap(),
        _ => outside.parse().unwrap(),
    };
    let (source, destination) = (address(from, "198.51.100.1"), address(to, "198.51.100.2"));
    let packet = Packet::tcp(source, ports.0, destination, ports.1);
    Reference::new(&all).walk(&host(), &place(from), &place(to), &packet)
}

/// Whether it arrives, and what was asked: `hook` or `pod`, with `<` for ingress and `>` for egress.
fn short(walk: &Walk) -> String {
    let steps: Vec<String> = walk
        .steps
        .iter()
        .map(|step| {
            let who = match (&step.subject, step.hook) {
                (Subject::Workload(_), _) => "pod".to_owned(),
                (Subject::Host(_), Some(hook)) => format!("{hook:?}"),
                (Subject::Host(_), None) => panic!("a host endpoint without a hook"),
            };
            let way = if step.direction == Direction::Ingress { "<" } else { ">" };
            let why = match &step.verdict.reason {
                Reason::Failsafe => "!",
                Reason::NotAsked => "~",
                _ if step.verdict.allowed => "+",
                _ => "-",
            };
            format!("{who}{way}{why}")
        })
        .collect();
    let untracked = if walk.untracked { " untracked" } else { "" };
    format!("{} {}{untracked}", if walk.allowed { "yes" } else { "no" }, steps.join(" "))
}

#[track_caller]
fn expect(objects: &[Update], from: &str, to: &str, ports: (u16, u16), expected: &str) {
    assert_eq!(short(&walk(objects, from, to, ports)), expected, "{from} to {to}");
}

#[test]
fn without_policy_only_failsafe_ports_reach_the_host() {
    expect(&[], "eth0", "host", (5, 80), "no Untracked<~ PreDnat<~ Normal<-");
    expect(&[], "eth0", "host", (5, 22), "yes Untracked<! PreDnat<! Normal<!");
    expect(&[], "host", "eth0", (5, 80), "no Untracked>~ Normal>-");
    expect(&[], "host", "eth0", (5, 2379), "yes Untracked>! Normal>!");
    // In raw nothing knows an answer: those of the other direction's ports pass there, and there
    // only.
    expect(&[], "eth0", "host", (2379, 5), "no Untracked<! PreDnat<~ Normal<-");
    // An interface without host endpoint is nobody's.
    expect(&[], "eth1", "host", (5, 80), "yes ");
    expect(&[], "host", "eth1", (5, 80), "yes ");
}

#[test]
fn what_is_forwarded_passes_without_policy() {
    expect(&[], "eth0", "eth1", (5, 80), "yes Untracked<~ PreDnat<~ Forward<~");
    expect(&[], "eth1", "eth0", (5, 80), "yes Forward>~");
    expect(&[], "eth0", "pod", (5, 80), "yes Untracked<~ PreDnat<~ Forward<~ pod<+");
    expect(&[], "pod", "eth0", (5, 80), "yes pod>+ Forward>~");
    expect(&[], "pod", "host", (5, 80), "yes pod>+");
    // The host always reaches its pods.
    expect(&[], "host", "pod", (5, 80), "yes ");
}

#[test]
fn a_policy_is_asked_at_its_own_hook() {
    let allow = r#""selector":"at == 'edge'","types":["Ingress","Egress"],
        "ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}],
        "egress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}]"#;
    let normal = [policy("a", &format!("{{{allow}}}"))];
    expect(&normal, "eth0", "host", (5, 80), "yes Untracked<~ PreDnat<~ Normal<+");
    expect(&normal, "eth0", "host", (5, 81), "no Untracked<~ PreDnat<~ Normal<-");
    // It does not say that it is about what is forwarded.
    expect(&normal, "eth0", "eth1", (5, 81), "yes Untracked<~ PreDnat<~ Forward<~");
    let forward = [policy("a", &format!(r#"{{"applyOnForward":true,{allow}}}"#))];
    expect(&forward, "eth0", "eth1", (5, 80), "yes Untracked<~ PreDnat<~ Forward<+");
    expect(&forward, "eth0", "eth1", (5, 81), "no Untracked<~ PreDnat<~ Forward<-");
    expect(&forward, "eth1", "eth0", (5, 81), "no Forward>-");
    // Failsafe ports are the host's own.
    expect(&forward, "eth0", "eth1", (5, 22), "no Untracked<! PreDnat<! Forward<-");
    let untracked =
        [policy("a", &format!(r#"{{"doNotTrack":true,"applyOnForward":true,{allow}}}"#))];
    expect(&untracked, "eth0", "host", (5, 80), "yes Untracked<+ untracked");
    expect(&untracked, "eth0", "host", (5, 81), "no Untracked<~ PreDnat<~ Normal<-");
    expect(&untracked, "host", "eth0", (5, 80), "yes Untracked>+ untracked");
}

#[test]
fn what_mangle_allows_the_filter_does_not_ask_again() {
    let rules = |action: &str| {
        policy(
            "a",
            &format!(
                r#"{{"preDNAT":true,"applyOnForward":true,"selector":"at == 'edge'",
                "types":["Ingress"],"ingress":[{{"action":"{action}","protocol":"TCP",
                "destination":{{"ports":[80]}}}}]}}"#
            ),
        )
    };
    expect(&[rules("Allow")], "eth0", "host", (5, 80), "yes Untracked<~ PreDnat<+");
    expect(&[rules("Allow")], "eth0", "host", (5, 81), "no Untracked<~ PreDnat<~ Normal<-");
    expect(&[rules("Deny")], "eth0", "pod", (5, 80), "no Untracked<~ PreDnat<-");
    expect(&[rules("Deny")], "eth0", "pod", (5, 81), "yes Untracked<~ PreDnat<~ Forward<~ pod<+");
    // It is not about what leaves.
    expect(&[rules("Deny")], "host", "eth0", (5, 80), "no Untracked>~ Normal>-");
}

#[test]
fn a_name_goes_before_an_address_and_that_before_all() {
    let reference = Reference::new(&[
        object("hostendpoints/a-all", r#"{"node":"n","interfaceName":"*"}"#),
        object("hostendpoints/b-address", r#"{"node":"n","expectedIPs":["172.18.0.1"]}"#),
        object("hostendpoints/c-name", r#"{"node":"n","interfaceName":"eth0"}"#),
        object("hostendpoints/d-name", r#"{"node":"n","interfaceName":"eth0"}"#),
        object("hostendpoints/0-other", r#"{"node":"m","interfaceName":"eth0"}"#),
    ]);
    let of = |name: &str, address: &str| {
        let interface =
            Interface { name: name.parse().unwrap(), addresses: vec![address.parse().unwrap()] };
        let found = reference.host_endpoint_of(&Name::from("n"), &interface);
        found.map(|id| id.name.as_str().to_owned())
    };
    assert_eq!(of("eth0", "172.18.0.1").as_deref(), Some("c-name"));
    assert_eq!(of("eth1", "172.18.0.1").as_deref(), Some("b-address"));
    assert_eq!(of("eth1", "172.18.0.2").as_deref(), Some("a-all"));
    assert_eq!(of("lo", "127.0.0.1"), None);
    let nobody = Reference::new(&[]);
    let interface = Interface { name: "eth0".parse().unwrap(), addresses: Vec::new() };
    assert_eq!(nobody.host_endpoint_of(&Name::from("n"), &interface), None);
}

#[test]
fn a_hook_asks_failsafes_nowhere_else() {
    let reference = Reference::new(&[object("hostendpoints/h", HOST)]);
    let id = reference.hosts().next().unwrap().0.clone();
    let packet = Packet::tcp("198.51.100.1".parse().unwrap(), 5, "172.18.0.1".parse().unwrap(), 22);
    let verdict = reference.host(&id, Hook::Normal, Direction::Ingress, &packet).unwrap();
    assert_eq!((verdict.allowed, verdict.reason), (false, Reason::NothingAllows));
}
