//! Host endpoints: what is asked of them, and in which order.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{InterfaceName, Name};

use super::answers::{ask, question, text};
use super::world::{MANIFESTS, running, whole};
use crate::explain::document::{Explanation, Outcome, SideAnswer};
use crate::explain::{Interfaces, Question, World, explain};
use crate::routes::monitor::{Link, Links};

const HOSTS: &str = include_str!("hosts.yaml");

pub(super) fn manifests() -> String {
    format!("{MANIFESTS}{HOSTS}")
}

/// Both hosts, as they are calculated where nothing is known of their interfaces.
fn both() -> World {
    whole(&manifests())
}

/// Each side that was asked: whose (the name alone), where, and the verdict.
pub(super) fn sides(explanation: &Explanation) -> Vec<String> {
    let all = explanation.answers.iter().flat_map(|answer| &answer.sides);
    let words = |side: &SideAnswer| {
        let whose = side.endpoint.strip_prefix("HostEndpoint ").unwrap_or("pod");
        let at = side.hook.as_deref().map(|hook| format!(" {hook}")).unwrap_or_default();
        let verdict = match side.allowed {
            Some(true) => '+',
            Some(false) => '-',
            None => '?',
        };
        format!("{whose}{at}{verdict}")
    };
    all.map(words).collect()
}

#[test]
fn each_hook_is_asked_in_its_order() {
    let both = both();
    for (asked, outcome, expected) in [
        // To the host itself.
        (
            "172.18.18.7 calico-01 tcp 8080",
            Outcome::Allowed,
            "first-eth0 doNotTrack+, first-eth0 preDNAT+, first-eth0 host+",
        ),
        (
            "172.18.18.7 calico-01 tcp 81",
            Outcome::Denied,
            "first-eth0 doNotTrack+, first-eth0 preDNAT+, first-eth0 host-",
        ),
        ("172.18.18.7 calico-02 udp 5353", Outcome::Allowed, "second-all doNotTrack+"),
        (
            "203.0.113.7 calico-02 tcp 8080",
            Outcome::Denied,
            "second-all doNotTrack+, second-all preDNAT-",
        ),
        // A fail-safe port, whoever asks.
        (
            "203.0.113.7 calico-02 tcp 22",
            Outcome::Allowed,
            "second-all doNotTrack+, second-all preDNAT+, second-all host+",
        ),
        // From it.
        (
            "calico-01 198.51.100.7 tcp 80",
            Outcome::Allowed,
            "first-eth0 doNotTrack+, first-eth0 host+",
        ),
        (
            "calico-01 198.51.100.7 udp 80",
            Outcome::Denied,
            "first-eth0 doNotTrack+, first-eth0 host-",
        ),
        ("calico-01 198.51.100.7 udp 5353", Outcome::Denied, "first-eth0 doNotTrack-"),
        (
            "calico-01 198.51.100.7 udp 53",
            Outcome::Allowed,
            "first-eth0 doNotTrack+, first-eth0 host+",
        ),
        // From one host to the other.
        (
            "172.18.18.101 calico-02 tcp 8080",
            Outcome::Allowed,
            "first-eth0 doNotTrack+, first-eth0 host+, second-all doNotTrack+, second-all preDNAT+, \
             second-all host+",
        ),
        // Through a host: no port is fail-safe, and no profile is asked.
        (
            "172.18.18.7 192.168.0.1 tcp 22",
            Outcome::Denied,
            "first-eth0 doNotTrack+, first-eth0 preDNAT+, first-eth0 applyOnForward-, pod-",
        ),
        (
            "c89f2f35 192.168.0.65 tcp 8080",
            Outcome::Allowed,
            "pod+, first-eth0 applyOnForward+, second-all doNotTrack+, second-all preDNAT+, \
             second-all applyOnForward+, pod+",
        ),
        (
            "c89f2f35 192.168.0.65 udp 5353",
            Outcome::Denied,
            "pod+, first-eth0 applyOnForward+, second-all doNotTrack+, pod-",
        ),
        // What stays on one host passes none of its interfaces.
        ("192.168.0.0 192.168.0.1 tcp 8080", Outcome::Allowed, "pod+, pod+"),
        ("192.168.0.0 172.18.18.101 tcp 81", Outcome::Allowed, "pod+"),
        ("172.18.18.101 192.168.0.0 tcp 81", Outcome::Allowed, "pod+"),
    ] {
        let said = ask(&both, asked);
        assert_eq!(
            (sides(&said).join(", "), said.outcome()),
            (expected.to_owned(), outcome),
            "{asked}"
        );
    }
}

