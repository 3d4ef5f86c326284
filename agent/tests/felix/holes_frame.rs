//! What is a hole when the whole table is read, and what only looks like one.

use calico_agent::config::HostAction;
use calico_agent::reconcile::Wake;
use calico_datastore::model::Action;

use crate::holes::{Line, cut, place};
use crate::host::{Flavour, each_dataplane, on_nftables};
use crate::netns::sh;
use crate::world::*;

#[test]
fn a_table_that_slept_while_no_agent_ran_was_a_hole() {
    on_nftables(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let allowed = place.allowed();
        host.restart();
        sh("nft add table inet calico '{ flags dormant; }'");
        let denied = place.denied();
        assert!(denied.iter().all(Line::echoes), "all pass by");
        let report = host.apply(&place.state, Wake::Start);
        assert_eq!(cut(&report), 4);
        assert!(!denied.iter().any(Line::echoes), "cut");
        assert!(allowed.iter().all(Line::echoes), "the others go on");
    });
}

#[test]
fn a_chain_that_was_emptied_while_no_agent_ran_was_a_hole() {
    on_nftables(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let allowed = place.allowed();
        host.restart();
        sh("nft flush chain inet calico to-pod");
        let denied = place.denied();
        assert!(denied.iter().all(Line::echoes), "all pass");
        let report = host.apply(&place.state, Wake::Start);
        assert_eq!(cut(&report), 4);
        assert!(!denied.iter().any(Line::echoes), "cut");
        assert!(allowed.iter().all(Line::echoes), "the others go on");
    });
}

/// Rules that other settings make of the frame are no hole: what an older policy allowed goes on.
#[test]
fn another_frame_is_no_hole() {
    each_dataplane(|host, flavour| {
        let place = place(host, flavour);
        host.apply(&place.state, Wake::Start);
        let allowed = place.allowed();
        assert!(allowed.iter().all(Line::echoes));
        let mut state = next(&place.state);
        profile(&mut state, "some", vec![], vec![any(Action::Allow)]);
        let before = cut(&host.apply(&state, Wake::Desired));
        let goes_on = |what: &str| {
            assert!(allowed.iter().all(Line::echoes), "{what}: established ones are not asked");
        };
        goes_on("denied");
        let frames: [fn(&mut calico_agent::config::Settings); 3] = [
            |s| s.endpoint_counters = !s.endpoint_counters,
            |s| s.endpoint_to_host = HostAction::Drop,
            |s| s.endpoint_counters = !s.endpoint_counters,
        ];
        for (n, change) in frames.into_iter().enumerate() {
            let mut new = next(&state);
            settings(&mut new, change);
            state = new;
            // The last time while no agent runs.
            let start = n == 2;
            if start && flavour != Flavour::Nftables {
                break;
            }
            let wake = if start { Wake::Start } else { Wake::Desired };
            if start {
                host.restart();
            }
            let expected = if start { 0 } else { before };
            assert_eq!(cut(&host.apply(&state, wake)), expected, "frame {n}");
            goes_on("another frame");
        }
    });
}
