//! Other programs that write the same tables, hold what we want to change, or left what we cannot
//! use: what is refused is named and kept apart, and everything else is in force.

use std::sync::Arc;
use std::time::Duration;

use calico_agent::desired::{AddressSet, Member, SetId, SetKind};
use calico_agent::exec::Exec;
use calico_agent::felix::counters::Counters;
use calico_agent::felix::iptables::driver::Driver;
use calico_agent::felix::iptables::save::Table;
use calico_agent::felix::iptables::tables::FamilyTables;
use calico_agent::felix::probe;
use calico_agent::reconcile::{EndpointState, Report, Wake};
use calico_datastore::model::{Action, Family, Protocol, TierAction};

use crate::host::{Flavour, Host, each_flavour, v4};
use crate::netns::sh;
use crate::tampering::place;
use crate::world::*;

fn subjects(report: &Report) -> Vec<&str> {
    report.problems.iter().map(|problem| problem.subject.as_str()).collect()
}

#[test]
fn a_chain_that_somebody_else_leads_to_stays_and_every_other_goes() {
    each_flavour(|host, flavour| {
        let mut place = place(host, flavour);
        for (class, name) in [("x", "one"), ("y", "two"), ("z", "three")] {
            policy(&mut place.state, name, vec![tcp(Action::Deny, &[class.len() as u16])]);
        }
        // What no class asks is not programmed.
        let asks =
            |names: &[&str]| ingress_tiers(vec![tier("first", names, TierAction::Deny)], "gone");
        let class = asks(&["one", "two", "three"]);
        place.state.classes.insert(class.id(), Arc::new(class.clone()));
        host.apply(&place.state, Wake::Start);
        // While they are there somebody begins to use one chain and one set.
        host.iptables(4, "-N THEIRS");
        host.iptables(4, "-A THEIRS -j cali-pi-two");
        sh("ipset create cali40s:old hash:net");
        host.iptables(4, "-A THEIRS -m set --match-set cali40s:old src -j ACCEPT");
        let mut after = next(&place.state);
        for name in ["one", "two", "three"] {
            after.policies.remove(&policy_id(name));
        }
        policy(&mut after, "four", vec![tcp(Action::Deny, &[4])]);
        after.classes.remove(&class.id());
        let class = asks(&["four"]);
        after.classes.insert(class.id(), Arc::new(class));
        let report = host.run(&after, Wake::Retry);
        assert_eq!(report.applied, Some(after.generation), "{report:#?}");
        let stuck = report.problems.iter().find(|p| p.subject == "chain cali-pi-two").unwrap();
        assert!(stuck.message.contains("in the chain THEIRS leads to it"), "{}", stuck.message);
        let saved = host.saved(4);
        for (chain, there) in [("one", false), ("two", true), ("three", false), ("four", true)] {
            assert_eq!(saved.contains(&format!(":cali-pi-{chain} ")), there, "{chain} in {saved}");
            assert!(!host.saved(6).contains(":cali-pi-two "));
        }
        place.works();
        // It is no reason to write again and again, and no change of somebody else either.
        let mut again = next(&after);
        policy(&mut again, "four", vec![tcp(Action::Deny, &[5])]);
        let restores = host.felix.counters().iptables_restores.get();
        let report = host.run(&again, Wake::Desired);
        assert!(subjects(&report).contains(&"chain cali-pi-two"), "{:?}", report.problems);
        assert_eq!(host.felix.counters().iptables_restores.get(), restores + 2);
        for _ in 0..3 {
            assert_eq!(host.run(&again, Wake::Retry).drift, []);
        }
        // Let go, both go.
        host.iptables(4, "-F THEIRS");
        host.iptables(4, "-X THEIRS");
        for _ in 0..20 {
            let report = host.run(&again, Wake::Retry);
            if report.problems.is_empty() && !sh("ipset list -n").contains("cali40s:old") {
                break;
            }
            host.sleep(Duration::from_millis(100));
        }
        assert!(!host.saved(4).contains("cali-pi-two") && !sh("ipset list -n").contains(":old"));
        host.apply(&again, Wake::Retry);
    });
}

