//! What statements do to packets.

use calico_agent::felix::nftables::object::*;
use calico_datastore::model::PortRange;

use crate::criteria::{HOST, HOST_6, HOST3, PEER, PEER_6, scene, to4, to6};
use crate::support::{base, chain, rule};
use crate::wire::{Scene, udp};
use Side::Destination;

/// Writes chains, checks, and takes them away again.
fn with(scene: &Scene, chains: &[(&str, std::sync::Arc<Chain>)], check: impl FnOnce()) {
    let put =
        |(name, chain): &(&str, _)| Change::PutChain((*name).into(), std::sync::Arc::clone(chain));
    scene.kernel.write(&chains.iter().map(put).collect::<Vec<_>>()).unwrap();
    check();
    let gone = |(name, _): &(&str, _)| Change::DeleteChain((*name).into());
    scene.kernel.write(&chains.iter().map(gone).collect::<Vec<_>>()).unwrap();
    scene.kernel.netns.sh("conntrack -F 2>/dev/null || true");
}

fn verdict(matches: Vec<Match>, verdict: Verdict) -> Rule {
    rule(matches, vec![Statement::Verdict(verdict)])
}

fn on(hook: Hook, priority: i32, rules: Vec<Rule>) -> std::sync::Arc<Chain> {
    base(BaseKind::Filter, hook, priority, rules)
}

#[test]
fn verdicts_lead_where_they_say() {
    let scene = scene();
    let to = |verdict: fn(Name) -> Verdict| verdict("sub".into());
    for (first, sub, passes) in [
        (to(Verdict::Jump), None, false),
        (to(Verdict::Goto), None, true),
        (to(Verdict::Jump), Some(Verdict::Return), false),
        (to(Verdict::Jump), Some(Verdict::Accept), true),
        (to(Verdict::Goto), Some(Verdict::Drop), false),
        (Verdict::Accept, None, true),
        (Verdict::Return, None, true),
    ] {
        let sub = chain(sub.into_iter().map(|sub| verdict(vec![], sub)).collect());
        let top = vec![verdict(vec![], first.clone()), verdict(vec![], Verdict::Drop)];
        with(&scene, &[("sub", sub), ("top", on(Hook::Input, 0, top))], || {
            scene.assert(&to4(), false, passes, &format!("{first}"));
            scene.assert(&to6(), false, passes, &format!("{first}"));
        });
    }
}

#[test]
fn marks_are_set_within_their_mask() {
    let scene = scene();
    let set = |mask, value| rule(vec![], vec![Statement::SetMark { mask, value }]);
    let marked = |mask, value| verdict(vec![Match::Mark { mask, value }], Verdict::Drop);
    for (rules, value) in [
        (vec![set(0xff00, 0x1200)], 0x1200),
        (vec![set(u32::MAX, 0x31), set(0xff00, 0x1200)], 0x1231),
        (vec![set(u32::MAX, 0x3331), set(0xff00, 0x1200), set(1, 0)], 0x1230),
        (vec![set(u32::MAX, 7), set(0, 0x1200)], 7),
    ] {
        for (asked, passes) in [(value, false), (value ^ 0x10, true)] {
            let mut rules = rules.clone();
            rules.push(marked(u32::MAX, asked));
            with(&scene, &[("top", on(Hook::Input, 0, rules))], || {
                scene.assert(&to4(), false, passes, &format!("{value:#x} asked {asked:#x}"));
            });
        }
    }
}

#[test]
fn what_is_not_tracked_has_no_connection() {
    let scene = scene();
    let untracked = Match::CtState { states: CtStates::UNTRACKED, not: false };
    let top = || ("top", on(Hook::Input, 0, vec![verdict(vec![untracked.clone()], Verdict::Drop)]));
    with(&scene, &[top()], || scene.assert(&to4(), false, true, "tracked"));
    let raw = on(Hook::Prerouting, -300, vec![rule(vec![], vec![Statement::Notrack])]);
    with(&scene, &[("raw", raw), top()], || {
        scene.assert(&to4(), false, false, "notrack");
        scene.assert(&to6(), false, false, "notrack");
    });
}

#[test]
fn maps_dispatch_by_group_and_by_name() {
    let scene = scene();
    let spec = |kind| SetSpec { kind, counters: false };
    let name = |text: &str| text.parse().unwrap();
    let drop = || Verdict::Goto("sub".into());
    scene
        .kernel
        .write(&[
            Change::PutChain("sub".into(), chain(vec![verdict(vec![], Verdict::Drop)])),
            Change::CreateSet("groups".into(), spec(SetKind::VerdictsByGroup)),
            Change::CreateSet("names".into(), spec(SetKind::VerdictsByName)),
            Change::CreateSet("others".into(), spec(SetKind::VerdictsByName)),
            Change::Add("groups".into(), Element::Group(0x4a11_0005, drop())),
            Change::Add("names".into(), Element::Named(name("in0"), drop())),
            Change::Add("others".into(), Element::Named(name("in00"), drop())),
        ])
        .unwrap();
    let group = |group: &str| scene.kernel.netns.sh(&format!("ip link set in0 group {group}"));
    use DispatchKey::*;
    for (key, map, of, passes) in [
        (InGroup, "groups", "0x4a110005", false),
        (InGroup, "groups", "6", true),
        (OutGroup, "groups", "0x4a110005", false),
        (OutGroup, "groups", "6", true),
        (InName, "names", "0", false),
        (InName, "others", "0", true),
        (OutName, "names", "0", false),
        (OutName, "others", "0", true),
    ] {
        group(of);
        let out = matches!(key, OutGroup | OutName);
        let (probe, hook) =
            if out { (udp(HOST, PEER), Hook::Output) } else { (to4(), Hook::Prerouting) };
        let dispatch = rule(vec![], vec![Statement::Dispatch { key, map: map.into() }]);
        with(&scene, &[("top", on(hook, 0, vec![dispatch]))], || {
            scene.assert(&probe, out, passes, &format!("{key:?} {map} {of}"));
        });
    }
}

