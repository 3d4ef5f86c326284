//! What somebody else changes of ours is named precisely and put right, and nothing else is touched:
//! rules that were not changed keep their counters, and what we change ourselves is never reported.

use calico_agent::desired::DesiredState;
use calico_agent::drift::{Change, Drift};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, TierAction};

use crate::churn::{churned, vary};
use crate::host::{Flavour, Host, Pod, each_flavour};
use crate::netns::sh;
use crate::world::*;

pub(crate) struct Place {
    pub(crate) a: Pod,
    pub(crate) b: Pod,
    pub(crate) state: DesiredState,
}

/// Two pods: the first may open port 80 of the second and no other. Everything that we program is
/// there: policies, profiles, sets of both kinds, a MAC tree, masquerading.
pub(crate) fn place(host: &mut Host, flavour: Flavour) -> Place {
    let (a, b) = (host.pod(1), host.pod(2));
    b.serve(80);
    b.serve(81);
    let mut state = empty(flavour);
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    set(&mut state, "s:friends", &[1, 3, 4, 5, 6]);
    let rules = vec![
        tcp(Action::Deny, &[81]),
        from_set(tcp(Action::Allow, &[80]), "s:friends"),
        any(Action::Log),
    ];
    policy(&mut state, "web", rules);
    endpoint(&mut state, &a, &profiles(&["all"]), true);
    let class = ingress_tiers(vec![tier("t", &["web"], TierAction::Deny)], "all");
    endpoint(&mut state, &b, &class, true);
    state.pools.insert("10.65.0.0/16".parse().unwrap(), true);
    state.pools.insert("fd65::/64".parse().unwrap(), true);
    Place { a, b, state }
}

impl Place {
    pub(crate) fn works(&self) {
        for to in self.b.both() {
            // On a busy machine an answer may come late; a packet that is dropped never comes.
            assert!((0..5).any(|_| self.a.reaches(to, 80)), "{to} allowed");
            assert!(!self.a.reaches(to, 81), "{to} denied");
        }
    }
}

/// Our rules, in order inside each chain, and whether they come first in the kernel's.
pub(crate) fn ours(host: &Host) -> Vec<String> {
    [4, 6]
        .into_iter()
        .flat_map(|family| {
            let saved = host.saved(family);
            let mut lines: Vec<String> =
                saved.lines().filter(|l| l.contains("cali")).map(str::to_owned).collect();
            lines.sort_by_key(|line| line.split(' ').nth(1).unwrap_or_default().to_owned());
            lines
        })
        .collect()
}

pub(crate) fn our_sets() -> String {
    sh("ipset save | sed 's/ initval [^ ]*//; s/ hashsize [^ ]*//; s/ packets .*//' | sort")
}

/// One rule of a chain as it is printed, and its place from 1.
fn rule(host: &Host, chain: &str, which: &str) -> (usize, String) {
    let saved = host.saved(4);
    let head = format!("-A {chain} ");
    let rules = saved.lines().filter_map(|line| line.strip_prefix(&head));
    let (at, text) = rules.enumerate().find(|(_, text)| text.contains(which)).unwrap();
    (at + 1, text.to_owned())
}

/// Replaces a word of a rule; its comment stays.
pub(crate) fn change(host: &Host, chain: &str, which: &str, from: &str, to: &str) {
    let (at, text) = rule(host, chain, which);
    assert!(text.contains(from), "{from} in {text}");
    host.iptables(4, &format!("-R {chain} {at} {}", text.replace(from, to)));
}

pub(crate) fn told(drift: &[Drift]) -> Vec<String> {
    drift.iter().map(|one| format!("{} {}: {}", one.subject, one.change, one.detail)).collect()
}

type Tamper<'a> = (&'a str, Box<dyn Fn(&Host) + 'a>, Vec<(&'a str, Change, &'a str)>);

fn script<'a>(text: &'a str) -> Box<dyn Fn(&Host) + 'a> {
    Box::new(move |host: &Host| {
        let tool = host.tool();
        sh(&text
            .replace("IPT6", &format!("ip6tables-{tool} -w"))
            .replace("IPT", &format!("iptables-{tool} -w")));
    })
}

