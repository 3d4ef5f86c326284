use std::net::IpAddr;

use super::*;
use crate::beside::{nft, save};
use crate::felix::Flavour;

fn packet(from: &str, to: &str) -> Packet {
    Packet {
        from: from.to_owned(),
        to: Some(to.to_owned()),
        source: Some(IpAddr::from([192, 168, 0, 1])),
        destination: IpAddr::from([203, 0, 113, 1]),
        port: 47_999,
    }
}

/// What becomes of a packet from a pod to eth0.
fn decided(rules: &str) -> Fate {
    let text = format!(
        "*filter\n:FORWARD DROP [0:0]\n:one - [0:0]\n:two - [0:0]\n:cali-FORWARD - [0:0]\n{rules}\nCOMMIT\n"
    );
    let table = save::parse(Flavour::Legacy, Family::V4, &text).remove(0);
    let ours = |name: &str| name.starts_with("cali-").then_some(Ours::Accept);
    fate(&table, "FORWARD", &packet("cali1", "eth0"), &ours)
}

#[test]
fn a_packet_goes_as_the_kernel_lets_it() {
    for (rules, passes) in [
        ("", false),
        ("-A FORWARD -j ACCEPT", true),
        ("-A FORWARD -i cali+ -j ACCEPT", true),
        ("-A FORWARD ! -i cali+ -j ACCEPT", false),
        ("-A FORWARD -i cali+ -o eth1 -j ACCEPT", false),
        ("-A FORWARD -s 192.168.0.0/16 -j ACCEPT", true),
        ("-A FORWARD ! -s 192.168.0.0/16 -j ACCEPT", false),
        ("-A FORWARD -p tcp -j ACCEPT", true),
        ("-A FORWARD -p udp -j ACCEPT", false),
        ("-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT", false),
        ("-A FORWARD -p tcp -m multiport --dports 80,1000:65535 -j ACCEPT", true),
        ("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", false),
        ("-A FORWARD -m conntrack --ctstate NEW -j ACCEPT", true),
        ("-A FORWARD -j cali-FORWARD", true),
        ("-A FORWARD -j REJECT\n-A FORWARD -j cali-FORWARD", false),
        // There and back.
        ("-A FORWARD -j one\n-A one -j RETURN\n-A one -j ACCEPT", false),
        ("-A FORWARD -j one\n-A FORWARD -j ACCEPT\n-A one -j RETURN", true),
        // There and not back.
        ("-A FORWARD -g one\n-A FORWARD -j ACCEPT\n-A one -i eth0 -j ACCEPT", false),
        ("-A FORWARD -j one\n-A FORWARD -j ACCEPT\n-A one -g two\n-A one -j DROP", true),
        ("-A FORWARD -j one\n-A one -j two\n-A two -j ACCEPT", true),
        // No circle is walked for ever; the kernel refuses it.
        ("-A FORWARD -j one\n-A one -j two\n-A two -j one", false),
        // What leads nowhere.
        ("-A FORWARD -j LOG\n-A FORWARD -j NOWHERE\n-A FORWARD -j ACCEPT", true),
    ] {
        let fate = decided(rules);
        assert_eq!(fate == Fate::Passes, passes, "{rules}: {fate:?}");
        if let Fate::Drops(dropped) = fate {
            assert_eq!(dropped.unless, None, "{rules}");
        }
    }
}

#[test]
fn what_is_not_understood_is_told() {
    for (rules, unless) in [
        ("-A FORWARD -m set --match-set x src -j ACCEPT", true),
        ("-A FORWARD -m mark --mark 0x1/0x1 -j one\n-A one -j ACCEPT", true),
        ("-A FORWARD -j NFQUEUE --queue-num 1", true),
        ("-A FORWARD -j one\n-A one -m mark --mark 0x1 -j RETURN\n-A one -j DROP", true),
        ("-A FORWARD -m mark --mark 0x1 -j RETURN\n-A FORWARD -j DROP", false),
        ("-A FORWARD -j one\n-A one -m addrtype --dst-type LOCAL -j RETURN\n-A one -j DROP", false),
        // It is for others in any case.
        ("-A FORWARD -i eth0 -m mark --mark 0x1 -j ACCEPT", false),
        ("-A FORWARD -m mark --mark 0x1 -i eth0 -j ACCEPT", false),
        ("-A FORWARD -m mark --mark 0x1 -j one\n-A one -i eth0 -j ACCEPT", false),
        ("-A FORWARD -m limit --limit 3/min -j LOG", false),
        ("-A FORWARD -m limit --limit 3/min -j DROP", false),
    ] {
        let Fate::Drops(dropped) = decided(rules) else { panic!("{rules}") };
        assert_eq!(dropped.unless.is_some(), unless, "{rules}: {dropped:?}");
    }
    // Nobody is told of what may be dropped as little as of what is dropped for its address.
    assert_eq!(
        decided("-A FORWARD -m set --match-set x src -j DROP\n-A FORWARD -j ACCEPT"),
        Fate::Passes
    );
}

