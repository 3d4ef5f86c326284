//! What others change in our table is found, named, and put right; nothing else is written.

use calico_agent::felix::nftables::object::*;
use calico_datastore::model::Family;

use crate::every::everything;
use crate::support::{Kernel, base, contents, drops, from, set};

/// The handle of the rule that a listing shows with these words.
fn handle(words: &str) -> String {
    format!("$(nft -a list table inet calico | sed -n 's/.*{words}.*# handle //p' | head -n 1)")
}

/// Another rule in the place of that of two ports (`nft replace` of 1.0.6 aborts on lists).
fn instead(rule: &str) -> String {
    format!(
        "handle={}
         nft insert rule inet calico matches handle $handle \"udp dport {rule}\"
         nft delete rule inet calico matches handle $handle",
        handle("udp dport")
    )
}

/// What somebody does, and what is told of it.
fn cases() -> Vec<(String, &'static str)> {
    let element = |verb: &str, set: &str, element: &str| {
        format!("nft {verb} element inet calico {set} '{{ {element} }}'")
    };
    vec![
        ("nft flush chain inet calico raw".into(), "chain raw modified: rule 1 is gone"),
        ("nft add rule inet calico c1 drop".into(), "chain c1 modified: a rule too many before"),
        (
            "nft insert rule inet calico matches accept".into(),
            "chain matches modified: a rule too many before rule 1",
        ),
        (
            format!("nft delete rule inet calico matches handle {}", handle("udp dport")),
            "chain matches modified: rule 35 is gone",
        ),
        (instead("{ 80, 8000-8081 } drop"), "chain matches modified: rule 35 is another"),
        (instead("{ 80, 8000-8080 } accept"), "chain matches modified: rule 35 is another"),
        (
            format!(
                "nft replace rule inet calico raw handle {} notrack comment hello",
                handle("notrack")
            ),
            "chain raw modified: rule 1 is another",
        ),
        (
            "nft chain inet calico fw '{ policy drop; }'".into(),
            "chain fw modified: its type, hook, priority or policy",
        ),
        (
            "nft add chain inet calico other '{ type filter hook input priority 5; }'".into(),
            "chain other unexpected: ",
        ),
        (
            "nft add chain inet calico other; nft add rule inet calico other jump c1".into(),
            "chain other unexpected: ",
        ),
        ("nft add set inet calico other '{ type ipv4_addr; }'".into(), "set other unexpected: "),
        ("nft add set inet calico other '{ type mark; }'".into(), "set other unexpected: "),
        (element("add", "a4", "9.9.9.9"), "set a4 unexpected: it holds 9.9.9.9"),
        (element("delete", "a4", "10.0.0.2"), "set a4 missing: it does not hold 10.0.0.2"),
        (element("add", "a6", "fd00::9"), "set a6 unexpected: it holds fd00::9"),
        (element("add", "i4", "12.0.0.0/31"), "set i4 unexpected: it holds 12.0.0.0-12.0.0.1"),
        (
            element("delete", "i4", "255.0.0.0/8"),
            "set i4 missing: it does not hold 255.0.0.0-255.255.255.255",
        ),
        (element("add", "i6", "fe00::/8"), "set i6 unexpected: it holds fe00::-feff:"),
        (
            element("add", "p4", "10.0.0.1 . tcp . 81"),
            "set p4 unexpected: it holds 10.0.0.1 . 6 . 81",
        ),
        (
            element("delete", "p6", "fd00::1 . udp . 53"),
            "set p6 missing: it does not hold fd00::1 . 17 . 53",
        ),
        (element("add", "n4", "\"x\" . 10.0.0.1"), "set n4 unexpected: it holds \"x\" . 10.0.0.1"),
        (
            element("delete", "n6", "\"cali1\" . fd00::1"),
            "set n6 missing: it does not hold \"cali1\" . fd00::1",
        ),
        (
            element("add", "r4", "\"x\" . 10.0.0.0/9"),
            "set r4 unexpected: it holds \"x\" . 10.0.0.0/9",
        ),
        (element("add", "r4", "\"x\" . 10.0.0.1-10.0.0.5"), "set r4 unexpected: it holds ["),
        (element("add", "if", "\"x\""), "set if unexpected: it holds \"x\""),
        (
            element("add", "mac", "\"x\" . 02:00:00:00:00:01"),
            "set mac unexpected: it holds \"x\" . 02:00:00:00:00:01",
        ),
        (element("add", "from", "77 : accept"), "set from unexpected: it holds 77 : accept"),
        (
            format!("{}; {}", element("delete", "from", "5"), element("add", "from", "5 : accept")),
            "set from modified: it led elsewhere: 5 : accept",
        ),
        (
            element("delete", "names", "\"eth1\""),
            "set names missing: it does not hold \"eth1\" : accept",
        ),
        ("nft flush set inet calico a4".into(), "set a4 missing: it does not hold 10.0.0.1, 10."),
        (
            "nft add table inet calico '{ flags dormant; }'".into(),
            "the table modified: it is dormant",
        ),
        ("nft delete table inet calico".into(), "the table missing: "),
        ("nft flush ruleset".into(), "the table missing: "),
        ("nft delete table inet calico; nft add table inet calico".into(), "chain c1 missing: "),
    ]
}