fn tampers() -> Vec<Tamper<'static>> {
    use Change::{Missing, Modified, Unexpected};
    let chain = |name: &'static str| name;
    vec![
        (
            "an ACCEPT in place of a DROP",
            Box::new(|host| change(host, "cali-pi-web", "--dports 81", "-g cali-drop-to-wl", "-j ACCEPT")),
            vec![(chain("IPv4 filter chain cali-pi-web"), Modified, "rule 1: ")],
        ),
        (
            "another set",
            Box::new(|host| change(host, "cali-pi-web", "match-set", "match-set", "match-set cali40all-ipam-pools src -m set --match-set")),
            vec![("IPv4 filter chain cali-pi-web", Modified, "cali40all-ipam-pools")],
        ),
        (
            "a rule that never matches",
            Box::new(|host| change(host, "cali-wl-forward", "ctstate INVALID", "INVALID", "UNTRACKED")),
            vec![("IPv4 filter chain cali-wl-forward", Modified, "UNTRACKED")],
        ),
        (
            "a jump that is for one interface only",
            Box::new(|host| change(host, "FORWARD", "cali-FORWARD", "-m comment", "-i eth7 -m comment")),
            vec![("IPv4 filter jump FORWARD → cali-FORWARD", Modified, "-i eth7")],
        ),
        (
            "a jump elsewhere",
            Box::new(|host| change(host, "FORWARD", "cali-FORWARD", "-j cali-FORWARD", "-j cali-INPUT")),
            vec![("IPv4 filter jump FORWARD → cali-FORWARD", Modified, "-j cali-INPUT")],
        ),
        (
            "a jump that was taken away",
            Box::new(|host| {
                let (at, _) = rule(host, "INPUT", "cali-INPUT");
                host.iptables(4, &format!("-D INPUT {at}"));
            }),
            vec![("IPv4 filter jump INPUT → cali-INPUT", Missing, "")],
        ),
        (
            "a jump twice",
            Box::new(|host| {
                let (_, text) = rule(host, "FORWARD", "cali-FORWARD");
                host.iptables(4, &format!("-A FORWARD {text}"));
            }),
            vec![("IPv4 filter jump FORWARD → cali-FORWARD", Unexpected, "at place 2")],
        ),
        (
            "rules before ours",
            script("IPT -I FORWARD -s 192.0.2.77 -j ACCEPT; IPT6 -t raw -I PREROUTING -s 2001:db8::7 -j ACCEPT
                    IPT -t nat -I POSTROUTING -s 192.0.2.77 -j ACCEPT"),
            vec![
                ("IPv4 filter jump FORWARD → cali-FORWARD", Modified, "at place 2 instead of 1"),
                ("IPv6 raw jump PREROUTING → cali-PREROUTING", Modified, "at place 2 instead of 1"),
            ],
        ),
        (
            "rules in our chains, and one of ours less",
            script("IPT -I cali-pi-web 2 -j ACCEPT; IPT6 -t raw -A cali-mac -j ACCEPT; IPT6 -t nat -F cali-nat-outgoing
                    IPT -D cali-wl-to-host 2; IPT6 -t raw -A cali-anti-spoof -j ACCEPT".trim()),
            vec![],
        ),
        (
            "a chain emptied, one deleted, one made",
            script("IPT -D FORWARD 1; IPT -F cali-FORWARD; IPT -X cali-FORWARD; IPT6 -N cali-stray; IPT -t raw -F cali-anti-spoof"),
            vec![
                ("IPv4 filter chain cali-FORWARD", Missing, "2 rules"),
                ("IPv4 filter jump FORWARD → cali-FORWARD", Missing, ""),
                ("IPv4 raw chain cali-anti-spoof", Missing, "4 of 4 rules"),
                ("IPv6 filter chain cali-stray", Unexpected, "0 rules"),
            ],
        ),
        (
            "everything flushed",
            script("for t in raw filter nat; do IPT -t $t -F; IPT -t $t -X; done"),
            vec![
                ("IPv4 table filter", Missing, "2 jumps of ours"),
                ("IPv4 table nat", Missing, "all 2 chains and 1 jump of ours"),
                ("IPv4 table raw", Missing, "1 jump of ours"),
            ],
        ),
        (
            "members more and less",
            script("ipset del cali40s:friends 10.65.0.3; ipset add cali60s:friends 2001:db8::9
                    ipset flush cali40local-endpoints; ipset add cali40all-ipam-pools 192.0.2.0/24
                    ipset del cali40all-ipam-pools 10.65.0.0/16"),
            vec![
                ("address set cali40all-ipam-pools", Modified, "missing 1 member: 10.65.0.0/16; unexpected 1 member: 192.0.2.0/24"),
                ("address set cali40local-endpoints", Missing, "2 members: 10.65.0.1/32,calipod1, 10.65.0.2/32,calipod2"),
                ("address set cali40s:friends", Missing, "1 member: 10.65.0.3/32"),
                ("address set cali60s:friends", Unexpected, "1 member: 2001:db8::9/128"),
            ],
        ),
        (
            "stray sets",
            script("ipset create cali40stray hash:ip; ipset add cali40stray 192.0.2.1; ipset create cali6t7 hash:net family inet6"),
            vec![
                ("address set cali40stray", Unexpected, "member"),
                ("address set cali6t7", Unexpected, "0 members"),
            ],
        ),
        (
            "sets of another size, and with members that go by themselves",
            script(
                "ipset create x hash:net family inet maxelem 7; ipset swap x cali40s:friends; ipset destroy x
                 ipset create x hash:net,iface family inet6 forceadd; ipset swap x cali60local-endpoints; ipset destroy x
                 ipset create x hash:net timeout 9; ipset add x 10.65.0.0/16; ipset swap x cali40all-ipam-pools; ipset destroy x",
            ),
            vec![
                ("address set cali40s:friends", Modified, "another type, family or size"),
                ("address set cali60local-endpoints", Modified, "another type"),
                ("address set cali40all-ipam-pools", Modified, "another type"),
            ],
        ),
        (
            "members turned round",
            script(
                "ipset -exist add cali40s:friends 10.65.0.1 nomatch; ipset add cali60s:friends 2001:db8::/64 nomatch
                 ipset -exist add cali40local-endpoints 10.65.0.1,calipod1 nomatch",
            ),
            vec![
                ("address set cali40s:friends", Missing, "1 member: 10.65.0.1/32"),
                ("address set cali60s:friends", Unexpected, "1 member: 2001:db8::/64"),
                ("address set cali40local-endpoints", Missing, "1 member: 10.65.0.1/32,calipod1"),
            ],
        ),
        (
            "a set of another type, and one gone, after their rules",
            script("IPT -F cali-pi-web; IPT6 -F cali-pi-web
                    for try in $(seq 50); do ipset destroy cali40s:friends && ipset destroy cali60s:friends && break; sleep 0.1; done 2> /dev/null
                    ipset create cali40s:friends hash:ip,port; ipset add cali40s:friends 10.65.0.1,tcp:80"),
            vec![
                ("IPv4 filter chain cali-pi-web", Missing, "4 of 4 rules"),
                ("IPv6 filter chain cali-pi-web", Missing, "4 of 4 rules"),
                ("address set cali40s:friends", Modified, "another type"),
                ("address set cali60s:friends", Missing, "5 members"),
            ],
        ),
    ]
}

/// What only nf_tables can lose.
fn nft_tampers() -> Vec<Tamper<'static>> {
    use Change::Missing;
    let all = |family: &'static str| vec![(family, Missing, "2 jumps of ours")];
    vec![
        ("a table", script("nft delete table ip filter"), all("IPv4 table filter")),
        (
            "a base chain",
            script("nft flush chain ip filter FORWARD; nft delete chain ip filter FORWARD"),
            vec![("IPv4 filter jump FORWARD → cali-FORWARD", Missing, "")],
        ),
        (
            "the whole rule set",
            script("nft flush ruleset"),
            vec![
                ("IPv4 table filter", Missing, ""),
                ("IPv4 table nat", Missing, ""),
                ("IPv4 table raw", Missing, ""),
                ("IPv6 table filter", Missing, ""),
                ("IPv6 table nat", Missing, ""),
                ("IPv6 table raw", Missing, ""),
            ],
        ),
    ]
}

#[test]
fn whatever_others_change_is_named_and_put_right() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        assert_eq!(host.run(&place.state, Wake::Retry).drift, []);
        let (rules, sets) = (ours(host), our_sets());
        place.works();
        let mut all = tampers();
        if flavour == Flavour::Nft {
            all.extend(nft_tampers());
        }
        for (what, tamper, expected) in all {
            tamper(host);
            let mut report = host.run(&place.state, Wake::Retry);
            let found = told(&report.drift);
            for (subject, change, detail) in &expected {
                let named = report.drift.iter().any(|one| {
                    one.subject == *subject && one.change == *change && one.detail.contains(detail)
                });
                assert!(named, "{what}: no {subject} {change} {detail} in {found:#?}");
            }
            assert!(!found.is_empty(), "{what}");
            if !expected.is_empty() {
                assert_eq!(found.len(), expected.len(), "{what}: {found:#?}");
            }
            // A set may need a second run, after its rules are gone.
            for _ in 0..20 {
                if !report.retry && our_sets() == sets {
                    break;
                }
                host.sleep(std::time::Duration::from_millis(100));
                report = host.run(&place.state, Wake::Retry);
            }
            assert_eq!(report.problems, [], "{what}");
            assert_eq!(ours(host), rules, "{what}");
            assert_eq!(our_sets(), sets, "{what}");
            let forward = host.saved(4);
            let first = forward.lines().find(|line| line.starts_with("-A FORWARD")).unwrap();
            assert!(first.ends_with("-j cali-FORWARD"), "{what}: {first}");
            place.works();
            let writes = host.felix.counters().writes();
            let report = host.run(&place.state, Wake::Retry);
            assert_eq!(told(&report.drift), [""; 0], "{what}, looked at again");
            assert_eq!(host.felix.counters().writes(), writes, "{what}, looked at again");
        }
    });
}

