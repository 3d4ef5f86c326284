//! What is written, what is left alone, and what is put right again.

use std::time::Duration;

use calico_agent::desired::SetId;
use calico_agent::felix::counters::Counters;
use calico_agent::reconcile::{EndpointState, Wake};
use calico_datastore::model::{Action, InterfaceName, PortRange, Protocol};

use crate::host::{Flavour, Host, Pod, each_dataplane, each_flavour};
use crate::netns::sh;
use crate::world::*;

/// (saves, restores, bytes, lines) of iptables and (saves, restores, lines) of ipset so far.
fn numbers(counters: &Counters) -> [u64; 7] {
    [
        counters.iptables_saves.get(),
        counters.iptables_restores.get(),
        counters.iptables_bytes.get(),
        counters.iptables_lines.get(),
        counters.ipset_saves.get(),
        counters.ipset_restores.get(),
        counters.ipset_lines.get(),
    ]
}

fn since(counters: &Counters, before: [u64; 7]) -> [u64; 7] {
    let now = numbers(counters);
    std::array::from_fn(|i| now[i] - before[i])
}

fn small_world(
    host: &mut Host,
    flavour: Flavour,
) -> (Pod, Pod, calico_agent::desired::DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    b.serve(80);
    let mut state = empty(flavour);
    network(&mut state, "net", &[1, 2]);
    endpoint(&mut state, &a, &profiles(&["net"]), true);
    state.pools.insert("10.65.0.0/16".parse().unwrap(), true);
    (a, b, state)
}

#[test]
fn one_endpoint_more_in_a_class_sends_its_elements_and_its_mac_rule() {
    each_flavour(|host, flavour| {
        let (a, b, state) = small_world(host, flavour);
        host.apply(&state, Wake::Start);
        let before = numbers(&host.felix.counters());

        let mut with = next(&state);
        endpoint(&mut with, &b, &profiles(&["net"]), false);
        host.apply(&with, Wake::Desired);
        // Class set, set of all and four sets that count, IPv4 and IPv6; nothing is read and no table is
        // written.
        assert_eq!(since(&host.felix.counters(), before), [0, 0, 0, 0, 0, 1, 12]);
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));

        let mut with_mac = next(&with);
        endpoint(&mut with_mac, &b, &profiles(&["net"]), true);
        let before = numbers(&host.felix.counters());
        host.apply(&with_mac, Wake::Desired);
        let [saves, restores, _, lines, _, ipset, _] = since(&host.felix.counters(), before);
        // Its MAC rule and nothing else, in both families.
        assert_eq!((saves, restores, lines, ipset), (0, 2, 2, 0));
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));

        // The same again costs nothing.
        let before = numbers(&host.felix.counters());
        host.apply(&next(&with_mac), Wake::Desired);
        assert_eq!(since(&host.felix.counters(), before), [0; 7]);
    });
}

#[test]
fn a_changed_rule_sends_its_policys_chain_only() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        policy(&mut state, "p", vec![tcp(Action::Allow, &[80])]);
        policy(&mut state, "q", vec![tcp(Action::Allow, &[90])]);
        let class = ingress_tiers(
            vec![tier("default", &["p", "q"], calico_datastore::model::TierAction::Deny)],
            "net",
        );
        endpoint(&mut state, &b, &class, true);
        host.apply(&state, Wake::Start);
        assert!(a.reaches(b.v4(), 80));
        let before = numbers(&host.felix.counters());
        let mut state = next(&state);
        policy(&mut state, "p", vec![tcp(Action::Deny, &[80])]);
        host.apply(&state, Wake::Desired);
        let sent = since(&host.felix.counters(), before);
        // One chain of one rule in each family, and the empty one of the other direction is equal.
        assert_eq!((sent[0], sent[1], sent[3], sent[5]), (0, 2, 4, 0));
        for to in b.both() {
            assert!(!a.reaches(to, 80), "{to}");
        }
    });
}

#[test]
fn started_again_on_an_unchanged_world_it_writes_nothing() {
    each_dataplane(|host, flavour| {
        let (_a, b, mut state) = small_world(host, flavour);
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        // Everything that the kernel might print in another way than it was written.
        let mut rule = tcp(Action::Deny, &[]);
        rule.source.nets = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        rule.destination.not_ports = (1..=20).map(PortRange::single).collect();
        let mut other = any(Action::Log);
        other.protocol = Some(Protocol::SCTP);
        policy(&mut state, "p", vec![rule, other]);
        host.apply(&state, Wake::Start);
        assert!(host.felix.counters().writes() > 0);
        let (v4, v6, sets) =
            (host.saved(4), host.saved(6), sh("ipset save | sed 's/ packets .*//' | sort"));
        host.restart();
        let report = host.apply(&next(&state), Wake::Start);
        assert_eq!(host.felix.counters().writes(), 0, "{:?}", report.facts);
        assert_eq!(
            (host.saved(4), host.saved(6), sh("ipset save | sed 's/ packets .*//' | sort")),
            (v4, v6, sets)
        );
    });
}