/// Rules of nftables, as `nft -j` prints their expressions, in a chain whose policy is drop.
fn decided_nft(rules: &[&str], from: &str, to: &str) -> Fate {
    let mut objects = vec![
        r#"{"chain":{"family":"inet","table":"t","name":"f","type":"filter","hook":"forward","prio":0,"policy":"drop"}}"#.to_owned(),
        r#"{"chain":{"family":"inet","table":"t","name":"one"}}"#.to_owned(),
        r#"{"set":{"family":"inet","table":"t","name":"pods","elem":["cali*","tap1"]}}"#.to_owned(),
        r#"{"set":{"family":"inet","table":"t","name":"none"}}"#.to_owned(),
        r#"{"map":{"family":"inet","table":"t","name":"way","map":"verdict","elem":[["eth9",{"drop":null}],["cali*",{"goto":{"target":"one"}}]]}}"#.to_owned(),
    ];
    objects.extend(rules.iter().map(|rule| {
        let (chain, expr) = rule.split_once(' ').unwrap_or_default();
        format!(r#"{{"rule":{{"family":"inet","table":"t","chain":"{chain}","handle":7,"expr":[{expr}]}}}}"#)
    }));
    let text = format!(r#"{{"nftables":[{}]}}"#, objects.join(","));
    let table = nft::parse(&text).unwrap().remove(0);
    fate(&table, "f", &packet(from, to), &|_| None)
}

#[test]
fn nftables_decides_as_the_kernel_does() {
    let accept = r#"{"accept":null}"#;
    let matches = |left: &str, op: &str, right: &str| {
        format!(r#"f {{"match":{{"op":"{op}","left":{left},"right":{right}}}}},{accept}"#)
    };
    let meta =
        |key: &str, right: &str| matches(&format!(r#"{{"meta":{{"key":"{key}"}}}}"#), "==", right);
    let payload = |protocol: &str, field: &str, op: &str, right: &str| {
        let left = format!(r#"{{"payload":{{"protocol":"{protocol}","field":"{field}"}}}}"#);
        matches(&left, op, right)
    };
    for (rule, passes) in [
        (format!("f {accept}"), true),
        (format!(r#"f {{"counter":{{"packets":1,"bytes":2}}}},{accept}"#), true),
        (meta("iifname", r#""cali*""#), true),
        (meta("oifname", r#""cali*""#), false),
        (meta("iifname", r#""@pods""#), true),
        (meta("iifname", r#""@none""#), false),
        (meta("iifname", r#"{"set":["lo","cali1"]}"#), true),
        (meta("nfproto", r#""ipv4""#), true),
        (meta("nfproto", r#""ipv6""#), false),
        (meta("l4proto", r#"{"set":["tcp","udp"]}"#), true),
        (payload("ip", "saddr", "==", r#"{"prefix":{"addr":"192.168.0.0","len":16}}"#), true),
        (payload("ip", "saddr", "!=", r#"{"prefix":{"addr":"192.168.0.0","len":16}}"#), false),
        (payload("ip", "daddr", "==", r#"{"range":["203.0.113.0","203.0.113.9"]}"#), true),
        // A header that is not there matches neither way.
        (payload("ip6", "saddr", "!=", r#""fd00::1""#), false),
        (payload("udp", "dport", "!=", "53"), false),
        (payload("tcp", "dport", "!=", "53"), true),
        (payload("tcp", "dport", ">", "1024"), true),
        (payload("tcp", "dport", "<", "1024"), false),
        (payload("tcp", "dport", "==", r#"{"set":[22,{"range":[40000,65535]}]}"#), true),
        (matches(r#"{"ct":{"key":"state"}}"#, "in", r#"["established","related"]"#), false),
        (matches(r#"{"ct":{"key":"state"}}"#, "==", r#"{"set":["new","established"]}"#), true),
        (matches(r#"{"ct":{"key":"status"}}"#, "in", r#""dnat""#), false),
        (
            format!(
                r#"f {{"vmap":{{"key":{{"meta":{{"key":"iifname"}}}},"data":{{"set":[["eth9",{{"drop":null}}],["cali1",{accept}]]}}}}}}"#
            ),
            true,
        ),
        (r#"f {"jump":{"target":"one"}}"#.to_owned(), false),
    ] {
        let fate = decided_nft(&[&rule], "cali1", "eth0");
        assert_eq!(fate == Fate::Passes, passes, "{rule}: {fate:?}");
    }
    let way = r#"f {"vmap":{"key":{"meta":{"key":"iifname"}},"data":"@way"}}"#;
    assert_eq!(decided_nft(&[way, r#"one {"accept":null}"#], "cali1", "eth0"), Fate::Passes);
    let Fate::Drops(dropped) = decided_nft(
        &[way, r#"one {"reject":{"type":"icmpx","expr":"admin-prohibited"}}"#],
        "cali1",
        "eth0",
    ) else {
        panic!("it passes");
    };
    assert_eq!(dropped.path, ["f", "one"]);
    assert_eq!(dropped.rule, "reject with icmpx admin-prohibited (handle 7)");
    let unknown = matches(r#"{"meta":{"key":"mark"}}"#, "==", "1");
    let Fate::Drops(dropped) = decided_nft(&[&unknown], "cali1", "eth0") else { panic!("passes") };
    assert!(dropped.unless.is_some(), "{dropped:?}");
}