#[test]
fn what_decided_is_said() {
    let both = both();
    for (asked, because) in [
        (
            "172.18.18.7 calico-01 tcp 8080",
            "ingress of HostEndpoint first-eth0: policy default.edge of tier default, ingress[0]",
        ),
        (
            "172.18.18.7 calico-01 tcp 81",
            "ingress of HostEndpoint first-eth0: no policy of tier default allows it",
        ),
        (
            "203.0.113.7 calico-02 tcp 80",
            "ingress of HostEndpoint second-all: policy default.early of tier default, ingress[0]",
        ),
        (
            "203.0.113.7 calico-02 tcp 22",
            "ingress of HostEndpoint second-all: it is a fail-safe port",
        ),
        (
            "172.18.18.7 calico-02 udp 5353",
            "ingress of HostEndpoint second-all: policy default.fast of tier default, ingress[0]",
        ),
        (
            "calico-01 198.51.100.7 tcp 80",
            "egress of HostEndpoint first-eth0: profile trusted, egress[0]",
        ),
        (
            "calico-01 198.51.100.7 udp 80",
            "egress of HostEndpoint first-eth0: no policy and no profile allows it",
        ),
    ] {
        assert_eq!(ask(&both, asked).answers[0].because, because, "{asked}");
    }
    let untracked = "a policy with doNotTrack allows it";
    let noted =
        |asked: &str| ask(&both, asked).notes.iter().any(|note| note.starts_with(untracked));
    assert!(noted("172.18.18.7 calico-02 udp 5353"));
    assert!(!noted("172.18.18.7 calico-01 tcp 8080"));
    insta::assert_snapshot!(text(&both, "203.0.113.7 0b61d5d2 tcp 8080"));
    insta::assert_snapshot!(text(&both, "c89f2f35 192.168.0.65 tcp 8080"));
}

#[test]
fn what_others_see_of_a_pod_may_be_its_host() {
    // Without masquerade the pod's own address is allowed; with it the host's has to be.
    let narrow =
        manifests().replace("nets: [172.18.18.0/24, 192.168.0.0/16]", "nets: [192.168.0.0/16]");
    let asked = "c89f2f35 calico-02 tcp 8080";
    assert_eq!(ask(&whole(&narrow), asked).outcome(), Outcome::Allowed);
    let masked = narrow.replace("cidr: 192.168.0.0/16", "cidr: 192.168.0.0/16, natOutgoing: true");
    let said = ask(&whole(&masked), asked);
    assert_eq!(said.outcome(), Outcome::Denied);
    let all = said.answers.iter().flat_map(|answer| &answer.sides).flat_map(|side| &side.tiers);
    let rules = all.flat_map(|tier| &tier.policies).flat_map(|policy| &policy.rules);
    let why: Vec<_> = rules.filter_map(|rule| rule.why_not.as_deref()).collect();
    assert!(why.contains(&"source 172.18.18.101 is not in 192.168.0.0/16"), "{why:?}");
    // Between pods nothing is translated.
    assert_eq!(ask(&whole(&masked), "c89f2f35 192.168.0.65 tcp 8080").outcome(), Outcome::Allowed);
}

/// The question by one of the host's interfaces.
fn by(asked: &str, interface: &str) -> Question {
    Question { interface: Some(interface.to_owned()), ..question(asked) }
}

#[test]
fn the_interface_that_is_said_goes_before_all() {
    let both = both();
    let said =
        |asked: &str, interface: &str| sides(&explain(&by(asked, interface), &both).unwrap());
    let asked = "172.18.18.7 calico-01 tcp 8080";
    assert_eq!(said(asked, "eth1"), ["first-eth1 host-"]);
    assert_eq!(said(asked, "calico-01=eth1,eth0"), ["first-eth1 host-"]);
    assert_eq!(said(asked, "calico-02=eth1"), sides(&ask(&both, asked)));
    assert_eq!(said(asked, "eth7"), [""; 0]);
    assert_eq!(said("172.18.18.7 calico-02 tcp 8080", "eth7").len(), 3);
    assert_eq!(said("172.18.18.7 calico-02 tcp 8080", "lo"), [""; 0]);
    let wrong = explain(&by(asked, "a/b"), &both).unwrap_err();
    assert_eq!(wrong.to_string(), "no interface can have the name \"a/b\"");
}