/// The counters of the rules of a chain, by rule.
fn counters(host: &Host, chain: &str) -> Vec<(String, String)> {
    let saved = host.saved_with_counters(4);
    let head = format!("-A {chain} ");
    let rules = saved.lines().filter(|line| line.contains(&head));
    rules.map(|l| l.split_once(' ').unwrap()).map(|(c, r)| (r.to_owned(), c.to_owned())).collect()
}

#[test]
fn a_rule_modified_while_the_agent_was_down_is_put_right_and_the_others_keep_their_counters() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        place.works();
        for running in [true, false] {
            host.sleep(std::time::Duration::from_millis(200));
            let before = counters(host, "cali-pi-web");
            assert!(
                before.iter().all(|(rule, c)| rule.contains("LOG") || !c.starts_with("[0:")),
                "{before:?}"
            );
            change(host, "cali-pi-web", "--dports 81", "-g cali-drop-to-wl", "-j ACCEPT");
            assert!(place.a.reaches(place.b.v4(), 81));
            host.sleep(std::time::Duration::from_millis(200));
            let others = |all: Vec<(String, String)>| -> Vec<(String, String)> {
                all.into_iter().filter(|(rule, _)| !rule.contains("--dports 81")).collect()
            };
            let kept = others(counters(host, "cali-pi-web"));
            let mut wake = Wake::Retry;
            if !running {
                host.restart();
                wake = Wake::Start;
            }
            let report = host.apply(&place.state, wake);
            // What a first look finds is nobody's fault.
            assert_eq!(report.drift.len(), usize::from(running), "{:?}", report.drift);
            let after = counters(host, "cali-pi-web");
            assert_eq!(others(after.clone()), kept);
            let rules = |all: &[(String, String)]| -> Vec<String> {
                all.iter().map(|(rule, _)| rule.clone()).collect()
            };
            assert_eq!(rules(&after), rules(&before));
            place.works();
        }
    });
}

