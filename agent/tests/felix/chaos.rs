//! Somebody else at work on the same tables and sets while the desired state changes: at the end the
//! kernel holds what a fresh start would have made, and what was never ours is as its owner left it.
//! `CALICO_CHAOS_SECONDS` says for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_agent::reconcile::Wake;

use crate::churn::{churned, vary};
use crate::host::{Host, each_flavour};
use crate::netns::sh;
use crate::rewriting::Dice;
use crate::tampering::{our_sets, ours};
use crate::world::*;

/// Does a random thing to chains and sets of ours. It may find nothing to do.
fn break_something(dice: &mut Dice, tool: &str, v: &str) {
    let chain = dice.of(&[
        "cali-FORWARD",
        "cali-INPUT",
        "cali-wl-forward",
        "cali-wl-to-host",
        "cali-pi-one",
        "cali-pri-all",
        "cali-from-wl-dispatch",
        "cali-to-wl-dispatch",
    ]);
    let n = dice.below(4);
    let line = |pattern: &str| {
        format!(
            "line=$($SAVE -t filter | grep -m1 -e '{pattern}'); delete=$(echo \"$line\" | sed 's/^-A/-D/')"
        )
    };
    let script = match dice.below(18) {
        0 => format!("$IPT -F {chain}"),
        1 => format!("$IPT -D {chain} {}", n + 1),
        2 => format!("$IPT -I {chain} 1 -j ACCEPT"),
        3 => format!("$IPT -A {chain} -s 192.0.2.{n} -j RETURN"),
        4 => format!("$IPT -t raw -F cali-{}", dice.of(&["PREROUTING", "anti-spoof", "mac"])),
        5 => format!("{}; echo \"$delete\" | xargs $IPT", line("-A FORWARD.*cali-FORWARD")),
        6 => format!("{}; echo \"$line\" | xargs $IPT", line("-A INPUT.*cali-INPUT")),
        7 => format!(
            "{}; echo \"$delete\" | xargs $IPT; echo \"$line\" | sed 's/-j DROP/-j ACCEPT/' | xargs $IPT",
            line("-A cali-.*-j DROP")
        ),
        8 => format!(
            "{}; echo \"$delete\" | xargs $IPT; echo \"$line\" | sed 's/^-A FORWARD/-I FORWARD 1/; s/-j /-i eth7 -j /' | xargs $IPT",
            line("-A FORWARD.*cali-FORWARD")
        ),
        9 => format!("$IPT -N cali-stray{n}; $IPT -A cali-stray{n} -j DROP"),
        // What an old program does: all of it, read, changed, and written back as a whole. What
        // somebody wrote in between is undone.
        10 => "$SAVE -t filter > /tmp/$$; sleep 0.01; sed -i '/cali-pi-one/d' /tmp/$$; $REST < /tmp/$$; rm /tmp/$$".to_owned(),
        11 => format!("$IPT -N THEIRS; $IPT -A THEIRS -j {chain}"),
        12 => "$IPT -F THEIRS".to_owned(),
        13 => format!("ipset flush {}", dice.of(&["cali40local-endpoints", "cali60local-endpoints", "cali40s:allowed"])),
        14 => "ipset del cali40s:two 10.65.0.1; ipset del cali60s:allowed fd65::1".to_owned(),
        15 => format!("ipset add cali40s:two 192.0.2.{n}; ipset add cali40all-ipam-pools 192.0.2.0/24"),
        16 => format!("ipset create cali40stray{n} hash:ip; ipset create cali6t{n} hash:net family inet6"),
        _ => "ipset create x hash:net maxelem 9; ipset swap x cali40s:allowed; ipset destroy x".to_owned(),
    };
    sh(&format!(
        "IPT='ip{v}tables-{tool} -w'; SAVE=ip{v}tables-{tool}-save; REST=ip{v}tables-{tool}-restore
         ({script}) > /dev/null 2>&1 || true"
    ));
}

/// Works until it is stopped; returns the rules that it has in FORWARD then, in their order.
fn chaos(tool: &'static str, seed: u64, stop: &AtomicBool) -> Vec<String> {
    let mut dice = Dice { state: seed, plain: true };
    let mut mine: Vec<String> = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let v = dice.of(&["", "6"]);
        break_something(&mut dice, tool, v);
        // What is nobody's but its own, in the family 4.
        match dice.below(4) {
            0 => {
                count += 1;
                let rule = format!("-s 192.0.2.{}/32 -p tcp -j ACCEPT", count % 250);
                sh(&format!("iptables-{tool} -w -I FORWARD 1 {rule}"));
                mine.insert(0, rule);
            }
            1 => {
                count += 1;
                let rule = format!("-s 198.51.100.{}/32 -p tcp -j ACCEPT", count % 250);
                sh(&format!("iptables-{tool} -w -A FORWARD {rule}"));
                mine.push(rule);
            }
            2 if !mine.is_empty() => {
                let at = dice.below(mine.len() as u64) as usize;
                sh(&format!("iptables-{tool} -w -D FORWARD {}", mine.remove(at)));
            }
            3 if tool == "nft" && dice.below(10) == 0 => {
                sh("nft flush ruleset");
                mine.clear();
            }
            _ => {}
        }
    }
    for v in ["", "6"] {
        sh(&format!(
            "ip{v}tables-{tool} -w -F THEIRS 2> /dev/null && ip{v}tables-{tool} -w -X THEIRS || true"
        ));
    }
    mine
}

