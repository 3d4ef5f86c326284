use super::*;
use crate::felix::Flavour::{Legacy, Nft};

fn facts(flavour: Flavour, text: &str) -> Facts {
    Facts {
        nft: Vec::new(),
        iptables: vec![(flavour, Family::V4, save::parse(flavour, Family::V4, text))],
        chosen: Some(Nft),
        allow: AllowAction::Accept,
        prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        uplinks: vec!["eth0".to_owned()],
        pods: vec![IpAddr::from([192, 168, 0, 1])],
        bgp: Bgp::Works,
    }
}

#[test]
fn any_chain_on_the_way_counts() {
    for (table, rule, dropped) in [
        ("mangle", "-A PREROUTING -i cali+ -j DROP", true),
        ("raw", "-A PREROUTING -s 192.168.0.0/16 -j DROP", true),
        ("security", "-A FORWARD -j DROP", true),
        ("mangle", "-A POSTROUTING -o cali+ -j DROP", true),
        ("mangle", "-A OUTPUT -j DROP", false),
        ("filter", "-A INPUT -j DROP", false),
        // There is no drop in nat; and nothing of ours either.
        ("nat", "-A PREROUTING -j DROP", false),
    ] {
        let text = format!(
            "*{table}\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n\
             :OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n"
        );
        let found = obstacles(&facts(Legacy, &text));
        assert_eq!(!found.is_empty(), dropped, "{table} {rule}: {found:#?}");
    }
}

#[test]
fn an_obstacle_says_where_whose_and_what_to_do() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n";
    let facts = facts(Legacy, text);
    let found = obstacles(&facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].place(), "IPv4 iptables-legacy FORWARD");
    let finding = found[0].finding();
    assert!(
        finding.contains("`policy drop` drops what policy accepts")
            && finding.contains("(IPv4 packets between pods, from pods, to pods)"),
        "{finding}"
    );
    let advice = manager::advice(&found[0], &facts.prefixes);
    for part in [
        "iptables-legacy -I FORWARD -i cali+ -j ACCEPT",
        "iptables-legacy -I FORWARD -o tap+ -j ACCEPT",
        "FELIX_IPTABLESBACKEND=legacy",
    ] {
        assert!(advice.contains(part), "{part}: {advice}");
    }
}

/// What firewalld leaves behind when its reload fails.
#[test]
fn a_reload_that_failed_is_told() {
    let text = r#"{"nftables":[{"chain":{"family":"inet","table":"firewalld_policy_drop",
        "name":"filter_forward","type":"filter","hook":"forward","prio":9,"policy":"drop"}}]}"#;
    let mut facts = facts(Legacy, "");
    facts.nft = nft::parse(text).unwrap();
    let found = obstacles(&facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    let advice = manager::advice(&found[0], &facts.prefixes);
    assert!(advice.contains("`systemctl restart firewalld`"), "{advice}");
}
