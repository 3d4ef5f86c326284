//! The way of a packet through a host with host endpoints, from tables written by hand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Name, Protocol, Update, WorkloadEndpointId};
use calico_reference::{
    Direction, Failsafe, Hook, Host, Interface, Known, Packet, Passage, Place, Reason, Reference,
    Subject, Walk,
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
    follow(objects, from, to, ports, Known::New, None)
}

fn follow(
    objects: &[Update],
    from: &str,
    to: &str,
    ports: (u16, u16),
    known: Known,
    translated: Option<&str>,
) -> Walk {
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
    let translated = translated.map(|address| address.parse().unwrap());
    let passage = Passage { from: place(from), to: place(to), known, packet, translated };
    Reference::new(&all).follow(&host(), &passage)
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
                Reason::Answered => "=",
                Reason::Invalid => "?",
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

/// A policy with the same rules each way, or the way in only where it is asked before translation.
fn with_rules(more: &str, rules: &str) -> Update {
    let egress = if more.contains("preDNAT") { "[]" } else { rules };
    let types = if more.contains("preDNAT") { r#""Ingress""# } else { r#""Ingress","Egress""# };
    let spec = format!(
        r#"{{"applyOnForward":true,{more}"types":[{types}],"selector":"at == 'edge'",
        "ingress":{rules},"egress":{egress}}}"#
    );
    policy("a", &spec)
}

#[test]
fn what_is_known_of_a_connection_counts_behind_raw() {
    let of = |known: Known, objects: &[Update], from: &str, to: &str, ports: (u16, u16)| {
        short(&follow(objects, from, to, ports, known, None))
    };
    let deny = |more: &str| {
        let rules = r#"[{"action":"Deny","protocol":"TCP","destination":{"ports":[80]}},
            {"action":"Allow","protocol":"TCP","destination":{"ports":[90]}}]"#;
        with_rules(more, rules)
    };
    // Nothing is asked of an answer, and nothing of what belongs to nothing is asked further.
    assert_eq!(
        of(Known::Answered, &[], "eth0", "host", (80, 5)),
        "yes Untracked<~ PreDnat<~ Normal<="
    );
    assert_eq!(
        of(Known::Nothing, &[], "eth0", "host", (5, 22)),
        "no Untracked<! PreDnat<! Normal<?"
    );
    assert_eq!(
        of(Known::Answered, &[deny("")], "eth0", "pod", (5, 80)),
        "yes Untracked<~ PreDnat<~ Forward<= pod<="
    );
    assert_eq!(
        of(Known::Nothing, &[deny("")], "eth0", "eth1", (5, 90)),
        "no Untracked<~ PreDnat<~ Forward<?"
    );
    assert_eq!(
        of(Known::Nothing, &[], "eth0", "eth1", (5, 90)),
        "yes Untracked<~ PreDnat<~ Forward<~"
    );
    assert_eq!(of(Known::Nothing, &[], "pod", "eth0", (5, 90)), "no pod>?");
    assert_eq!(of(Known::Answered, &[], "pod", "eth0", (5, 90)), "yes pod>= Forward>~");
    // Before translation the same: what is allowed there no later hook asks.
    let early = [deny(r#""preDNAT":true,"#)];
    assert_eq!(
        of(Known::Answered, &early, "eth0", "host", (5, 80)),
        "yes Untracked<~ PreDnat<= Normal<="
    );
    assert_eq!(of(Known::Nothing, &early, "eth0", "host", (5, 90)), "no Untracked<~ PreDnat<?");
    // In raw nothing is known yet, and of what is allowed there nothing ever is.
    let raw = [deny(r#""doNotTrack":true,"#)];
    assert_eq!(of(Known::Answered, &raw, "eth0", "host", (5, 80)), "no Untracked<-");
    assert_eq!(of(Known::Nothing, &raw, "eth0", "host", (5, 90)), "yes Untracked<+ untracked");
    assert_eq!(of(Known::Answered, &raw, "host", "eth0", (5, 80)), "no Untracked>-");
    assert_eq!(
        of(Known::Answered, &raw, "eth0", "pod", (5, 90)),
        "yes Untracked<+ pod<+ untracked"
    );
}

#[test]
fn a_translated_destination_is_what_later_hooks_see() {
    let rule = |net: &str| format!(r#"[{{"action":"Allow","destination":{{"nets":["{net}"]}}}}]"#);
    let about = |more: &str, net: &str| [with_rules(more, &rule(net))];
    let to = |objects: &[Update], from: &str, to: &str, address: &str| {
        short(&follow(objects, from, to, (5, 80), Known::New, Some(address)))
    };
    let (before, after) = ("198.51.100.2/32", "192.0.2.9/32");
    for (net, hooks) in [
        (before, ["PreDnat<+", "Untracked<~ PreDnat<~ Forward<-"]),
        (after, ["PreDnat<~ Forward<~", "Untracked<~ PreDnat<~ Forward<+"]),
    ] {
        let early = to(&about(r#""preDNAT":true,"#, net), "eth0", "eth1", "192.0.2.9");
        assert_eq!(early, format!("yes Untracked<~ {}", hooks[0]));
        let late = to(&about("", net), "eth0", "eth1", "192.0.2.9");
        assert!(late.ends_with(hooks[1]), "{late}");
        let out = to(&about("", net), "host", "eth0", "192.0.2.9");
        let sign =
            if net == after { "yes Untracked>~ Normal>+" } else { "no Untracked>~ Normal>-" };
        assert_eq!(out, sign);
    }
}