#[test]
fn what_is_not_ours_is_not_touched() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        sh("ipset create foreign hash:ip; ipset add foreign 192.0.2.9");
        for family in [4, 6] {
            for rule in [
                "-N DOCKER",
                "-A DOCKER -m mark --mark 0x7 -j RETURN",
                "-A FORWARD -j DOCKER",
                "-A FORWARD -m comment --comment \"a note on cali\" -j ACCEPT",
                "-t mangle -A PREROUTING -p tcp -j MARK --set-mark 0x7/0xffff",
                "-t mangle -A POSTROUTING -o cali+ -p tcp --dport 80 -m mark --mark 0x7/0xffff",
                "-t mangle -A POSTROUTING -o cali+ -p tcp --dport 80 -m mark ! --mark 0x7/0xffff",
                "-t nat -A POSTROUTING -o eth7 -j MASQUERADE",
                "-t raw -A PREROUTING -i eth7 -j ACCEPT",
            ] {
                host.iptables(family, rule);
            }
        }
        let v = if flavour == Flavour::Legacy { "legacy" } else { "nft" };
        let foreign = |host: &Host| -> String {
            // The last packets of a connection come after it.
            host.sleep(Duration::from_millis(200));
            let both = sh(&format!("iptables-{v}-save -c; ip6tables-{v}-save -c"));
            let ours = |l: &str| l.contains("-A cali-") || l.contains("-j cali-");
            let rules = both.lines().filter(|l| l.starts_with('[') && !ours(l));
            rules.collect::<Vec<_>>().join("\n")
        };
        let hits = |text: &str, rule: &str| -> Vec<bool> {
            let lines = text.lines().filter(|l| l.ends_with(rule));
            lines.map(|l| !l.starts_with("[0:")).collect()
        };
        // Counters that count.
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
        let before = foreign(host);
        assert_eq!(hits(&before, "-A FORWARD -j DOCKER"), [true, true], "{before}");
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        host.apply(&state, Wake::Start);
        assert_eq!(foreign(host), before, "rules and counters");
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
        let after = foreign(host);
        // The mark of somebody else went through our chains.
        assert_eq!(hits(&after, "-m mark --mark 0x7/0xffff"), [true, true], "{after}");
        assert_eq!(hits(&after, "-m mark ! --mark 0x7/0xffff"), [false, false], "{after}");
        host.apply(&empty_like(&state), Wake::Desired);
        assert_eq!(foreign(host), after);
        let left = host.saved(4);
        assert!(!left.contains("cali-tw-") && !left.contains("cali-pri-"), "{left}");
        assert!(sh("ipset list foreign").contains("192.0.2.9"));
    });
}

/// The state without anything but its settings.
fn empty_like(state: &calico_agent::desired::DesiredState) -> calico_agent::desired::DesiredState {
    calico_agent::desired::DesiredState {
        generation: state.generation + 1,
        settings: std::sync::Arc::clone(&state.settings),
        ..Default::default()
    }
}

#[test]
fn leftovers_of_an_earlier_run_go_and_so_do_those_of_felix() {
    each_dataplane(|host, flavour| {
        let (_a, _b, state) = small_world(host, flavour);
        sh("ipset create cali40s:old hash:net; ipset create felix-other hash:net");
        for family in [4, 6] {
            for rule in [
                "-N cali-tw-cali123",
                "-N cali-old",
                "-A cali-old -j cali-tw-cali123",
                "-t mangle -N cali-PREROUTING",
                "-t mangle -A PREROUTING -m comment --comment \"cali:6gwbT8clXdHdC1b1\" -j cali-PREROUTING",
                "-A FORWARD -m comment --comment \"cali:S93hcgKJrXEqnTfs\" -m mark --mark 0x10000/0x10000 -j ACCEPT",
                "-N felix-FORWARD",
                "-A FORWARD -j felix-FORWARD",
            ] {
                host.iptables(family, rule);
            }
        }
        host.iptables(4, "-A cali-old -m set --match-set cali40s:old src -j DROP");
        host.apply(&state, Wake::Start);
        for family in [4, 6] {
            let saved = host.saved(family);
            for old in ["cali123", "cali-old", "S93hcgKJ", "felix", "6gwbT8cl"] {
                assert!(!saved.contains(old), "{old} in {saved}");
            }
        }
        // The kernel may let go of a set some time after its rule.
        for _ in 0..20 {
            if !sh("ipset list -n").contains("cali40s:old") {
                break;
            }
            host.sleep(Duration::from_millis(100));
            host.apply(&state, Wake::Timer);
        }
        let sets = sh("ipset list -n");
        assert!(!sets.contains("cali40s:old") && sets.contains("felix-other"), "{sets}");
    });
}

