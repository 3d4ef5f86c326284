//! External addresses: the pod behind one is asked, each side as its host sees the packet.

use super::world::{MANIFESTS, running, whole};
use crate::explain::document::{EndKind, Explanation, Outcome};
use crate::explain::render::render;
use crate::explain::{Question, World, explain};

/// The backend of the first host has an external address of each family. Frontends send nothing to
/// external addresses.
fn manifests(floating: bool) -> String {
    let setting = "spec: {defaultEndpointToHostAction: Return";
    let profiles = "interfaceName: cali0b61d5d2,";
    let mut text = MANIFESTS.to_owned();
    for (from, to) in [
        (
            profiles,
            "ipNATs: [{internalIP: 192.168.0.1, externalIP: 203.0.113.7}, \
                   {internalIP: 'fd80::2', externalIP: '2001:db8:f::7'}], interfaceName: cali0b61d5d2,",
        ),
        ("spec: {cidr: 192.168.0.0/16}", "spec: {cidr: 192.168.0.0/16, natOutgoing: true}"),
        (
            setting,
            if floating {
                "spec: {floatingIPs: Enabled, defaultEndpointToHostAction: Return"
            } else {
                setting
            },
        ),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text = text.replace(from, to);
    }
    text + include_str!("external.yaml")
}

fn ask(world: &World, text: &str) -> Explanation {
    let words: Vec<&str> = text.split_whitespace().collect();
    let port = words.get(3).map(|port| (*port).to_owned());
    let (from, to, protocol) = (words[0].to_owned(), words[1].to_owned(), words[2].to_owned());
    let question = Question { from, to, protocol: Some(protocol), port, ..Question::default() };
    explain(&question, world).unwrap()
}

#[test]
fn an_external_address_leads_to_its_pod() {
    let text = manifests(true);
    for world in [whole(&text), running(&text)] {
        for (asked, outcome) in [
            ("c89f2f35 203.0.113.7 tcp 8080", Outcome::Allowed),
            ("c89f2f35 203.0.113.7 tcp http", Outcome::Allowed),
            ("c89f2f35 203.0.113.7 tcp 9090", Outcome::Denied),
            ("c89f2f35 203.0.113.7 udp 53", Outcome::Denied),
            ("198.51.100.1 203.0.113.7 tcp 9090", Outcome::Allowed),
            ("198.51.100.200 203.0.113.7 tcp 9090", Outcome::Denied),
            ("outside 2001:db8:f::7 icmp", Outcome::Denied),
            ("outside 203.0.113.7 icmp", Outcome::Allowed),
            ("host 203.0.113.7 tcp 9090", Outcome::Allowed),
            // Through its host, so it is asked; by its own address it is not.
            ("0b61d5d2 203.0.113.7 tcp 8080", Outcome::Denied),
            ("0b61d5d2 203.0.113.7 icmp", Outcome::Allowed),
            ("0b61d5d2 192.168.0.1 tcp 8080", Outcome::Unpoliced),
            // Nobody's, but not for frontends.
            ("c89f2f35 203.0.113.8 tcp 8080", Outcome::Denied),
            ("0b61d5d2 203.0.113.8 tcp 8080", Outcome::Allowed),
        ] {
            assert_eq!(ask(&world, asked).outcome(), outcome, "{asked}");
        }
        let said = ask(&world, "c89f2f35 203.0.113.7 tcp 8080");
        let to = &said.answers[0].to;
        assert_eq!(to.kind, EndKind::Pod);
        assert_eq!(to.external, Some("203.0.113.7".parse().unwrap()));
        let text = render(&said);
        let line = text.lines().next().unwrap();
        assert!(
            line.ends_with(
                "→ default/0b61d5d2-77aa/eth0 (203.0.113.7 → 192.168.0.1 on calico-01) tcp port 8080"
            ),
            "{line}"
        );
        assert!(said.notes.iter().all(|note| !note.contains("natOutgoing")), "{:?}", said.notes);
    }
}

#[test]
fn who_comes_from_another_host_sends_to_the_external_address_itself() {
    let world = whole(&manifests(true));
    let said = ask(&world, "0b61aaaa 203.0.113.7 icmp");
    assert_eq!(said.outcome(), Outcome::Denied);
    let sides: Vec<_> = said.answers[0].sides.iter().map(|s| (&*s.side, s.allowed)).collect();
    assert_eq!(sides, [("egress", Some(false)), ("ingress", Some(true))]);
    let note = "leaves its host under the host's address (natOutgoing)";
    assert!(said.notes.iter().any(|one| one.contains(note)), "{:?}", said.notes);
    // By its own address nothing stands in the way.
    assert_eq!(ask(&world, "0b61aaaa 192.168.0.1 icmp").outcome(), Outcome::Allowed);
}

#[test]
fn switched_off_it_is_nobodys() {
    let text = manifests(false);
    for world in [whole(&text), running(&text)] {
        let said = ask(&world, "198.51.100.200 203.0.113.7 tcp 9090");
        assert_eq!(said.outcome(), Outcome::Unpoliced);
        let to = &said.answers[0].to;
        assert_eq!((to.kind, to.external), (EndKind::Address, None));
    }
}