#[test]
fn a_table_or_a_chain_of_the_kernel_that_cannot_be_used_keeps_no_other_from_being_written() {
    each_flavour(|host, flavour| {
        if flavour != Flavour::Nft {
            return; // Nobody can take the legacy tables away.
        }
        let place = place(host, flavour);
        // What iptables-nft does not take for its own: the hook at another priority, none at all.
        sh("nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 50; }'
            nft add table ip filter; nft add chain ip filter FORWARD");
        let report = host.run(&place.state, Wake::Start);
        assert_eq!(subjects(&report), ["IPv4 table filter", "IPv4 table nat"], "{report:#?}");
        assert!(report.retry && report.applied.is_none());
        let saved = host.saved(4);
        for line in ["-A PREROUTING", "-A INPUT", "-A cali-wl-forward", "-A cali-pi-web"] {
            assert!(saved.lines().any(|l| l.starts_with(line)), "{line} in {saved}");
        }
        assert!(!saved.contains("-A FORWARD"));
        // The other family is whole.
        assert!(place.a.reaches(place.b.v6(), 80) && !place.a.reaches(place.b.v6(), 81));
        assert!(place.a.reaches(place.b.v4(), 81), "nothing decides about IPv4, and that is said");
        assert!(matches!(&report.endpoints[&id(&place.b)], EndpointState::Error(_)));
        sh("nft delete table ip nat; nft delete chain ip filter FORWARD");
        host.apply(&place.state, Wake::Retry);
        place.works();
    });
}

#[test]
fn a_set_that_cannot_be_filled_closes_what_names_it_and_nothing_else() {
    each_flavour(|host, flavour| {
        let mut place = place(host, flavour);
        let c = host.pod(3);
        c.serve(80);
        // A thousand members that ipset refuses one by one: IGMP has no ports.
        let odd: Protocol = "2".parse().unwrap();
        let mut members: Vec<Member> =
            (0..1000).map(|i| Member::Port(v4((i % 250) as u8), odd, 1 + i)).collect();
        members.push(Member::Port(v4(3), Protocol::TCP, 80));
        let members = members.into_iter().collect();
        let named = AddressSet { kind: SetKind::Port, selector: "n:odd".into(), members };
        place.state.sets.insert(SetId::new("n:odd"), named);
        let mut rule = tcp(Action::Allow, &[]);
        rule.destination.named_ports = vec![SetId::new("n:odd")];
        policy(&mut place.state, "odd", vec![rule]);
        let class = ingress_tiers(vec![tier("t", &["odd"], TierAction::Deny)], "all");
        endpoint(&mut place.state, &c, &class, true);
        let report = host.run(&place.state, Wake::Start);
        assert_eq!(subjects(&report), ["address set cali40n:odd"], "{report:#?}");
        assert_eq!(report.applied, Some(place.state.generation));
        place.works();
        assert!(!place.a.reaches(c.v4(), 80));
        // Without the odd ones the rest is in force.
        let mut after = next(&place.state);
        let members = [Member::Port(v4(3), Protocol::TCP, 80)].into_iter().collect();
        let named = AddressSet { kind: SetKind::Port, selector: "n:odd".into(), members };
        after.sets.insert(SetId::new("n:odd"), named);
        host.run(&after, Wake::Desired);
        host.apply(&after, Wake::Retry);
        assert!(place.a.reaches(c.v4(), 80));
        place.works();
    });
}

#[test]
fn sets_of_another_type_under_our_names_are_replaced_also_where_old_rules_use_them() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        // As an old Felix had them: one in use, others not.
        sh("ipset create cali40s:friends hash:ip; ipset add cali40s:friends 10.65.0.99
            ipset create cali40local-endpoints hash:net; ipset create cali60s:friends bitmap:port range 1-9
            ipset create cali40all-ipam-pools hash:net timeout 5");
        host.iptables(4, "-N cali-old");
        host.iptables(4, "-A cali-old -m set --match-set cali40s:friends src -j ACCEPT");
        let mut report = host.run(&place.state, Wake::Start);
        // Closed, not open, as long as it is the old one.
        assert!(!place.a.reaches(place.b.v4(), 81));
        for _ in 0..30 {
            if report.problems.is_empty() && !report.retry {
                break;
            }
            host.sleep(Duration::from_millis(100));
            report = host.run(&place.state, Wake::Retry);
        }
        assert_eq!(report.problems, []);
        assert_eq!(report.drift, []);
        let sets = sh("ipset save");
        assert!(sets.contains("create cali40s:friends hash:net family inet"), "{sets}");
        assert!(!sets.contains("timeout") && !sets.contains("10.65.0.99"), "{sets}");
        place.works();
    });
}

