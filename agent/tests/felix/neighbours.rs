//! IPv6 neighbour discovery works whatever policy says, and nothing else does under its cover.

use calico_agent::reconcile::Wake;
use calico_datastore::model::Action;

use crate::host::each_flavour;
use crate::world::*;

#[test]
fn a_pod_finds_its_host_though_it_may_send_nothing() {
    each_flavour(|host, flavour| {
        let a = host.pod(1);
        let mut state = empty(flavour);
        profile(&mut state, "none", vec![], vec![]);
        endpoint(&mut state, &a, &profiles(&["none"]), true);
        host.apply(&state, Wake::Start);
        let gateway = "fe80::ecee:eeff:feee:eeee";
        a.netns.sh("ip -6 neigh flush dev eth0");
        let pinged = a.netns.sh("ping -6 -c 1 -W 1 fd99::1 >/dev/null 2>&1 && echo yes || echo no");
        assert_eq!(pinged.trim(), "no", "denied by its profile");
        let found = a.netns.sh("ip -6 neigh show dev eth0");
        assert!(
            found.lines().any(|l| l.starts_with(gateway) && l.contains("ee:ee:ee:ee:ee:ee")),
            "{found}"
        );
        // Link-local addresses are for finding each other only.
        let pinged = a.netns.sh(&format!(
            "ping -6 -c 1 -W 1 {gateway}%eth0 >/dev/null 2>&1 && echo yes || echo no"
        ));
        assert_eq!(pinged.trim(), "no", "an echo request from fe80::/10");
        // And with no agent at all it is answered.
        host.iptables(6, "-t raw -D PREROUTING 1");
        host.iptables(6, "-D INPUT 1");
        let pinged = a.netns.sh(&format!(
            "ping -6 -c 5 -W 1 {gateway}%eth0 >/dev/null 2>&1 && echo yes || echo no"
        ));
        assert_eq!(pinged.trim(), "yes", "the probe proves something");
    });
}

/// A router advertisement of a pod would give the host a default route through it.
#[test]
fn a_pod_is_no_router() {
    if crate::netns::sh("command -v python3 || true").is_empty() {
        println!("skipped: python3 sends the router advertisement");
        return;
    }
    each_flavour(|host, flavour| {
        let a = host.pod(1);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        endpoint(&mut state, &a, &profiles(&["all"]), false);
        host.apply(&state, Wake::Start);
        // Type 134, code 0, checksum by the kernel, hop limit 64, lifetime 1800, no options. One
        // from its link-local address, one from its own.
        let hits = |host: &crate::host::Host| -> u64 {
            let v = if host.saved(6).contains("cali-anti-spoof") {
                host.saved_with_counters(6)
            } else {
                String::new()
            };
            let line = v
                .lines()
                .find(|l| l.contains("cali-anti-spoof") && l.contains("--icmpv6-type 134"))
                .expect("the rule");
            line.split(['[', ':']).nth(1).and_then(|n| n.parse().ok()).expect("a counter")
        };
        assert_eq!(hits(host), 0);
        for from in ["::", "fd65::1"] {
            a.netns.sh(&format!(
                "python3 -c '
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(41, 18, 255)
if \"{from}\" != \"::\": s.bind((\"{from}\", 0))
i = socket.if_nametoindex(\"eth0\")
s.sendto(bytes([134, 0, 0, 0, 64, 0, 7, 8] + [0] * 8), (\"ff02::1\", 0, 0, i))'"
            ));
        }
        assert_eq!(hits(host), 2);
    });
}
