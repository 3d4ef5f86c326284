//! Endpoints on interfaces that are none of pods: the host endpoint of such an interface is asked.

use calico_datastore::model::{InterfaceName, Name};

use super::answers::ask;
use super::hosts::{manifests, sides};
use super::world::{running, whole};
use crate::explain::document::Outcome;
use crate::explain::{Interfaces, World};
use crate::routes::monitor::{Link, Links};

/// Both pods of the second host are none, and `*` has their interfaces; of the first host one is none.
fn strays() -> String {
    let renamed = [("cali407208a5", "eth7"), ("cali0b61aaaa", "eth8"), ("cali0b61d5d2", "eth7")];
    let all = format!("{}{}", manifests(), include_str!("strays.yaml"));
    renamed.iter().fold(all, |text, (from, to)| {
        text.replace(&format!("interfaceName: {from}"), &format!("interfaceName: {to}"))
    })
}

fn check(world: &World, asked: &str, outcome: Outcome, expected: &str) {
    let said = ask(world, asked);
    let told = (sides(&said).join(", "), said.outcome());
    assert_eq!(told, (expected.to_owned(), outcome), "{asked}");
}

#[test]
fn the_host_endpoint_of_its_interface_is_asked() {
    let world = whole(&strays());
    let into = "second-all doNotTrack+, second-all preDNAT+, second-all";
    for (asked, outcome, expected) in [
        // From one to the other, on one host.
        (
            "192.168.0.64 192.168.0.65 tcp 9090",
            Outcome::Denied,
            format!("pod+, {into} applyOnForward-, pod+, second-all applyOnForward-"),
        ),
        (
            "192.168.0.64 192.168.0.65 tcp 8080",
            Outcome::Allowed,
            format!("pod+, {into} applyOnForward+, pod+, second-all applyOnForward+"),
        ),
        // What is allowed early is asked where it leaves.
        (
            "192.168.0.64 192.168.0.65 udp 5353",
            Outcome::Allowed,
            "pod+, second-all doNotTrack+, pod+, second-all applyOnForward+".to_owned(),
        ),
        // From the host itself, and to it.
        (
            "calico-02 192.168.0.64 tcp 81",
            Outcome::Allowed,
            "pod+, second-all doNotTrack+, second-all host+".to_owned(),
        ),
        (
            "calico-02 192.168.0.64 tcp 9090",
            Outcome::Denied,
            "pod+, second-all doNotTrack+, second-all host-".to_owned(),
        ),
        ("192.168.0.64 calico-02 tcp 81", Outcome::Denied, format!("pod+, {into} host-")),
        ("192.168.0.64 calico-02 tcp 22", Outcome::Allowed, format!("pod+, {into} host+")),
        // From another host, and to one.
        (
            "c89f2f35 192.168.0.64 tcp 8080",
            Outcome::Allowed,
            format!(
                "pod+, first-eth0 applyOnForward+, {into} applyOnForward+, pod+, second-all \
                 applyOnForward+"
            ),
        ),
        (
            "192.168.0.64 192.168.0.0 tcp 8443",
            Outcome::Denied,
            format!(
                "pod+, {into} applyOnForward+, second-all applyOnForward+, first-eth0 doNotTrack+, \
                 first-eth0 preDNAT+, first-eth0 applyOnForward+, pod-"
            ),
        ),
        // No host endpoint has this one.
        ("192.168.0.0 192.168.0.1 tcp 9090", Outcome::Allowed, "pod+, pod+".to_owned()),
    ] {
        check(&world, asked, outcome, &expected);
    }
    let denied = ask(&world, "calico-02 192.168.0.64 tcp 9090");
    let by = "egress of HostEndpoint second-all: policy default.closed of tier default, egress[0]";
    assert_eq!(denied.answers[0].because, by);
    for (asked, note) in [
        (
            "calico-02 192.168.0.64 tcp 81",
            "no policy of pods is asked; HostEndpoint second-all is on it",
        ),
        ("192.168.0.0 192.168.0.1 tcp 9090", "what passes there is not policed"),
    ] {
        let note = format!("interface eth7 does not begin with InterfacePrefix (cali): {note}");
        let notes = ask(&world, asked).notes;
        assert!(notes.iter().any(|one| one.ends_with(&note)), "{notes:?}");
    }
}

