//! What is written is what nft lists, loads and lists again, and what is read back.

use calico_agent::felix::nftables::contents::Contents;
use calico_agent::felix::nftables::object::{Change, Match};
use calico_datastore::model::Family;

use crate::every::{everything, matches, statements};
use crate::support::Kernel;

/// The rules of a chain in a listing.
fn lines(listing: &str, chain: &str) -> Vec<String> {
    let head = format!("\tchain {chain} {{");
    let chain = listing.lines().skip_while(|line| **line != head).skip(1);
    let rules = chain.take_while(|line| *line != "\t}").map(str::trim);
    rules.filter(|line| !line.starts_with("type ")).map(str::to_owned).collect()
}

#[test]
fn every_rule_is_listed_in_plain_syntax() {
    let kernel = Kernel::new();
    kernel.fill(&everything());
    let listing = kernel.list();
    let expected: Vec<_> = matches().into_iter().map(|(_, text)| format!("{text} drop")).collect();
    let listed = lines(&listing, "matches");
    for (expected, listed) in expected.iter().zip(&listed) {
        assert_eq!(expected, listed);
    }
    assert_eq!(expected.len(), listed.len());
    for chain in ["fw", "raw", "pre", "post"] {
        let of_chain = statements().into_iter().filter(|(name, ..)| *name == chain);
        let expected: Vec<_> = of_chain.map(|(_, _, text)| text.to_owned()).collect();
        assert_eq!(lines(&listing, chain), expected, "{chain}");
    }
    for hook in [
        "type filter hook forward priority filter - 2; policy accept;",
        "type filter hook prerouting priority raw; policy accept;",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type nat hook postrouting priority srcnat; policy accept;",
    ] {
        assert!(listing.contains(hook), "{hook}\n{listing}");
    }
}

#[test]
fn every_set_is_listed_in_plain_syntax() {
    let kernel = Kernel::new();
    kernel.fill(&everything());
    let listing = kernel.list();
    for text in [
        "set a4 {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1, 10.0.0.2 }",
        "set a6 {\n\t\ttype ipv6_addr\n\t\telements = { fd00::1 }",
        "set i6 {\n\t\ttype ipv6_addr\n\t\tflags interval\n\t\telements = { fd00::/112 }",
        "set p4 {\n\t\ttype ipv4_addr . inet_proto . inet_service\n\t\telements = { 10.0.0.1 . tcp . 80 }",
        "set p6 {\n\t\ttype ipv6_addr . inet_proto . inet_service\n\t\telements = { fd00::1 . udp . 53 }",
        "set n6 {\n\t\ttype ifname . ipv6_addr\n\t\telements = { \"cali1\" . fd00::1 }",
        "set r6 {\n\t\ttype ifname . ipv6_addr\n\t\tflags interval\n\t\telements = { \"cali1\" . fd00::/9 }",
        "set mac {\n\t\ttype ifname . ether_addr\n\t\telements = { \"cali1\" . ee:ee:ee:ee:ee:ee }",
        "set counted {\n\t\ttype ipv4_addr\n\t\tcounter\n\t\telements = { 10.0.0.9 counter packets 0 bytes 0 }",
        "5 : drop",
        "1242628097 : goto c1",
        "\"eth0\" : jump c1",
        "type devgroup : verdict",
        "type ifname : verdict",
        "0.0.0.0/8, 10.0.0.0/8,",
        "11.0.0.0-11.0.0.2, 255.0.0.0/8 }",
    ] {
        assert!(listing.contains(text), "{text}\n{listing}");
    }
}

#[test]
fn a_listing_loads_and_lists_the_same() {
    let kernel = Kernel::new();
    kernel.fill(&everything());
    let listing = kernel.list();
    let other = Kernel::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &listing).unwrap();
    other.netns.sh(&format!("nft -f {}", file.path().display()));
    assert_eq!(other.list(), listing);
    let difference = other.differs(&as_nft_says_it());
    assert_eq!(difference.drift, []);
}

#[test]
fn what_is_read_back_is_what_was_written() {
    let kernel = Kernel::new();
    assert_eq!(kernel.table().read().unwrap(), None, "there is no table");
    kernel.fill(&everything());
    let difference = kernel.differs(&everything());
    assert!(difference.is_none() && difference.drift.is_empty(), "{:#?}", difference.drift);
    // And after a restart nothing is written.
    kernel.restart();
    assert!(kernel.differs(&everything()).is_none());
    assert_eq!(kernel.write(&everything_again()).unwrap().messages, 0);
}

/// Everything, with what nft adds or moves when it reads its listing: it asks for the family of ICMP.
fn as_nft_says_it() -> Contents {
    let mut all = everything();
    let chain = all.chains.get_mut("matches").unwrap();
    for rule in &mut std::sync::Arc::make_mut(chain).rules {
        let family = match rule.matches.as_slice() {
            [Match::Protocol { number: 1, .. }, Match::Icmp { .. }] => Family::V4,
            [Match::Protocol { number: 58, .. }, ..] => Family::V6,
            // nft asks for the protocol where it is first needed.
            [Match::Protocol { .. }, Match::Address { .. }, Match::Ports { .. }] => {
                rule.matches.swap(0, 1);
                continue;
            }
            _ => continue,
        };
        rule.matches.insert(0, Match::Family(family));
    }
    all
}

/// Every chain again, which changes nothing.
fn everything_again() -> Vec<Change> {
    let all = everything().as_changes().into_iter();
    all.filter(|change| matches!(change, Change::PutChain(..))).collect()
}
