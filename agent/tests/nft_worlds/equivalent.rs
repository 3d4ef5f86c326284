//! Mutants that mean the same as what they were made of, and why.

use crate::mutants::Mistake::{Empty, Forgotten, Idle, Later, LeftOut, Target};
use crate::mutants::{Mistake, Mutant};

/// Mutants that mean the same, by the beginnings of their kinds, and why.
const EQUIVALENT: &[(Mistake, &str, &str)] = &[
    (LeftOut, "rules: log", LOGGED),
    (Later, "rules: log", LOGGED),
    (LeftOut, "anti-spoof: ip saddr 127", TWICE),
    (Target, "anti-spoof: ip saddr 127", TWICE),
    (LeftOut, "input-from-pod: drop", TWICE),
    (Target, "input-from-pod: drop", TWICE),
    (Forgotten, "input-from-pod: iifname . ip saddr", TWICE),
    (Forgotten, "forward-from-pod: iifname . ip saddr @spoofed", TWICE),
    (Forgotten, "forward-from-pod: iifname . ip saddr @sent-spoofed", TWICE),
    (LeftOut, "from-pod: drop", NOBODY),
    (Target, "from-pod: drop", NOBODY),
    (LeftOut, "to-pod: drop", NOBODY),
    (Target, "to-pod: drop", NOBODY),
    (LeftOut, "mangle-postrouting: clear", LAST),
    (Later, "mangle-postrouting: clear", LAST),
    (Idle, "mangle-postrouting: clear", LAST),
    (LeftOut, "forward-from-host: iifname \"lo\"", NEVER),
    (Target, "forward-from-host: iifname \"lo\"", NEVER),
    (LeftOut, "forward-to-host: oifname \"lo\"", NEVER),
    (Target, "forward-to-host: oifname \"lo\"", NEVER),
    (LeftOut, "late-to-host endpoint: ct state", NEVER),
    (Target, "late-to-host endpoint: ct state", NEVER),
    (Later, "late-to-host endpoint: ct state", NEVER),
    (Forgotten, "anti-spoof: icmp type { 130", TWICE),
    (Forgotten, "anti-spoof: meta l4proto ipv6-icmp", MESSAGES),
    (Forgotten, "anti-spoof: meta nfproto", MESSAGES),
    (Forgotten, "input-from-pod: meta", MESSAGES),
    (Forgotten, "input-pod-to-host: meta l4proto ipv6-icmp", MESSAGES),
    (Forgotten, "failsafe-in: family", MESSAGES),
    (Forgotten, "failsafe-out: family", MESSAGES),
    (Forgotten, "raw-failsafe-in: family", MESSAGES),
    (Forgotten, "raw-failsafe-out: family", MESSAGES),
    (Forgotten, "output-host: ct status dnat", "all is asked on the way out then"),
    (
        Later,
        "nat-postrouting: ip saddr * ip daddr * snat",
        "within the pools nothing is masqueraded",
    ),
    (Empty, "denied-", "they only count"),
    (LeftOut, "drop-to-pod: drop", NOBODY),
    (Target, "drop-to-pod: drop", NOBODY),
    (Later, "from-host endpoint: ct state established", DISJOINT),
    (Later, "to-host endpoint: ct state established", DISJOINT),
    (Later, "forward-from-host endpoint: ct state established", DISJOINT),
    (Later, "forward-to-host endpoint: ct state established", DISJOINT),
    (Later, "anti-spoof: meta nfproto * meta l4proto ipv6-icmp", DISJOINT),
    (Later, "anti-spoof: meta nfproto ipv meta l4proto ipv6-icmp", DISJOINT),
    (Later, "anti-spoof: ip saddr 127", DISJOINT),
    (Later, "input-from-pod: meta nfproto", DISJOINT),
    (Later, "input-from-pod: iifname != \"cali*\"", DISJOINT),
    (Later, "forward-from-pod: iifname != \"cali*\"", DISJOINT),
    (Later, "forward-to-pod: oifname != \"cali*\"", DISJOINT),
    (Later, "output-host: meta mark", DISJOINT),
    (Later, "output-host: meta nfproto", DISJOINT),
    (Later, "forward-from-host: meta nfproto", DISJOINT),
    (Later, "raw-prerouting: iifname \"cali*\" goto", DISJOINT),
    (Later, "raw-prerouting: clear", "pods are asked nowhere where the mark counts"),
];

const LOGGED: &str = "what is logged goes on as it is";
const TWICE: &str = "the source was checked before, of every packet";
const NOBODY: &str = "whoever is in the sets has a class";
const LAST: &str = "nothing asks for the mark behind it";
const NEVER: &str = "no such packet comes there: lo forwards nothing, and only the first packet of a connection is \
                     translated";
const DISJOINT: &str = "no packet is what both are about";
const MESSAGES: &str = "only such packets have such types";

/// Chains that count what is dropped, and report it: their last rule alone decides.
const COUNTS: [&str; 2] = ["drop-", "deny: limit"];

/// Why a mutant means the same.
pub(crate) fn equivalent((mistake, kind): &Mutant) -> Option<&'static str> {
    let same = |(m, start, _): &&(Mistake, &str, &str)| m == mistake && kind.starts_with(start);
    let last = kind.ends_with("-pod: drop") || kind.ends_with("-early: drop");
    let counts =
        COUNTS.iter().any(|start| kind.starts_with(start) || kind.contains(&format!("-{start}")));
    let counts = counts && !last && *mistake != Target;
    counts.then_some("the last rule decides").or(EQUIVALENT.iter().find(same).map(|(.., why)| *why))
}
