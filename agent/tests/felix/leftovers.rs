//! What an earlier run or the original Felix left, and somebody else uses.

use std::time::Duration;

use calico_agent::desired::DesiredState;
use calico_agent::exec::Exec;
use calico_agent::felix::leftovers::Leftovers;
use calico_agent::reconcile::{Report, Wake};

use crate::host::{Flavour, Host, each_flavour};
use crate::netns::sh;
use crate::world::*;

/// Twelve chains, of which a rule of somebody else needs one, and two sets, of which it needs one.
const OLD: &str = r#"
ipset create felix-v4-free hash:ip
ipset create felix-v4-used hash:ip
ipset add felix-v4-used 10.65.0.1
for n in 1 2 3 4 5 6 7 8 9; do $T -N felix-to-$n; $T -A felix-to-$n -j DROP; done
$T -N felix-FORWARD; $T -I FORWARD -j felix-FORWARD; $T -A felix-FORWARD -o calix -j felix-to-1
$T -N cali-tw-calix; $T -A cali-tw-calix -j felix-to-2
$T -t nat -N felix-POSTROUTING; $T -t nat -I POSTROUTING -j felix-POSTROUTING
$T -N FOREIGN; $T -A FOREIGN -m set --match-set felix-v4-used src -j DROP; $T -A FOREIGN -j felix-to-5
"#;

/// Runs until nothing is tried again soon, as the loop would.
fn settle(host: &mut Host, state: &DesiredState) -> Report {
    let mut report = host.run(state, Wake::Start);
    for _ in 0..15 {
        host.sleep(Duration::from_millis(510));
        report = host.run(state, Wake::Timer);
        if report.problems.len() > 1 {
            break;
        }
    }
    report
}

fn subjects(report: &Report) -> Vec<&str> {
    report.problems.iter().map(|problem| problem.subject.as_str()).collect()
}

#[test]
fn what_somebody_else_uses_is_named_and_the_rest_goes() {
    each_flavour(|host, flavour| {
        let tool = format!("iptables-{} -w", host.tool());
        sh(&OLD.replace("$T", &tool));
        let (a, b) = (host.pod(1), host.pod(2));
        b.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        endpoint(&mut state, &a, &profiles(&["net"]), true);
        endpoint(&mut state, &b, &profiles(&["net"]), true);
        let report = settle(host, &state);
        assert_eq!(subjects(&report), ["address set felix-v4-used", "chain felix-to-5"]);
        assert_eq!(report.applied, Some(state.generation), "everything else is in force");
        assert!(a.reaches(b.v4(), 80) && !a.reaches(b.v4(), 81));
        let saved = host.saved(4);
        let left: Vec<_> = saved.lines().filter(|line| line.contains("felix")).collect();
        assert_eq!(
            left,
            [
                ":felix-to-5 -",
                "-A FOREIGN -m set --match-set felix-v4-used src -j DROP",
                "-A FOREIGN -j felix-to-5"
            ],
            "emptied, and not deleted"
        );
        assert!(!saved.contains("cali-tw-calix"), "{saved}");
        assert_eq!(sh("ipset list -name | grep felix"), "felix-v4-used\n");

        // The other one lets go: so do we.
        sh(&format!("{tool} -F FOREIGN"));
        host.apply(&state, Wake::Retry);
        host.sleep(Duration::from_millis(600));
        host.apply(&state, Wake::Retry);
        assert!(!host.saved(4).contains("felix") && !sh("ipset list -name").contains("felix"));
    });
}

#[test]
fn what_the_other_iptables_holds_of_ipv6_alone_is_found_too() {
    each_flavour(|host, flavour| {
        let other = if flavour == Flavour::Nft { "legacy" } else { "nft" };
        sh(&format!(
            "ip6tables-{other} -w -N cali-INPUT; ip6tables-{other} -w -I INPUT -j cali-INPUT -m comment --comment cali:ABCDEFGHIJKLMNOP"
        ));
        host.apply(&empty(flavour), Wake::Start);
        let left = sh(&format!("ip6tables-{other}-save"));
        assert!(!left.contains("cali"), "{left}");
    });
}

