//! A tool that prints rules as no tool that we know: its way is learned, and changes are seen.

use std::os::unix::fs::PermissionsExt as _;

use calico_agent::reconcile::Wake;

use crate::host::each_flavour;
use crate::netns::sh;
use crate::probing::alone;
use crate::tampering::{change, place, told};

#[test]
fn a_tool_that_prints_rules_in_a_way_of_its_own_is_learned_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    sh(&format!("ln -s /usr/bin/* /usr/sbin/* {path} 2> /dev/null || true"));
    for tool in ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"] {
        let file = dir.path().join(format!("{tool}-save"));
        let real = sh(&format!("command -v {tool}-save"));
        std::fs::remove_file(&file).unwrap();
        let text = format!(
            "#!/bin/sh\n{} \"$@\" | sed 's/-m conntrack --ctstate/-m state --state/'\n",
            real.trim()
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    alone(&format!("env PATH={path}"), "spelling::child_with_another_tool");
}

#[test]
#[ignore = "run by the test above"]
fn child_with_another_tool() {
    each_flavour(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        place.works();
        // Written once more, and then known.
        assert_eq!(told(&host.apply(&place.state, Wake::Retry).drift), [""; 0]);
        let writes = host.felix.counters().writes();
        for _ in 0..3 {
            assert_eq!(told(&host.apply(&place.state, Wake::Retry).drift), [""; 0]);
        }
        assert_eq!(host.felix.counters().writes(), writes);
        assert!(host.saved(4).contains("-m state --state"), "the other tool is not asked");
        // What is changed is seen all the same: its target, and its text.
        for (from, to) in [("-j ACCEPT", "-j DROP"), ("RELATED,", "")] {
            change(host, "cali-wl-forward", "RELATED", from, to);
            let drift = told(&host.apply(&place.state, Wake::Retry).drift);
            assert_eq!(drift.len(), 1, "{drift:?}");
            assert!(
                drift[0].starts_with("IPv4 filter chain cali-wl-forward modified"),
                "{drift:?}"
            );
            place.works();
        }
    });
}
