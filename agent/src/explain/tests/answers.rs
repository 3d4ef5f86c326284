//! Answers as people read them, and outcomes by table.

use super::world::{MANIFESTS, running, whole};
use crate::explain::document::{Explanation, Outcome};
use crate::explain::render::render;
use crate::explain::{Question, World, explain};

/// `from to protocol [port]`.
pub(super) fn question(text: &str) -> Question {
    let words: Vec<&str> = text.split_whitespace().collect();
    let word = |at: usize| words.get(at).map(|word| (*word).to_owned());
    Question {
        from: word(0).unwrap(),
        to: word(1).unwrap(),
        protocol: word(2),
        port: word(3),
        ..Question::default()
    }
}

pub(super) fn ask(world: &World, text: &str) -> Explanation {
    explain(&question(text), world).unwrap()
}

pub(super) fn text(world: &World, text: &str) -> String {
    render(&ask(world, text))
}

#[test]
fn the_way_through_tiers_to_a_rule() {
    insta::assert_snapshot!(text(&whole(MANIFESTS), "c89f2f35 0b61d5d2 tcp http"));
}

#[test]
fn the_end_of_a_tier() {
    insta::assert_snapshot!(text(&whole(MANIFESTS), "c89f2f35 0b61d5d2 tcp 9090"));
}

#[test]
fn a_pod_of_another_host() {
    insta::assert_snapshot!(text(&whole(MANIFESTS), "c89f2f35 407208a5 tcp 8080"));
}

#[test]
fn what_an_agent_knows_of_a_pod_of_another_host() {
    insta::assert_snapshot!(text(&running(MANIFESTS), "c89f2f35 192.168.0.64 tcp 8080"));
}

#[test]
fn a_network_is_cut_where_policy_cuts_it() {
    insta::assert_snapshot!(text(&whole(MANIFESTS), "198.51.0.0/16 0b61d5d2 udp 53"));
}

#[test]
fn families_that_differ() {
    insta::assert_snapshot!(text(&whole(MANIFESTS), "outside 0b61d5d2 icmp"));
}

#[test]
fn outcomes() {
    let whole = whole(MANIFESTS);
    for (asked, outcome) in [
        ("c89f2f35 0b61aaaa tcp 9090", Outcome::Allowed),
        ("c89f2f35 0b61aaaa udp 53", Outcome::Denied),
        ("407208a5 outside tcp 80", Outcome::Denied),
        ("0b61d5d2 outside tcp 80", Outcome::Allowed),
        ("0b61d5d2 c89f2f35 icmp", Outcome::Denied),
        ("c89f2f35 host tcp 22", Outcome::Allowed),
        ("host c89f2f35 tcp 22", Outcome::Allowed),
        ("calico-02 c89f2f35 tcp 22", Outcome::Denied),
        ("host outside tcp 22", Outcome::Unpoliced),
        ("host calico-02 47", Outcome::Unpoliced),
        ("c89f2f35 c89f2f35 tcp 22", Outcome::Unpoliced),
        ("192.168.0.0 fd80::2 tcp 22", Outcome::Unknown),
        ("192.168.0.0 0b61d5d2 tcp 8080", Outcome::Allowed),
        ("192.168.0.0 0b61d5d2 4", Outcome::Denied),
        // A pod's own answer does not matter for a packet from somebody else's address.
        ("203.0.113.7 192.168.0.1 icmp", Outcome::Allowed),
        ("203.0.113.7 192.168.0.1 sctp 5", Outcome::Denied),
    ] {
        match explain(&question(asked), &whole) {
            Ok(explanation) => assert_eq!(explanation.outcome(), outcome, "{asked}"),
            Err(error) => assert_eq!(outcome, Outcome::Unknown, "{asked}: {error}"),
        }
    }
    let running = running(MANIFESTS);
    for (asked, outcome) in [
        ("c89f2f35 0b61d5d2 tcp http", Outcome::Allowed),
        ("c89f2f35 192.168.0.65 tcp 1", Outcome::Unknown),
        // Denied here, whatever the other host says.
        ("192.168.0.65 c89f2f35 udp 1", Outcome::Denied),
        ("c89f2f35 calico-02 tcp 1", Outcome::Allowed),
        // In no pool: nobody's pod.
        ("c89f2f35 10.9.9.9 tcp 1", Outcome::Allowed),
    ] {
        assert_eq!(ask(&running, asked).outcome(), outcome, "{asked}");
    }
}

#[test]
fn what_is_for_the_host_itself_is_the_settings_business() {
    let strict = MANIFESTS.replace("defaultEndpointToHostAction: Return", "ipv6Support: true");
    let said = text(&whole(&strict), "c89f2f35 host tcp 22");
    assert!(said.starts_with("DENIED"), "{said}");
    assert!(said.contains("egress: DefaultEndpointToHostAction is Drop"), "{said}");
}