fn theirs(host: &Host) -> Vec<String> {
    let saved = host.saved(4);
    let rules = saved.lines().filter_map(|line| line.strip_prefix("-A FORWARD "));
    rules.filter(|rule| !rule.contains("cali")).map(str::to_owned).collect()
}

#[test]
fn whatever_somebody_else_does_all_the_time_the_end_is_what_it_should_be() {
    let seconds = std::env::var("CALICO_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    let seconds: u64 = seconds.unwrap_or(3);
    each_flavour(move |host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        let others = [host.pod(3), host.pod(4)];
        b.serve(80);
        b.serve(81);
        let mut state = churned(flavour, &a, &b);
        host.apply(&state, Wake::Start);
        let stop = Arc::new(AtomicBool::new(false));
        let (tool, stopped) = (host.tool(), Arc::clone(&stop));
        let somebody = std::thread::spawn(move || chaos(tool, 11, &stopped));
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut round, mut drift) = (0, 0);
        while Instant::now() < end {
            let mut after = next(&state);
            vary(&mut after, round, &a, &b, &others);
            let wake = match round % 7 {
                6 => {
                    host.restart();
                    Wake::Start
                }
                n if n % 2 == 0 => Wake::Retry,
                _ => Wake::Desired,
            };
            drift += host.run(&after, wake).drift.len();
            state = after;
            round += 1;
        }
        stop.store(true, Ordering::SeqCst);
        let mine = somebody.join().expect("somebody else finds nothing of its own missing");
        println!(
            "{flavour:?}: {round} changes, {drift} repairs, {} rules of somebody else",
            mine.len()
        );
        assert!(round > 5 && drift > 5, "{round} {drift}");

        policy(&mut state, "one", vec![tcp(calico_datastore::model::Action::Allow, &[80])]);
        let class = ingress_tiers(
            vec![tier("t", &["one"], calico_datastore::model::TierAction::Deny)],
            "all",
        );
        endpoint(&mut state, &b, &class, true);
        endpoint(&mut state, &a, &profiles(&["all"]), true);
        let state = next(&state);
        // One run repairs, but for sets that the kernel lets go of later.
        let mut report = host.run(&state, Wake::Retry);
        for _ in 0..50 {
            let strays = sh("ipset list -n | grep -c -e stray -e '^cali.t' || true");
            if report.problems.is_empty() && !report.retry && strays.trim() == "0" {
                break;
            }
            host.sleep(Duration::from_millis(100));
            report = host.run(&state, Wake::Retry);
        }
        assert_eq!(report.problems, []);
        assert_eq!(host.run(&state, Wake::Retry).drift, []);
        assert_eq!(theirs(host), mine);
        let (rules, sets) = (ours(host), our_sets());
        for to in b.both() {
            assert!((0..5).any(|_| a.reaches(to, 80)) && !a.reaches(to, 81), "{to}");
        }
        // Everything of ours away, and made from nothing.
        sh(&format!(
            r"for v in '' 6; do for t in filter raw nat; do
                  ip${{v}}tables-{tool}-save -t $t | sed -n '/^[*]/p; /^:cali-/s/ .*/ - [0:0]/p; /^-A [A-Z].*cali-/s/^-A/-D/p' > /tmp/chaos.$$
                  sed -n 's/^:\(cali-[^ ]*\) .*/-X \1/p' /tmp/chaos.$$ >> /tmp/chaos.$$
                  echo COMMIT >> /tmp/chaos.$$
                  test $(wc -l < /tmp/chaos.$$) -lt 3 || ip${{v}}tables-{tool}-restore --noflush < /tmp/chaos.$$
                  rm /tmp/chaos.$$
              done; done
              for set in $(ipset list -n | grep ^cali); do
                  for try in $(seq 50); do ipset destroy $set 2> /dev/null && break; sleep 0.1; done
              done"
        ));
        assert!(ours(host).is_empty() && our_sets().is_empty(), "{:?}", ours(host));
        assert_eq!(theirs(host), mine);
        host.restart();
        host.apply(&state, Wake::Start);
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            lines
        };
        assert_eq!(sorted(ours(host)), sorted(rules));
        assert_eq!(our_sets(), sets);
        assert_eq!(theirs(host), mine);
    });
}