#[test]
fn no_change_of_our_own_is_taken_for_one_of_others() {
    each_flavour(|host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let others = [host.pod(3), host.pod(4)];
        let mut state = churned(flavour, &a, &b);
        host.apply(&state, Wake::Start);
        let seconds = std::env::var("CALICO_DRIFT_SECONDS").ok().and_then(|s| s.parse().ok());
        let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds.unwrap_or(2));
        let (mut round, mut looks) = (0, 0);
        while std::time::Instant::now() < end || round < 40 {
            // Several changes between two looks, and looks together with a change.
            let mut after = next(&state);
            vary(&mut after, round, &a, &b, &others);
            if round % 5 == 4 {
                vary(&mut after, round + 2, &a, &b, &others);
            }
            let look = round % 3 == 2;
            let report = host.run(&after, if look { Wake::Retry } else { Wake::Desired });
            assert_eq!(told(&report.drift), [""; 0], "{flavour:?}, round {round}");
            looks += u32::from(look);
            state = after;
            round += 1;
        }
        assert!(looks >= 13);
        // And a change of somebody else among them is seen.
        host.iptables(4, "-A cali-wl-forward -j ACCEPT");
        sh("ipset add cali40s:two 192.0.2.7");
        let mut after = next(&state);
        vary(&mut after, round, &a, &b, &others);
        let report = host.run(&after, Wake::Retry);
        assert_eq!(
            told(&report.drift),
            [
                "address set cali40s:two unexpected: 1 member: 192.0.2.7/32",
                "IPv4 filter chain cali-wl-forward unexpected: rule 12: -j ACCEPT",
            ]
        );
    });
}