#[test]
fn what_somebody_else_uses_in_the_other_iptables_is_named_and_the_rest_goes() {
    each_flavour(|host, flavour| {
        let other = if flavour == Flavour::Nft { "legacy" } else { "nft" };
        for v in ["", "6"] {
            sh(&format!(
                "t='ip{v}tables-{other} -w'; $t -N felix-INPUT; $t -I INPUT -j felix-INPUT
                 $t -N felix-to-1; $t -A felix-to-1 -j DROP; $t -A felix-INPUT -j felix-to-1"
            ));
        }
        let tool = format!("iptables-{other} -w");
        sh(&format!("{tool} -N FOREIGN; {tool} -A FOREIGN -j felix-to-1"));
        let state = empty(flavour);
        let report = host.run(&state, Wake::Start);
        assert_eq!(subjects(&report), [format!("iptables-{other} chain felix-to-1")]);
        assert!(report.problems[0].message.contains("FOREIGN"), "{}", report.problems[0].message);
        assert_eq!(report.applied, Some(state.generation));
        let left = sh(&format!("iptables-{other}-save; ip6tables-{other}-save"));
        let left: Vec<_> = left.lines().filter(|line| line.contains("felix")).collect();
        assert_eq!(left, [":felix-to-1 - [0:0]", "-A FOREIGN -j felix-to-1"], "emptied");

        sh(&format!("{tool} -F FOREIGN"));
        host.apply(&state, Wake::Retry);
        assert!(!sh(&format!("iptables-{other}-save")).contains("felix"));
    });
}

#[test]
fn reset_leaves_what_somebody_else_uses_and_says_so() {
    each_flavour(|host, flavour| {
        let tool = format!("iptables-{} -w", host.tool());
        let pod = host.pod(1);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1]);
        endpoint(&mut state, &pod, &profiles(&["net"]), true);
        host.apply(&state, Wake::Start);
        sh(&format!(
            "ipset create foreign hash:ip; ipset create cali-not-ours hash:ip
             {tool} -N FOREIGN; {tool} -A FOREIGN -m set --match-set cali40all-ipam-pools src
             {tool} -A FOREIGN -g cali-INPUT"
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let exec = Exec::default();
        let before = host.saved(4);
        let found = runtime.block_on(Leftovers::find(&exec));
        assert_eq!(found.problems, []);
        assert_eq!(before, host.saved(4), "looking changes nothing");
        let left = runtime.block_on(found.remove(&exec));
        let left: Vec<_> = left.iter().map(|problem| problem.subject.as_str()).collect();
        let chain = format!("iptables-{} IPv4 chain cali-INPUT", host.tool());
        assert_eq!(left, [chain.as_str(), "address set cali40all-ipam-pools"]);
        let saved = host.saved(4);
        let ours: Vec<_> = saved.lines().filter(|line| line.contains("cali")).collect();
        assert_eq!(
            ours,
            [
                ":cali-INPUT -",
                "-A FOREIGN -m set --match-set cali40all-ipam-pools src",
                "-A FOREIGN -g cali-INPUT"
            ]
        );
        assert!(!host.saved(6).contains("cali"));
        let sets = sh("ipset list -name | sort");
        assert_eq!(sets, "cali-not-ours\ncali40all-ipam-pools\nforeign\n");

        // The second time there is nothing more to do, and in the end nothing at all.
        sh(&format!("{tool} -F FOREIGN"));
        let again = runtime.block_on(Leftovers::find(&exec));
        assert_eq!(again.lines().count(), 2, "{:?}", again.lines().collect::<Vec<_>>());
        assert_eq!(runtime.block_on(again.remove(&exec)), []);
        assert_eq!(runtime.block_on(Leftovers::find(&exec)).lines().count(), 0);
    });
}
