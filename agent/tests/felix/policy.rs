//! Which packets pass: profiles, tiers, verdicts.

use calico_agent::reconcile::{EndpointState, Wake};

use crate::host::each_flavour;
use crate::world::*;

#[test]
fn members_of_one_network_talk_and_others_do_not() {
    each_flavour(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        for to in b.both() {
            assert!(a.reaches(to, 80) && c.reaches(to, 80), "the wires work before");
        }
        let mut state = empty(flavour);
        network(&mut state, "frontend", &[1, 2]);
        network(&mut state, "backend", &[3]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["frontend"]), true);
        }
        endpoint(&mut state, &c, &profiles(&["backend"]), true);
        let report = host.apply(&state, Wake::Start);
        assert!(host.saved(4).contains("-A cali-wl-forward"), "{:?}", report.facts);
        assert_eq!(report.endpoints[&id(&a)], EndpointState::Up);
        for to in b.both() {
            assert!(a.reaches(to, 80), "frontend to frontend {to}");
            assert!(!c.reaches(to, 80), "backend to frontend {to}");
            assert!(host.reaches(to, 80), "the host is never asked {to}");
        }
    });
}
