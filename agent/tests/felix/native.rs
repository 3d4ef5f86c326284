//! A table of our own: what a change costs, what a restart finds, what others do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use calico_agent::desired::{DesiredState, Origin};
use calico_agent::drift::Change;
use calico_agent::felix::leftovers::Leftovers;
use calico_agent::felix::watch::Watch;
use calico_agent::reconcile::{EndpointState, Wake};
use calico_agent::status::systemd::Watchdog;
use calico_datastore::model::{Action, InterfaceName, TierAction};

use crate::host::{Flavour, Host, Pod, on_nftables};
use crate::netns::sh;
use crate::world::*;

/// Two pods of a network of which nobody is let to port 81.
pub(crate) fn world(host: &mut Host, flavour: Flavour) -> (Pod, Pod, DesiredState) {
    let (a, b) = (host.pod(1), host.pod(2));
    b.serve(80);
    b.serve(81);
    let mut state = empty(flavour);
    network(&mut state, "net", &[1, 2]);
    policy(&mut state, "p", vec![tcp(Action::Deny, &[81]), any(Action::Pass)]);
    state.pools.insert("10.65.0.0/16".parse().unwrap(), true);
    endpoint(&mut state, &a, &profiles(&["net"]), true);
    let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "net");
    endpoint(&mut state, &b, &class, true);
    (a, b, state)
}

pub(crate) fn decides(a: &Pod, b: &Pod) {
    for to in b.both() {
        assert!(a.reaches(to, 80) && !a.reaches(to, 81), "{to}");
    }
}

/// What the table holds: elements, which come in no order, sorted.
pub(crate) fn table() -> Vec<String> {
    let text = sh("nft -s list table inet calico 2> /dev/null || true");
    let mut chain = false;
    let (mut chains, mut rest) = (Vec::new(), BTreeSet::new());
    for line in text.lines() {
        let line = line.trim();
        chain = (chain || line.starts_with("chain ")) && line != "}";
        if chain {
            chains.push(line.to_owned());
        } else {
            let elements = line.trim_start_matches("elements = {").trim_end_matches('}');
            rest.extend(elements.split(',').map(|one| one.trim().to_owned()));
        }
    }
    chains.extend(rest);
    chains
}

/// The groups of the interfaces of pods that are in one.
pub(crate) fn groups() -> BTreeMap<String, String> {
    let text = sh("ip -o link");
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(": ")?.1.split_once('@')?;
        let group = rest.split_once(" group ")?.1.split(' ').next()?;
        (group != "default").then(|| (name.to_owned(), group.to_owned()))
    });
    lines.collect()
}

/// Transactions, reads, interfaces put into groups, programs that wrote.
fn counts(host: &Host) -> [u64; 4] {
    let counters = host.felix.counters();
    let programs = counters.iptables_saves.get()
        + counters.iptables_restores.get()
        + counters.ipset_saves.get()
        + counters.ipset_restores.get();
    let (batches, reads) = (counters.nftables_batches.get(), counters.nftables_reads.get());
    [batches, reads, counters.link_groups.get(), programs]
}