#[test]
fn every_change_is_found_named_and_undone() {
    let kernel = Kernel::new();
    let wanted = everything();
    kernel.fill(&wanted);
    let listing = sorted(&kernel.list());
    for (script, told) in cases() {
        kernel.netns.sh(&script);
        assert_ne!(sorted(&kernel.list()), listing, "{script} changed nothing");
        let difference = kernel.differs(&wanted);
        let drift = difference.drift.iter();
        let lines: Vec<_> =
            drift.map(|d| format!("{} {}: {}", d.subject, d.change, d.detail)).collect();
        let expected = format!("nftables {told}");
        assert!(lines.iter().any(|line| line.starts_with(&expected)), "{script}: {lines:#?}");
        if !told.starts_with("the table") && !told.starts_with("chain c1 missing") {
            assert_eq!(lines.len(), 1, "{script}: {lines:#?}");
        }
        for changes in [&difference.now, &difference.after] {
            kernel.write(changes).unwrap_or_else(|error| panic!("{script}: {error:?}"));
        }
        let left = kernel.differs(&wanted);
        assert!(left.is_none(), "{script}: {:#?}", left.drift);
        assert_eq!(sorted(&kernel.list()), listing, "{script}");
    }
}

/// An element that is every address of no other makes a set match everything. It has no key.
#[test]
fn an_element_for_every_other_address_is_found_and_goes() {
    let ends = ["10.0.0.0", "10.255.255.255"].map(|end| end.parse().unwrap());
    let range = Element::Range(ends[0], ends[1]);
    for (kind, flags, element, shown) in [
        (SetKind::Interval(Family::V4), "flags interval;", range, "10.0.0.0/8"),
        (SetKind::Address(Family::V4), "", Element::Address(ends[0]), "10.0.0.0"),
    ] {
        let kernel = Kernel::new();
        let top = base(BaseKind::Filter, Hook::Input, 0, vec![drops(vec![from("s")])]);
        let wanted = contents([("top", top)], [("s", set(kind, vec![element]))]);
        kernel.fill(&wanted);
        let listing = sorted(&kernel.list());
        // `nft add element` of 1.0.6 crashes on it.
        kernel.netns.sh(&format!(
            "nft flush chain inet calico top; nft delete set inet calico s
             set='set s {{ type ipv4_addr; {flags} elements = {{ {shown}, * }}; }};'
             echo \"table inet calico {{ $set }}\" | nft -f -
             nft add rule inet calico top ip saddr @s drop"
        ));
        assert_ne!(sorted(&kernel.list()), listing);
        let difference = kernel.differs(&wanted);
        let drift = difference.drift.iter();
        let lines: Vec<_> =
            drift.map(|d| format!("{} {}: {}", d.subject, d.change, d.detail)).collect();
        assert_eq!(lines, ["nftables set s unexpected: it holds *"]);
        kernel.write(&difference.now).unwrap();
        assert!(kernel.differs(&wanted).is_none());
        assert_eq!(sorted(&kernel.list()), listing);
    }
}

#[test]
fn another_table_is_none_of_ours() {
    let kernel = Kernel::new();
    let wanted = everything();
    kernel.fill(&wanted);
    kernel.netns.sh(
        "nft add table inet other; nft add chain inet other fw; nft add rule inet other fw drop;
         nft add set inet other a4 '{ type ipv4_addr; elements = { 1.2.3.4 }; }';
         nft add table ip calico; nft add chain ip calico fw; nft add rule ip calico fw drop",
    );
    assert!(kernel.differs(&wanted).is_none());
    kernel.table().remove().unwrap();
    let left = kernel.list();
    assert!(!left.contains("inet calico") && left.contains("ip calico"), "{left}");
    assert!(left.contains("inet other"), "{left}");
    // Gone already is as well.
    kernel.table().remove().unwrap();
    assert_eq!(kernel.table().read().unwrap(), None);
}

/// The kernel lists chains and elements in the order in which they were made.
fn sorted(listing: &str) -> Vec<String> {
    let without = ['\n', '\t', ' ', ',', '{', '}'];
    let pieces = listing.split(['\n', ',', '{', '}']).map(|piece| piece.trim_matches(without));
    let mut pieces: Vec<_> = pieces.map(str::to_owned).filter(|piece| !piece.is_empty()).collect();
    pieces.sort();
    pieces
}

#[test]
fn our_own_writes_carry_our_port() {
    let kernel = Kernel::new();
    assert_ne!(kernel.table().port(), 0);
    kernel.fill(&everything());
    let port = kernel.table().port();
    kernel.restart();
    assert_ne!(kernel.table().port(), port, "another socket is another writer");
    let changes = [Change::DeleteChain("nobody".into())];
    assert_eq!(kernel.write(&changes).unwrap().messages, 1, "the table, which it did not know of");
}