#[test]
fn a_host_endpoint_by_name_goes_before_that_of_all_and_none_has_what_is_excluded() {
    // The one of eth1 has no policy that is asked of what passes.
    let named = strays().replace("interfaceName: eth1", "interfaceName: eth7");
    let asked = "192.168.0.0 192.168.0.1 tcp 9090";
    check(&whole(&named), asked, Outcome::Allowed, "pod+, pod+, first-eth1 applyOnForward+");
    let action = "defaultEndpointToHostAction: Return";
    let excluded = strays().replace(action, &format!("{action}, interfaceExclude: eth7"));
    let asked = "192.168.0.65 192.168.0.64 tcp 9090";
    let expected =
        "pod+, second-all doNotTrack+, second-all preDNAT+, second-all applyOnForward-, pod+";
    check(&whole(&excluded), asked, Outcome::Denied, expected);
    let asked = "calico-02 192.168.0.64 tcp 9090";
    check(&whole(&excluded), asked, Outcome::Allowed, "pod+");
}

/// Only pods lose anything to who has their interface.
#[test]
fn one_of_two_on_an_interface_is_as_little_policed_as_the_other() {
    let both = strays().replace("interfaceName: eth8", "interfaceName: eth7");
    for asked in ["calico-02 407208a5 tcp 81", "calico-02 0b61aaaa tcp 81"] {
        let expected = "pod+, second-all doNotTrack+, second-all host+";
        check(&whole(&both), asked, Outcome::Allowed, expected);
    }
}

#[test]
fn which_one_it_is_is_not_guessed() {
    // It is about the interface that holds an address, and nobody knows which does.
    let waiting = strays().replace("interfaceName: \"*\"", "expectedIPs: [10.9.9.9]");
    let asked = "calico-02 192.168.0.64 tcp 9090";
    let said = ask(&whole(&waiting), asked);
    assert_eq!(said.outcome(), Outcome::Unknown);
    assert_eq!(
        said.answers[0].because,
        "egress: which host endpoint is asked at interface eth7 is not known here (second-all \
         where one of its addresses is)"
    );
    // Where the interfaces are known, it is none of this one.
    let name = |text: &str| text.parse::<InterfaceName>().unwrap();
    let up = || Link { up: true, ..Link::default() };
    let known = |text: &str, routed: &str| {
        let mut world = running(text);
        let links: Links = ["eth0", "eth7"].map(|one| (name(one), up())).into_iter().collect();
        let towards = [("192.168.0.1".parse().unwrap(), name(routed))].into();
        let place = world.places.get_mut(&Name::from("calico-01")).unwrap();
        place.interfaces = Interfaces { links: Some(links), towards };
        world
    };
    let waiting = strays().replace("interfaceName: eth1", "expectedIPs: [10.9.9.9]");
    let asked = "192.168.0.0 192.168.0.1 tcp 9090";
    check(&known(&waiting, "eth7"), asked, Outcome::Allowed, "pod+, pod+");
    assert_eq!(ask(&running(&waiting), asked).outcome(), Outcome::Unknown);
    // The host reaches it by another one, which has another host endpoint.
    let said = ask(&known(&strays(), "eth0"), asked);
    assert_eq!(said.outcome(), Outcome::Unknown);
    let why =
        "at interface eth7 is not known here: the host reaches the endpoint by eth0, as it seems";
    assert!(said.answers[0].because.contains(why), "{}", said.answers[0].because);
    let all = strays().replace("interfaceName: eth0", "interfaceName: \"*\"");
    let expected = "pod+, pod+, first-eth0 applyOnForward-";
    check(&known(&all, "eth0"), asked, Outcome::Denied, expected);
}