#[test]
fn a_change_is_one_transaction_and_nothing_is_read_for_it() {
    on_nftables(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        host.apply(&state, Wake::Start);
        decides(&a, &b);
        assert_eq!(counts(host), [1, 1, 2, 0]);
        let costs = |host: &mut Host, state: &DesiredState, wake| {
            let before = counts(host);
            host.apply(state, wake);
            let now = counts(host);
            assert_eq!((now[1], now[3]), (before[1], before[3]), "read, or a program");
            [now[0] - before[0], now[2] - before[2]]
        };
        assert_eq!(costs(host, &next(&state), Wake::Desired), [0, 0], "nothing changed");

        let c = host.pod(3);
        c.serve(80);
        endpoint(&mut state, &c, &profiles(&["net"]), true);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [1, 1], "one more of a class");
        assert!(b.reaches(c.v4(), 80) && !c.reaches(b.v4(), 80), "it is no member of the network");
        network(&mut state, "net", &[1, 2, 3]);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [1, 0], "a member");
        assert!(c.reaches(b.v4(), 80) && c.reaches(b.v6(), 80));

        let class = ingress_tiers(vec![tier("default", &["p"], TierAction::Deny)], "net");
        endpoint(&mut state, &c, &class, true);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [0, 1], "to another class");
        policy(&mut state, "p", vec![tcp(Action::Deny, &[80])]);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [1, 0], "another rule");
        assert!(!a.reaches(c.v4(), 80) && !a.reaches(b.v4(), 80));

        // All of a class go to a new one: it has the group of the old one.
        let all = profiles(&["net", "all"]);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &all, true);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [1, 0], "a class for another");
        a.serve(82);
        assert!(c.reaches(a.v4(), 82) && c.reaches(a.v6(), 82));
        // One of two of a class goes to one that is there, and then the last, while a member goes, too: the
        // class is left before it goes.
        endpoint(&mut state, &b, &all, true);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [0, 1], "to another class");
        endpoint(&mut state, &c, &all, true);
        network(&mut state, "net", &[1, 2]);
        assert_eq!(costs(host, &next(&state), Wake::Desired), [2, 1], "to another class, the last");
    });
}

#[test]
fn a_restart_finds_all_as_it_was_and_writes_nothing() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        host.apply(&state, Wake::Start);
        let (before, placed) = (table(), groups());
        assert_eq!(placed.len(), 2, "{placed:?}");
        host.restart();
        host.apply(&state, Wake::Start);
        assert_eq!(counts(host), [0, 1, 0, 0]);
        assert_eq!((table(), groups()), (before, placed));
        decides(&a, &b);
        // Another class comes first now: those that were there keep their groups.
        host.restart();
        let mut more = next(&state);
        let c = host.pod(3);
        endpoint(&mut more, &c, &profiles(&["aaa", "net"]), true);
        profile(&mut more, "aaa", Vec::new(), Vec::new());
        let kept = groups();
        host.apply(&more, Wake::Start);
        let now = groups();
        assert_eq!(now.len(), 3);
        assert!(kept.iter().all(|one| now.get(one.0) == Some(one.1)), "{kept:?} {now:?}");
        decides(&a, &b);
        // What is gone when it starts again is in no group any more.
        host.restart();
        host.apply(&next(&state), Wake::Start);
        assert_eq!(groups(), kept);
    });
}

#[test]
fn a_state_from_disk_gives_and_takes_nothing() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        let c = host.pod(3);
        c.serve(80);
        let mut newer = next(&state);
        network(&mut newer, "more", &[1, 2, 3]);
        endpoint(&mut newer, &c, &profiles(&["more"]), true);
        host.apply(&newer, Wake::Start);
        let (many, placed) = (table(), groups());
        assert!(a.reaches(c.v4(), 80));

        host.restart();
        let origin = Origin::Stored { since: 0 };
        let stored = DesiredState { generation: 0, origin, ..state.clone() };
        host.apply(&stored, Wake::Start);
        assert_eq!((table(), groups()), (many.clone(), placed));
        decides(&a, &b);
        assert!(a.reaches(c.v4(), 80), "what it does not know is as it was");
        // Also when somebody else breaks something meanwhile.
        sh("nft flush chain inet calico forward-to-pod");
        host.felix.changes().touch(|touched| touched.table = true);
        let report = host.apply(&stored, Wake::Kernel);
        assert_eq!(report.drift.len(), 1, "{:?}", report.drift);
        assert_eq!(table(), many);
        // The datastore says the same: now everything else goes, without another look being due.
        let report = host.apply(&state, Wake::Desired);
        assert_eq!(report.drift, []);
        assert!(table().len() < many.len() && groups().len() == 2);
        decides(&a, &b);
        assert!(!a.reaches(c.v4(), 80));
    });
}