#[test]
fn what_others_break_is_put_right() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        settings(&mut state, |s| {
            s.iptables_post_write_check = Duration::from_millis(20);
            s.ipsets_refresh = Duration::from_millis(20);
            s.iptables_refresh = Duration::from_millis(40);
        });
        let report = host.apply(&state, Wake::Start);
        assert!(report.wake_after.unwrap() <= Duration::from_millis(20));
        let whole = host.saved(4);
        host.iptables(4, "-F cali-wl-forward");
        host.iptables(4, "-I FORWARD -s 192.0.2.77/32 -j DROP");
        host.iptables(4, "-t nat -I POSTROUTING -s 192.0.2.77/32 -j ACCEPT");
        sh("ipset del cali40local-endpoints 10.65.0.1,calipod1; ipset add cali40s:net 192.0.2.66");
        host.sleep(Duration::from_millis(50));
        host.apply(&state, Wake::Timer);
        let saved = host.saved(4);
        let forward = saved.lines().find(|l| l.starts_with("-A FORWARD")).unwrap();
        assert!(forward.ends_with("-j cali-FORWARD"), "ours is first again: {forward}");
        let nat = saved.lines().find(|l| l.starts_with("-A POSTROUTING")).unwrap();
        assert!(nat.contains("192.0.2.77"), "in nat it is enough to be there: {nat}");
        let ours = |text: &str| {
            let mut lines: Vec<_> =
                text.lines().filter(|l| l.contains("cali")).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(ours(&saved), ours(&whole));
        let sets = sh("ipset save");
        assert!(sets.contains("add cali40local-endpoints 10.65.0.1,calipod1"));
        assert!(!sets.contains("192.0.2.66"));
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
        // And when nothing was broken, looking again writes nothing.
        let writes = host.felix.counters().writes();
        host.sleep(Duration::from_millis(50));
        host.apply(&state, Wake::Timer);
        assert_eq!(host.felix.counters().writes(), writes);
    });
}

#[test]
fn a_policy_that_the_kernel_refuses_is_closed_and_the_others_work() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        let c = host.pod(3);
        c.serve(80);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        // A set that is not part of the state: no kernel takes the rule.
        let mut bad = from_set(any(Action::Allow), "s:nowhere");
        bad.protocol = Some(Protocol::TCP);
        policy(&mut state, "bad", vec![bad]);
        policy(&mut state, "good", vec![tcp(Action::Allow, &[80])]);
        let class = |name: &str| {
            ingress_tiers(
                vec![tier("default", &[name], calico_datastore::model::TierAction::Deny)],
                "all",
            )
        };
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        endpoint(&mut state, &b, &class("good"), true);
        endpoint(&mut state, &c, &class("bad"), true);
        let report = host.run(&state, Wake::Start);
        let subjects: Vec<_> = report.problems.iter().map(|p| p.subject.as_str()).collect();
        assert!(!subjects.is_empty() && subjects.iter().all(|s| *s == "policy bad"), "{report:?}");
        assert_eq!(report.endpoints[&id(&b)], EndpointState::Up);
        for to in b.both() {
            assert!(a.reaches(to, 80), "{to}");
        }
        for to in c.both() {
            assert!(!a.reaches(to, 80), "{to}");
        }
        // Made good, it is in force.
        let mut state = next(&state);
        set(&mut state, "s:nowhere", &[1]);
        policy(&mut state, "bad", vec![from_set(tcp(Action::Allow, &[80]), "s:nowhere")]);
        host.apply(&state, Wake::Desired);
        for to in c.both() {
            assert!(a.reaches(to, 80), "{to}");
        }
        assert!(state.sets.contains_key(&SetId::new("s:nowhere")));
    });
}

#[test]
fn the_other_flavour_is_cleaned_when_the_setting_changes() {
    each_flavour(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        host.apply(&state, Wake::Start);
        assert!(host.saved(4).contains("cali-FORWARD"));
        let other = match flavour {
            Flavour::Legacy => Flavour::Nft,
            _ => Flavour::Legacy,
        };
        let mut state = next(&state);
        settings(&mut state, |s| choose(s, other));
        host.apply(&state, Wake::Desired);
        for family in [4, 6] {
            assert!(!host.saved(family).contains("cali"), "{}", host.saved(family));
        }
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80));
    });
}

#[test]
fn a_missing_interface_is_told_and_followed() {
    each_dataplane(|host, flavour| {
        let (a, b, mut state) = small_world(host, flavour);
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        let link = host.links.remove(&"calipod2".parse::<InterfaceName>().unwrap()).unwrap();
        let report = host.apply(&state, Wake::Start);
        assert_eq!(report.endpoints[&id(&a)], EndpointState::Up);
        let missing = EndpointState::Down("interface calipod2 is missing".to_owned());
        assert_eq!(report.endpoints[&id(&b)], missing);
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/calipod2/proxy_arp").trim(), "0");
        host.links.insert("calipod2".parse().unwrap(), link);
        let report = host.apply(&state, Wake::Links);
        assert_eq!(report.endpoints[&id(&b)], EndpointState::Up);
        for (file, value) in [
            ("ipv4/conf/calipod2/proxy_arp", "1"),
            ("ipv4/conf/calipod2/rp_filter", "1"),
            ("ipv4/conf/calipod2/route_localnet", "1"),
            ("ipv6/conf/calipod2/accept_ra", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            assert_eq!(sh(&format!("cat /proc/sys/net/{file}")).trim(), value, "{file}");
        }
    });
}