#[test]
fn a_rule_that_is_left_out_is_noted() {
    let services = "{action: Allow, source: {services: {name: x, namespace: y}}}";
    let log = "- {action: Log, protocol: TCP}";
    let text_with = MANIFESTS.replace(log, &format!("- {services}\n  {log}"));
    let said = text(&whole(&text_with), "c89f2f35 0b61d5d2 tcp 53");
    // The one that is left out counts.
    assert!(said.contains("· ingress[2]  log tcp"), "{said}");
    let note = "Note: GlobalNetworkPolicy security.no-udp: ";
    assert!(said.lines().any(|line| line.starts_with(note) && line.contains("services")), "{said}");
}

#[test]
fn what_cannot_be_answered_says_why() {
    let whole = whole(MANIFESTS);
    let said = |asked: &str| explain(&question(asked), &whole).unwrap_err().to_string();
    for (asked, says) in [
        ("web 192.168.0.1 tcp 1", "from \"web\" is no address, no host and none of the pods"),
        ("192.168.0.1 0b61 tcp 1", "to \"0b61\" may be any of: calico-01/cni/default/0b61d5d2"),
        ("10.0.0.0/8 10.0.0.0/8 tcp 1", "only one of the two may be a network"),
        ("192.168.0.1 fd80::1 tcp 1", "192.168.0.1 and fd80::1 have no family"),
        (
            "192.168.0.1 192.168.0.0 icmpv6",
            "192.168.0.1 and 192.168.0.0 have no family of addresses in common for",
        ),
        ("c89f2f35 0b61d5d2 udp http", "no udp port of 0b61d5d2 is known by the name http"),
        ("c89f2f35 0b61d5d2 tcp", "tcp needs --port"),
    ] {
        assert!(said(asked).starts_with(says), "{asked}: {}", said(asked));
    }
}

#[test]
fn the_document_comes_back_as_it_went() {
    let explanation = ask(&whole(MANIFESTS), "198.51.0.0/16 0b61d5d2 tcp 8080");
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    let question = question("a b tcp http");
    let json = serde_json::to_string(&question).unwrap();
    assert_eq!(serde_json::from_str::<Question>(&json).unwrap(), question);
}

#[test]
fn a_source_port_that_was_only_assumed_is_noted() {
    let whole = whole(MANIFESTS);
    let asked = ask(&whole, "10.0.0.1 0b61d5d2 tcp 9090");
    assert!(asked.notes.iter().any(|note| note.contains("--source-port")), "{:?}", asked.notes);
    assert_eq!(asked.outcome(), Outcome::Denied);
    let said = Question { source_port: Some(1001), ..question("10.0.0.1 0b61d5d2 tcp 9090") };
    let said = explain(&said, &whole).unwrap();
    assert!(!said.notes.iter().any(|note| note.contains("--source-port")), "{:?}", said.notes);
    assert_eq!(said.outcome(), Outcome::Allowed);
    let ssh = Question { source_port: Some(1001), ..question("10.0.0.1 0b61d5d2 tcp 22") };
    assert_eq!(explain(&ssh, &whole).unwrap().outcome(), Outcome::Denied);
}

/// The page shows what the command says.
#[test]
fn the_example_of_the_page_is_what_is_said() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/explain.md");
    let page = std::fs::read_to_string(page).unwrap();
    let said = text(&running(MANIFESTS), "c89f2f35 0b61d5d2 tcp 9090");
    assert!(page.contains(&format!("```text\n{said}```\n")), "now it is:\n{said}");
}

/// What an agent says of its own pods is what the datastore says.
#[test]
fn both_ways_to_ask_agree() {
    let (whole, running) = (whole(MANIFESTS), running(MANIFESTS));
    for asked in [
        "c89f2f35 0b61d5d2 tcp http",
        "0b61d5d2 c89f2f35 udp 53",
        "c89f2f35 0b61d5d2 icmp",
        "outside 0b61d5d2 tcp 443",
        "198.51.0.0/16 0b61d5d2 tcp 443",
        "host 0b61d5d2 tcp 443",
    ] {
        assert_eq!(ask(&whole, asked).answers, ask(&running, asked).answers, "{asked}");
    }
}

/// Nobody would believe that a workload is protected which no rule knows.
#[test]
fn an_endpoint_on_an_interface_that_is_none_of_pods_is_told() {
    let asked = "c89f2f35 0b61d5d2 tcp 9090";
    let stray = MANIFESTS.replace("interfaceName: cali0b61d5d2", "interfaceName: eth7");
    for (before, now) in [(whole(MANIFESTS), whole(&stray)), (running(MANIFESTS), running(&stray))]
    {
        assert_eq!(ask(&before, asked).outcome(), Outcome::Denied);
        for asked in [asked, "c89f2f35 192.168.0.1 tcp 9090"] {
            let answer = ask(&now, asked);
            assert_eq!(answer.outcome(), Outcome::Allowed, "{asked}");
            let said = "interface eth7 does not begin with InterfacePrefix (cali): what passes there \
                        is not policed";
            assert!(answer.notes.iter().any(|note| note.contains(said)), "{:?}", answer.notes);
            let because = "no policy is asked: its interface does not begin with InterfacePrefix";
            assert!(answer.answers[0].because.contains(because));
        }
        assert!(ask(&before, asked).notes.iter().all(|note| !note.contains("InterfacePrefix")));
    }
}