#[test]
fn an_interface_that_nobody_knows_is_not_guessed() {
    let asked = "172.18.18.7 calico-01 tcp 8080";
    let unknown = whole(&manifests().replace(", expectedIPs: [172.18.18.101, \"fd00::101\"]", ""));
    let said = ask(&unknown, asked);
    assert_eq!(said.outcome(), Outcome::Unknown);
    assert_eq!(
        said.answers[0].because,
        "ingress: by which interface it passes is not known here, say it with --interface \
         (first-eth0 on eth0, first-eth1 on eth1)"
    );
    // One that names no interface and expects the node's address.
    let expecting = manifests().replace("interfaceName: eth0, ", "");
    assert_eq!(sides(&ask(&whole(&expecting), asked)).len(), 3);
    // None, where there is no host endpoint at all.
    assert_eq!(ask(&whole(MANIFESTS), asked).outcome(), Outcome::Unpoliced);
}

/// The first host, whose interfaces are known.
fn known(towards: &[(&str, &str)]) -> World {
    let mut world = running(&manifests());
    let name = |text: &str| text.parse::<InterfaceName>().unwrap();
    let link = |addresses: &[&str]| Link {
        up: true,
        addresses: addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
        ..Link::default()
    };
    let links: Links = [
        (name("lo"), link(&["127.0.0.1"])),
        (name("eth0"), link(&["172.18.18.101", "fd00::101"])),
        (name("eth1"), link(&["10.0.0.1"])),
        (name("eth2"), link(&["10.1.0.1"])),
    ]
    .into_iter()
    .collect();
    let towards: BTreeMap<_, _> =
        towards.iter().map(|(ip, via)| (ip.parse().unwrap(), name(via))).collect();
    let place = world.places.get_mut(&Name::from("calico-01")).unwrap();
    place.interfaces = Interfaces { links: Some(links), towards };
    world
}

#[test]
fn where_interfaces_are_known_the_route_to_the_other_end_decides() {
    let world = known(&[("172.18.18.7", "eth0"), ("10.0.0.7", "eth1"), ("10.1.0.7", "eth2")]);
    for (asked, expected) in [
        (
            "172.18.18.7 host tcp 22",
            "first-eth0 doNotTrack+, first-eth0 preDNAT+, first-eth0 host+",
        ),
        ("10.0.0.7 host tcp 80", "first-eth1 host-"),
        ("host 10.0.0.7 tcp 80", "first-eth1 host-"),
        ("10.1.0.7 host tcp 80", ""),
        ("10.0.0.7 192.168.0.1 tcp 8080", "first-eth1 applyOnForward+, pod-"),
    ] {
        assert_eq!(sides(&ask(&world, asked)).join(", "), expected, "{asked}");
    }
}

#[test]
fn a_network_is_cut_where_host_endpoints_cut_it() {
    let said = ask(&both(), "203.0.0.0/16 calico-02 tcp 8443");
    let told: Vec<_> = said
        .answers
        .iter()
        .map(|answer| (answer.from.networks.join(","), answer.because.clone()))
        .collect();
    let because = |reason: &str| format!("ingress of HostEndpoint second-all: {reason}");
    assert_eq!(
        told,
        [
            ("203.0.0.0/16".to_owned(), because("no policy of tier default allows it")),
            (
                "203.0.113.0/24".to_owned(),
                because("policy default.early of tier default, ingress[0]")
            ),
        ]
    );
}

/// The page shows what the command says.
#[test]
fn the_example_of_the_page_is_what_is_said() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/explain.md");
    let page = std::fs::read_to_string(page).unwrap();
    let said = text(&both(), "203.0.113.7 calico-01 tcp 8080");
    assert!(page.contains(&format!("```text\n{said}```\n")), "now it is:\n{said}");
}