#[test]
fn a_pod_that_is_made_again_is_in_its_class_when_it_is_seen() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        host.apply(&state, Wake::Start);
        drop(b);
        sh(
            "for i in $(seq 100); do ip link show calipod2 > /dev/null 2>&1 || exit 0; sleep 0.02; done; ip link del calipod2",
        );
        host.links.remove(&"calipod2".parse::<InterfaceName>().unwrap());
        let report = host.apply(&state, Wake::Links);
        assert!(matches!(report.endpoints[&id_of(2)], EndpointState::Down(_)));
        let b = host.pod(2);
        b.serve(80);
        b.serve(81);
        assert!(!a.reaches(b.v4(), 80), "nobody knows it yet");
        let report = host.apply(&state, Wake::Links);
        assert_eq!(report.endpoints[&id_of(2)], EndpointState::Up);
        decides(&a, &b);
        // One that loses its endpoint is in no class.
        let mut less = next(&state);
        less.endpoints.remove(&id_of(2));
        host.apply(&less, Wake::Desired);
        assert_eq!(groups().keys().collect::<Vec<_>>(), ["calipod1"]);
        assert!(!a.reaches(b.v4(), 80));
    });
}

/// What somebody may do, how it is found, and what it is about.
const DEEDS: &[(&str, Change, &str)] = &[
    ("nft delete table inet calico", Change::Missing, "nftables the table"),
    ("nft flush ruleset", Change::Missing, "nftables the table"),
    ("nft flush chain inet calico forward-to-pod", Change::Modified, "forward-to-pod"),
    ("nft add rule inet calico forward-to-pod accept", Change::Modified, "forward-to-pod"),
    ("nft insert rule inet calico forward-to-pod accept", Change::Modified, "forward-to-pod"),
    ("nft add chain inet calico theirs", Change::Unexpected, "chain theirs"),
    ("nft add set inet calico theirs '{ type ipv4_addr; }'", Change::Unexpected, "set theirs"),
    ("nft add element inet calico pods-to '{ 7 : accept }'", Change::Unexpected, "set pods-to"),
    ("nft flush map inet calico pods-to", Change::Missing, "set pods-to"),
    ("ip link set calipod2 group 0", Change::Modified, "group of interface calipod2"),
    ("ip link set calipod2 group 77", Change::Modified, "group of interface calipod2"),
];

#[test]
fn whatever_others_change_is_named_and_put_right_within_a_tenth_of_a_second() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        let changes = host.felix.changes();
        let notify = changes.notify();
        let mut watch = host.block_on(async { Watch::open(&host.felix) });
        let mut watchdog = Watchdog::new();
        host.apply(&state, Wake::Start);
        let mut notice = |host: &Host, limit: Duration| {
            let heartbeat = watchdog.register("watch");
            host.block_on(async {
                tokio::select! {
                    biased;
                    () = watch.run(heartbeat) => {}
                    () = notify.notified() => {}
                    () = tokio::time::sleep(limit) => {}
                }
            });
        };
        notice(host, Duration::from_millis(100));
        assert!(changes.take().is_empty(), "our own work");
        let (whole, placed) = (table(), groups());
        for (deed, change, subject) in DEEDS {
            // A machine that is busy with other things may keep us waiting now and then.
            let mut tries = Vec::new();
            let report = loop {
                sh(deed);
                assert_ne!(
                    (table(), groups()),
                    (whole.clone(), placed.clone()),
                    "{deed} did nothing"
                );
                let begin = Instant::now();
                notice(host, Duration::from_secs(3));
                let report = host.apply(&state, Wake::Kernel);
                tries.push(begin.elapsed());
                if begin.elapsed() < Duration::from_millis(100) {
                    break report;
                }
                assert!(tries.len() < 10, "{deed}: {tries:?}");
            };
            let of_table = |drift: &&calico_agent::drift::Drift| {
                drift.change == *change && drift.subject.contains(subject)
            };
            let found = report.drift.iter().find(of_table);
            let found = found.unwrap_or_else(|| panic!("{deed}: {:?}", report.drift));
            assert_eq!(
                deed.starts_with("nft"),
                found.detail.contains("by nft (process"),
                "{found:?}"
            );
            assert_eq!((table(), groups()), (whole.clone(), placed.clone()), "{deed}");
            notice(host, Duration::from_millis(50));
            assert!(changes.take().is_empty(), "our own repair of {deed}");
            // Not a fight: different things.
            host.sleep(Duration::from_millis(20));
        }
        decides(&a, &b);
        // What is not ours wakes nobody, and what we change ourselves neither.
        sh("nft add table inet theirs; nft add chain inet theirs calico; nft add table ip calico
            ip link set lo group 5");
        let mut other = next(&state);
        policy(&mut other, "p", vec![tcp(Action::Deny, &[80])]);
        endpoint(&mut other, &a, &ingress_tiers(Vec::new(), "net"), false);
        host.apply(&other, Wake::Desired);
        notice(host, Duration::from_millis(300));
        assert!(changes.take().is_empty());
    });
}

