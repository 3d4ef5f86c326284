//! Each criterion in words, and each way not to meet it.

use calico_datastore::model::Update;

use super::world::{MANIFESTS, updates, whole_of};
use crate::explain::{Question, explain};

/// A policy before all others with one rule for what comes to the backend.
fn with_rule(rule: &str) -> Vec<Update> {
    let pass = "  - {action: Pass}\n";
    let log = "  - {action: Log, protocol: TCP}\n";
    updates(&MANIFESTS.replace(log, &format!("  - {rule}\n")).replacen(pass, "", 1))
}

/// What is said of that rule: its text, and why it does not match.
fn said(rule: &str, from: &str, words: &str) -> (String, Option<String>) {
    let mut words = words.split_whitespace().map(str::to_owned);
    let question = Question {
        from: from.to_owned(),
        to: if from.contains(':') { "fd80::2" } else { "192.168.0.1" }.to_owned(),
        protocol: words.next(),
        port: words.next(),
        ..Question::default()
    };
    let explanation = explain(&question, &whole_of(&with_rule(rule))).unwrap();
    let sides = explanation.answers.iter().flat_map(|answer| &answer.sides);
    let ingress = sides.filter(|side| side.side == "ingress");
    let asked = ingress.flat_map(|side| &side.tiers).flat_map(|tier| &tier.policies);
    let asked = asked.flat_map(|policy| &policy.rules).find(|rule| rule.rule == "ingress[1]");
    let asked = asked.unwrap();
    assert_eq!(asked.matches, asked.why_not.is_none());
    (asked.text.clone(), asked.why_not.clone())
}

#[test]
fn every_criterion_and_why_it_is_not_met() {
    let four = "192.0.2.7";
    for (rule, from, packet, text, why) in [
        ("{action: Allow}", four, "tcp 80", "allow", None),
        ("{action: Deny, ipVersion: 6}", four, "tcp 80", "deny IPv6", Some("the packet is IPv4")),
        ("{action: Pass, protocol: 47}", four, "icmp", "pass 47", Some("the protocol is icmp")),
        (
            "{action: Allow, notProtocol: TCP}",
            four,
            "tcp 80",
            "allow not tcp",
            Some("the protocol is tcp"),
        ),
        (
            "{action: Allow, protocol: ICMP, icmp: {type: 3, code: 4}}",
            four,
            "icmp",
            "allow icmp type 3 code 4",
            Some("the type is 8 and the code 0"),
        ),
        (
            "{action: Allow, protocol: ICMPv6, notICMP: {type: 128}}",
            "2001:db8::7",
            "icmpv6",
            "allow icmpv6 not type 128",
            Some("the type is 128 and the code 0"),
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.0/8, 'fd00::/8']}}",
            four,
            "tcp 80",
            "allow from 10.0.0.0/8,fd00::/8",
            Some("source 192.0.2.7 is not in 10.0.0.0/8,fd00::/8"),
        ),
        (
            "{action: Allow, source: {notNets: [192.0.2.0/24]}}",
            four,
            "tcp 80",
            "allow from not 192.0.2.0/24",
            Some("source 192.0.2.7 is in 192.0.2.0/24"),
        ),
        (
            "{action: Allow, source: {notNets: [192.0.2.0/24]}}",
            "2001:db8::7",
            "tcp 80",
            "allow from not 192.0.2.0/24",
            Some("its prefixes are of the other family, so it is not for this one"),
        ),
        (
            "{action: Allow, source: {selector: x == 'y'}}",
            four,
            "tcp 80",
            "allow from x == \"y\"",
            Some("source 192.0.2.7 is not in x == \"y\" (nobody is)"),
        ),
        (
            "{action: Allow, source: {notSelector: role == 'frontend'}}",
            "192.168.0.0",
            "tcp 80",
            "allow from not (role == \"frontend\")",
            Some("source 192.168.0.0 is in role == \"frontend\""),
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [80, '90:99', http]}}",
            four,
            "tcp 81",
            "allow tcp to port 80,90-99 or http",
            Some("destination port 81 is not 80,90-99 or http (which is 8080 there)"),
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [dns]}}",
            four,
            "tcp 53",
            "allow tcp to port dns",
            Some("destination port 53 is not dns (a name that 192.168.0.1 has not)"),
        ),
        (
            "{action: Allow, protocol: TCP, destination: {notPorts: [80]}}",
            four,
            "tcp 80",
            "allow tcp to not port 80",
            Some("it is destination port 80"),
        ),
        (
            "{action: Allow, protocol: TCP, destination: {notPorts: [http]}}",
            four,
            "tcp 8080",
            "allow tcp to not port http",
            Some("destination port 8080 is http"),
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.0/30, 10.0.0.4/30, 10.0.0.8/30, 10.0.0.12/30, \
             10.0.0.16/30, 10.0.0.20/30, 10.0.0.24/30, 10.0.0.28/30, 0.0.0.0/0]}}",
            four,
            "47",
            "allow from 10.0.0.0/30,10.0.0.4/30,10.0.0.8/30,10.0.0.12/30,10.0.0.16/30,10.0.0.20/30 \
             and 3 more",
            None,
        ),
    ] {
        let found = said(rule, from, packet);
        assert_eq!((found.0.as_str(), found.1.as_deref()), (text, why), "{rule}");
    }
}
