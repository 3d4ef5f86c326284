//! Which chains a packet comes to, in which order, and with what.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::net::IpAddr;

use calico_ruleset::{
    By, Family, Fate, Hook, Host, Outcome, Packet, Ruleset, State, Table, WalkError,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host() -> Host {
    let mut host = Host::default();
    host.address(ip("192.0.2.1")).route("10.0.0.0/8", "cali1").unwrap();
    host.route("10.0.0.2/32", "cali2").unwrap().route("0.0.0.0/0", "eth0").unwrap();
    host
}

fn tcp(from: &str, to: &str) -> Packet {
    Packet::tcp(ip(from), ip(to), 40_000, 80)
}

fn through() -> Packet {
    tcp("10.0.0.1", "10.0.0.2").into_interface("cali1")
}

fn parse(text: &str) -> Ruleset {
    Ruleset::parse(Family::V4, text, "").unwrap_or_else(|error| panic!("{error}"))
}

fn walk(ruleset: &Ruleset, packet: &Packet) -> Outcome {
    ruleset.walk(&host(), packet).unwrap()
}

fn sent(interface: &str) -> Fate {
    Fate::Sent(interface.to_owned())
}

/// A rule without a target in every chain of the kernel tells the way.
fn everywhere() -> Ruleset {
    let hooks = |table: &str, hooks: &[&str]| {
        let rules: String = hooks.iter().map(|hook| format!("-A {hook}\n")).collect();
        format!("*{table}\n{rules}COMMIT\n")
    };
    parse(
        &(hooks("filter", &["INPUT", "FORWARD", "OUTPUT"])
            + &hooks("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])
            + &hooks("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"])
            + &hooks("raw", &["PREROUTING", "OUTPUT"])),
    )
}

fn way(packet: &Packet) -> (Fate, Vec<String>) {
    let ruleset = everywhere();
    let outcome = walk(&ruleset, packet);
    let lines = outcome.trace(&ruleset);
    let way = lines.lines().map(|line| line.split(" 1:").next().unwrap().to_owned());
    (outcome.fate, way.collect())
}

#[test]
fn a_packet_meets_the_tables_in_the_order_of_the_kernel() {
    let pre = ["raw PREROUTING", "mangle PREROUTING", "nat PREROUTING"];
    let out = ["raw OUTPUT", "mangle OUTPUT", "nat OUTPUT", "filter OUTPUT"];
    let post = ["mangle POSTROUTING", "nat POSTROUTING"];
    let (fate, passed) = way(&through());
    assert_eq!(fate, sent("cali2"));
    assert_eq!(passed, [&pre[..], &["mangle FORWARD", "filter FORWARD"], &post].concat());
    let (fate, passed) = way(&tcp("10.0.0.1", "192.0.2.1").into_interface("cali1"));
    assert_eq!(fate, Fate::Delivered);
    assert_eq!(passed, [&pre[..], &["mangle INPUT", "filter INPUT", "nat INPUT"]].concat());
    let (fate, passed) = way(&tcp("192.0.2.1", "10.0.0.2"));
    assert_eq!(fate, sent("cali2"));
    assert_eq!(passed, [&out[..], &post].concat());
    // To itself: its translation is settled on the way out.
    let (fate, passed) = way(&tcp("192.0.2.1", "192.0.2.1"));
    assert_eq!(fate, Fate::Delivered);
    let back = ["raw PREROUTING", "mangle PREROUTING", "mangle INPUT", "filter INPUT"];
    assert_eq!(passed, [&out[..], &post, &back].concat());
    // Only the first packet of a connection is translated.
    let (_, passed) = way(&through().with_state(State::Established));
    assert!(passed.len() == 5 && !passed.iter().any(|at| at.starts_with("nat")), "{passed:?}");
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let text = |first: &str| {
        format!(
            "*filter\n:a -\n:b -\n:c -\n-A FORWARD {first}\n-A FORWARD -j DROP\n\
             -A a -p tcp -g b\n-A a -j ACCEPT\n-A b -p tcp -j c\n-A b -j MARK --or-mark 0x2\n\
             -A c -j MARK --or-mark 0x1\n-A c -j RETURN\n-A c -j ACCEPT\nCOMMIT\n"
        )
    };
    // FORWARD → a ⇒ b → c, back to b, from there not to a but to FORWARD.
    let ruleset = parse(&text("-j a"));
    let outcome = walk(&ruleset, &through());
    assert_eq!((&outcome.fate, outcome.mark), (&Fate::Dropped, 3));
    assert_eq!(outcome.decided(&ruleset), "filter FORWARD 2: -j DROP");
    // From a chain of the kernel there is nothing to come back to.
    let outcome = walk(&parse(&text("-g a")), &through());
    assert_eq!((outcome.fate, outcome.mark), (sent("cali2"), 3));
}

#[test]
fn policies_hold_at_the_end_and_after_return() {
    for rules in
        ["", "-A FORWARD -j RETURN\n-A FORWARD -j ACCEPT\n", "-A FORWARD -p udp -j ACCEPT\n"]
    {
        for (policy, passes) in [("DROP", false), ("ACCEPT", true)] {
            let ruleset = parse(&format!("*filter\n:FORWARD {policy} [3:9]\n{rules}COMMIT\n"));
            let outcome = walk(&ruleset, &through());
            assert_eq!(outcome.fate.passed(), passes, "{rules} {policy}");
            let by = if passes { By::Nothing } else { By::Policy(Table::Filter, Hook::Forward) };
            assert_eq!(outcome.by, by);
        }
    }
    let accepted = parse("*filter\n:FORWARD DROP\n[1:2] -A FORWARD -j ACCEPT\nCOMMIT\n");
    assert!(walk(&accepted, &through()).fate.passed());
    // Accepted in one table, asked in the next.
    let both =
        parse("*filter\n-A FORWARD -j REJECT\nCOMMIT\n*mangle\n-A FORWARD -j ACCEPT\nCOMMIT\n");
    assert_eq!(walk(&both, &through()).fate, Fate::Rejected);
}

#[test]
fn translation_changes_the_way_and_what_is_asked_behind_it() {
    let nat = "*nat\n-A PREROUTING -d 192.0.2.1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080\n\
               -A POSTROUTING -s 10.0.0.0/8 ! -o cali+ -j MASQUERADE --random-fully\nCOMMIT\n\
               *filter\n-A FORWARD -m conntrack --ctstate DNAT -p tcp -m tcp --dport 8080 -j MARK --set-mark 5\n";
    let ruleset = parse(&format!("{nat}COMMIT\n"));
    let inward = tcp("198.51.100.7", "192.0.2.1").into_interface("eth0");
    let outcome = walk(&ruleset, &inward);
    assert_eq!((&outcome.fate, outcome.mark), (&sent("cali2"), 5));
    assert_eq!((outcome.destination, outcome.ports), (ip("10.0.0.2"), Some((40_000, 8080))));
    assert!(!outcome.masqueraded);
    let outward = tcp("10.0.0.1", "198.51.100.7").into_interface("cali1");
    let outcome = walk(&ruleset, &outward);
    assert!(outcome.masqueraded && outcome.fate == sent("eth0") && outcome.mark == 0);
    let snat = parse(
        "*nat\n-A POSTROUTING -o eth0 -p tcp -j SNAT --to-source 192.0.2.1:1024-65535\nCOMMIT\n",
    );
    assert_eq!(walk(&snat, &outward).source, ip("192.0.2.1"));
    assert_eq!(walk(&snat, &through()).source, ip("10.0.0.1"));
    // What this host sends goes another way, but OUTPUT still sees the old one.
    let output = parse(
        "*nat\n-A OUTPUT -d 198.51.100.9 -j DNAT --to-destination 10.0.0.2\nCOMMIT\n\
         *filter\n-A OUTPUT -o cali2 -j DROP\n-A OUTPUT -o eth0 -d 10.0.0.2 -j MARK --set-mark 1\nCOMMIT\n\
         *mangle\n-A POSTROUTING -o cali2 -m conntrack --ctstate DNAT -j MARK --or-mark 2\nCOMMIT\n",
    );
    let outcome = walk(&output, &tcp("192.0.2.1", "198.51.100.9"));
    assert_eq!((outcome.fate, outcome.mark), (sent("cali2"), 3));
    assert_eq!(walk(&output, &tcp("192.0.2.1", "10.0.0.2")).fate, Fate::Dropped);
}

#[test]
fn ports_are_translated_where_there_are_any() {
    let nat = |rule: &str| {
        let text = format!("*nat\n-A POSTROUTING {rule}\nCOMMIT\n");
        Ruleset::parse(Family::V6, &text, "").is_ok()
    };
    for target in [
        "MASQUERADE --to-ports 1024-65535 --random-fully",
        "SNAT --to-source [fd00::1]:1024-65535",
        "DNAT --to-destination [fd00::1]:80",
    ] {
        assert!(nat(&format!("-p tcp -j {target}")) && nat(&format!("-p udp -j {target}")));
        assert!(
            !nat(&format!("-j {target}")) && !nat(&format!("-p icmpv6 -j {target}")),
            "{target}"
        );
    }
    assert!(nat("-j SNAT --to-source fd00::1") && nat("-j MASQUERADE --random-fully"));
}

#[test]
fn what_raw_takes_out_of_tracking_is_no_connection() {
    let text = |target: &str| {
        format!(
            "*raw\n-A PREROUTING -m conntrack --ctstate INVALID -j MARK --set-mark 8\n\
             -A PREROUTING -p tcp -j {target}\nCOMMIT\n\
             *nat\n-A PREROUTING -j DNAT --to-destination 192.0.2.1\nCOMMIT\n\
             *filter\n-A FORWARD -m conntrack --ctstate UNTRACKED -j DROP\nCOMMIT\n"
        )
    };
    for target in ["NOTRACK", "CT --notrack"] {
        let ruleset = parse(&text(target));
        let outcome = walk(&ruleset, &through().with_state(State::Established));
        assert!(outcome.untracked && outcome.fate == Fate::Dropped && outcome.mark == 8);
        let udp = Packet { protocol: 17, ..through() };
        assert_eq!(walk(&ruleset, &udp).fate, Fate::Delivered);
    }
}

#[test]
fn the_longest_route_counts_and_there_may_be_none() {
    let ruleset = parse("");
    assert!(ruleset.is_empty());
    assert_eq!(walk(&ruleset, &through()).fate, sent("cali2"));
    assert_eq!(walk(&ruleset, &tcp("192.0.2.1", "10.0.0.3")).fate, sent("cali1"));
    assert_eq!(
        walk(&ruleset, &tcp("10.0.0.1", "224.0.0.1").into_interface("cali1")).fate,
        Fate::Delivered
    );
    let mut lonely = Host::default();
    lonely.address(ip("192.0.2.1"));
    assert_eq!(ruleset.walk(&lonely, &through()).unwrap().fate, Fate::NoRoute);
    let six = Packet { source: ip("fd00::1"), ..through() };
    assert_eq!(ruleset.walk(&lonely, &six), Err(WalkError::Family));
}