#[test]
fn what_somebody_else_holds_on_to_keeps_nothing_from_coming_into_force() {
    on_nftables(|host, flavour| {
        let (a, b, mut state) = world(host, flavour);
        // Without a pass it has a chain of its own.
        policy(&mut state, "p", vec![tcp(Action::Deny, &[81]), any(Action::Allow)]);
        host.apply(&state, Wake::Start);
        let chain = sh("nft list table inet calico | grep -o 'chain pi-p ' | head -1");
        assert!(chain.contains("pi-p"), "{}", sh("nft list table inet calico"));
        sh("nft add chain inet calico theirs; nft add rule inet calico theirs jump pi-p");
        // The policy goes: its chain is still in use.
        let class = ingress_tiers(Vec::new(), "net");
        endpoint(&mut state, &b, &class, true);
        state.policies.clear();
        let state = next(&state);
        let first = host.run(&state, Wake::Desired);
        let report = if first.problems.is_empty() {
            first
        } else {
            // It was said, and the next try knows of the foreign chain.
            assert!(first.retry && first.applied.is_none(), "{first:?}");
            host.apply(&state, Wake::Retry)
        };
        assert_eq!(report.applied, Some(state.generation));
        for to in b.both() {
            assert!(a.reaches(to, 80) && a.reaches(to, 81), "{to}");
        }
        assert!(!table().iter().any(|line| line.contains("theirs") || line.contains("pi-p")));
    });
}

#[test]
fn what_others_left_under_our_names_is_in_nobodys_way() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        sh("nft add table inet calico
            nft add set inet calico pods4 '{ type ipv4_addr; }'
            nft add chain inet calico theirs '{ type filter hook forward priority 7; }'
            nft add rule inet calico theirs ip saddr @pods4 drop
            nft add chain inet calico to-pod '{ type filter hook output priority 7; policy drop; }'
            nft add rule inet calico to-pod accept");
        host.apply(&state, Wake::Start);
        decides(&a, &b);
        let before = table();
        assert!(
            !before
                .iter()
                .any(|line| line.contains("theirs") || line.contains("output priority 7"))
        );
        host.restart();
        host.apply(&state, Wake::Start);
        assert_eq!((table(), counts(host)[0]), (before, 0));
    });
}

#[test]
fn reset_removes_the_table_and_the_groups() {
    on_nftables(|host, flavour| {
        let (a, b, state) = world(host, flavour);
        host.apply(&state, Wake::Start);
        decides(&a, &b);
        let exec = calico_agent::exec::Exec::default();
        let found = host.block_on(Leftovers::find(&exec));
        let lines: Vec<String> = found.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "nftables table inet calico");
        assert!(lines[1].ends_with("of interface calipod1"), "{lines:?}");
        assert_eq!(host.block_on(found.remove(&exec)), []);
        assert!(table().is_empty() && groups().is_empty());
        assert!(a.reaches(b.v4(), 81), "nothing decides any more");
        assert_eq!(host.block_on(Leftovers::find(&exec)).lines().count(), 0);
    });
}