#[test]
fn destinations_are_translated() {
    let scene = scene();
    for (probe, to, new) in [
        (to4(), "10.1.0.3", udp(PEER, "10.1.0.3:8080")),
        (to6(), "fd01::3", udp(PEER_6, "[fd01::3]:8080")),
    ] {
        let net = to.parse().unwrap();
        let arrived = vec![
            Match::Address { side: Destination, net, not: false },
            Match::Protocol { number: 17, not: false },
            Match::Ports { side: Destination, ranges: vec![PortRange::single(8080)], not: false },
        ];
        let top = |matches| ("top", on(Hook::Input, 0, vec![verdict(matches, Verdict::Drop)]));
        with(&scene, &[top(arrived.clone())], || {
            scene.assert(&probe, false, true, "as it is");
            scene.assert(&new, false, false, "where it would go");
        });
        let udp = Match::Protocol { number: 17, not: false };
        let dnat = Statement::Dnat { to: to.parse().unwrap(), port: Some(8080) };
        let nat = base(BaseKind::Nat, Hook::Prerouting, -100, vec![rule(vec![udp], vec![dnat])]);
        with(&scene, &[top(arrived), ("nat", nat.clone())], || {
            scene.assert(&probe, false, false, "translated");
        });
        with(&scene, &[top(vec![Match::CtDnat]), ("nat", nat)], || {
            scene.assert(&probe, false, false, "known as translated");
        });
        with(&scene, &[top(vec![Match::CtDnat])], || {
            scene.assert(&probe, false, true, "not translated");
        });
    }
}

#[test]
fn sources_are_translated() {
    let scene = scene();
    let ports = PortRange::new(7000, 7010);
    for (family, probe, other) in
        [("ip", udp(HOST, PEER), "10.1.0.3"), ("ip6", udp(HOST_6, PEER_6), "fd01::3")]
    {
        for random_fully in [false, true] {
            for (to, ports, seen) in [
                (Some(other), None, format!("{family} saddr {other}")),
                (Some(other), ports, format!("{family} saddr {other} udp sport 7000-7010")),
                (None, ports, "udp sport 7000-7010".to_owned()),
            ] {
                let to = to.map(|to| to.parse().unwrap());
                let udp = Match::Protocol { number: 17, not: false };
                let snat = Statement::Snat { to, ports, random_fully };
                let nat = rule(vec![udp], vec![snat]);
                let nat = base(BaseKind::Nat, Hook::Postrouting, 100, vec![nat]);
                scene.watch_for(&seen);
                scene.assert(&probe, true, false, "as it is");
                with(&scene, &[("nat", nat)], || scene.assert(&probe, true, true, &seen));
            }
        }
    }
    // From another address of the host, which masquerade replaces by that of the interface.
    scene.watch_for("ip saddr 10.1.0.1");
    let masquerade = Statement::Snat { to: None, ports: None, random_fully: false };
    let nat = base(BaseKind::Nat, Hook::Postrouting, 100, vec![rule(vec![], vec![masquerade])]);
    scene.assert(&udp(HOST3, PEER), true, false, "as it is");
    with(&scene, &[("nat", nat)], || scene.assert(&udp(HOST3, PEER), true, true, "masquerade"));
}

#[test]
fn a_rejected_packet_is_answered_and_a_dropped_one_is_not() {
    let scene = scene();
    for (from, to) in [(PEER, HOST), (PEER_6, HOST_6)] {
        for (statement, refused) in [
            (Statement::Reject, true),
            (Statement::Verdict(Verdict::Drop), false),
            (Statement::Verdict(Verdict::Accept), false),
        ] {
            let top = on(Hook::Input, 0, vec![rule(vec![], vec![statement.clone()])]);
            with(&scene, &[("top", top)], || {
                assert_eq!(scene.is_refused(from, to), refused, "{statement:?} {to}");
            });
        }
    }
}

#[test]
fn a_limit_lets_only_so_many_through() {
    let scene = scene();
    let limited = verdict(vec![Match::Limit { rate: 1, burst: 5 }], Verdict::Accept);
    let rules = vec![limited, verdict(vec![], Verdict::Drop)];
    with(&scene, &[("top", on(Hook::Input, 0, rules))], || {
        let through = scene.count(&to4(), 30);
        assert!((5..=8).contains(&through), "{through}");
    });
    with(&scene, &[("top", on(Hook::Input, 0, vec![]))], || {
        assert_eq!(scene.count(&to4(), 30), 30);
    });
}

#[test]
fn what_only_counts_or_logs_lets_packets_go_on() {
    let scene = scene();
    let rules = vec![
        rule(vec![], vec![Statement::Counter]),
        rule(vec![], vec![Statement::Log { prefix: "x".into() }]),
        rule(vec![], vec![Statement::LogGroup { group: 3, prefix: "x".into() }]),
    ];
    with(&scene, &[("top", on(Hook::Input, 0, rules))], || {
        assert_eq!(scene.count(&to4(), 3), 3);
        let listing = scene.kernel.netns.sh("nft list chain inet calico top");
        assert!(listing.contains("counter packets 3 "), "{listing}");
    });
}
