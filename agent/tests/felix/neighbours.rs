//! IPv6 neighbour discovery works whatever policy says, and nothing else does under its cover.

use calico_agent::reconcile::Wake;

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
        let pinged =
            a.netns.sh("busybox ping -6 -c 1 -W 1 fd99::1 >/dev/null 2>&1 && echo yes || echo no");
        assert_eq!(pinged.trim(), "no", "denied by its profile");
        let found = a.netns.sh("ip -6 neigh show dev eth0");
        assert!(
            found.lines().any(|l| l.starts_with(gateway) && l.contains("ee:ee:ee:ee:ee:ee")),
            "{found}"
        );
        // Link-local addresses are for finding each other only.
        let pinged = a.netns.sh(&format!(
            "busybox ping -6 -c 1 -W 1 {gateway}%eth0 >/dev/null 2>&1 && echo yes || echo no"
        ));
        assert_eq!(pinged.trim(), "no", "an echo request from fe80::/10");
        // And with no agent at all it is answered.
        host.iptables(6, "-t raw -D PREROUTING 1");
        host.iptables(6, "-D INPUT 1");
        let pinged = a.netns.sh(&format!(
            "busybox ping -6 -c 1 -W 1 {gateway}%eth0 >/dev/null 2>&1 && echo yes || echo no"
        ));
        assert_eq!(pinged.trim(), "yes", "the probe proves something");
    });
}