fn driver(host: &Host, flavour: Flavour) -> Driver {
    let exec = Exec::default();
    let dataplane = host.block_on(probe(&exec, flavour.iptables())).unwrap().chosen;
    Driver::new(exec, dataplane, Counters::default())
}

/// As on a host where each try takes longer than a run may.
fn tables_in_no_time() -> FamilyTables {
    FamilyTables::new(Family::V4, Counters::default()).with_patience(Duration::ZERO)
}

/// Two policies in force become bad, and the search ends when it has found one of them.
#[test]
fn what_a_search_that_ends_early_found_bad_is_closed() {
    each_flavour(|host, flavour| {
        let driver = driver(host, flavour);
        let mut tables = tables_in_no_time();
        let closed = |_: Table, _: &str| vec!["--jump DROP".to_owned()];
        let names = ["cali-pi-one", "cali-pi-two"];
        let mut apply = |host: &Host, set: &str| {
            for name in names {
                tables.put(Table::Filter, name.to_owned(), vec![format!("{set}--jump ACCEPT")]);
            }
            host.block_on(tables.apply(&driver, &closed))
        };
        let verdicts = |host: &Host| {
            let saved = host.saved(4);
            names.map(|name| {
                let of = format!("-A {name} ");
                let rules: Vec<_> = saved.lines().filter(|line| line.starts_with(&of)).collect();
                assert_eq!(rules.len(), 1, "{saved}");
                rules[0].rsplit(' ').next().unwrap_or_default().to_owned()
            })
        };
        assert!(apply(host, "").failed.is_empty());
        assert_eq!(verdicts(host), ["ACCEPT", "ACCEPT"]);
        let bad = "-m set --match-set cali40s:nowhere src ";
        let outcome = apply(host, bad);
        assert!(matches!(outcome.failed.as_slice(), [(Table::Filter, _)]), "{outcome:?}");
        let [(found, _)] = outcome.refused.as_slice() else { panic!("{outcome:?}") };
        let expected = names.map(|name| if name == found { "DROP" } else { "ACCEPT" });
        assert_eq!(verdicts(host), expected);
        let outcome = apply(host, bad);
        assert!(outcome.failed.is_empty() && outcome.refused.len() == 2, "{outcome:?}");
        assert_eq!(verdicts(host), ["DROP", "DROP"]);
    });
}

#[test]
fn very_many_refused_policies_take_many_short_runs() {
    each_flavour(|host, flavour| {
        let driver = driver(host, flavour);
        let mut tables = tables_in_no_time();
        let name = |n: u32| format!("cali-pi-{n}");
        for n in 0..80 {
            let set = if n % 4 == 0 { "" } else { "-m set --match-set cali40s:nowhere src " };
            tables.put(Table::Filter, name(n), vec![format!("{set}--jump ACCEPT")]);
        }
        let closed = |_: Table, _: &str| vec!["--jump DROP".to_owned()];
        let mut runs = 0;
        let outcome = loop {
            runs += 1;
            let outcome = host.block_on(tables.apply(&driver, &closed));
            // What is not yet tried lets nothing through.
            let saved = host.saved(4);
            for n in (0..80).filter(|n| n % 4 != 0) {
                let rules: Vec<&str> = saved
                    .lines()
                    .filter(|line| line.starts_with(&format!("-A {} ", name(n))))
                    .collect();
                assert!(matches!(rules.as_slice(), [one] if one.ends_with("-j DROP")), "{rules:?}");
            }
            match outcome.failed.as_slice() {
                [] => break outcome,
                [(Table::Filter, error)] => {
                    assert!(error.to_string().contains("still to be tried"), "{error}");
                }
                other => panic!("{other:?}"),
            }
            tables.forget();
            // Each has settled something.
            assert!(runs < 80);
        };
        assert!(runs > 1, "{runs}");
        assert_eq!(outcome.refused.len(), 60);
        let open = (0..80).filter(|n| n % 4 == 0).all(|n| {
            host.saved(4).lines().any(|line| {
                line.starts_with(&format!("-A {} ", name(n))) && line.ends_with("-j ACCEPT")
            })
        });
        assert!(open);
        // The set comes, and the next reading tries them all again.
        sh("ipset create cali40s:nowhere hash:net");
        tables.forget();
        let outcome = host.block_on(tables.apply(&driver, &closed));
        assert!(outcome.failed.is_empty() && outcome.refused.is_empty(), "{outcome:?}");
        assert!(!host.saved(4).contains("-j DROP"));
    });
}
