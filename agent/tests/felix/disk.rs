//! States that come from disk: what is in force after a boot until the datastore has answered.

use calico_agent::desired::{DesiredState, Origin};
use calico_agent::reconcile::Wake;

use crate::host::{Host, each_flavour};
use crate::world::*;

#[test]
fn a_state_from_disk_gives_and_takes_nothing() {
    each_flavour(|host, flavour| {
        let (a, b, c) = (host.pod(1), host.pod(2), host.pod(3));
        b.serve(80);
        c.serve(80);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1, 2]);
        for pod in [&a, &b] {
            endpoint(&mut state, pod, &profiles(&["net"]), true);
        }
        let mut newer = next(&state);
        network(&mut newer, "more", &[1, 2, 3]);
        endpoint(&mut newer, &c, &profiles(&["more"]), true);
        host.apply(&newer, Wake::Start);
        let chains = |host: &Host| -> usize {
            [4, 6].map(|family| host.saved(family).matches("\n:cali").count()).iter().sum()
        };
        let sets = || crate::netns::sh("ipset -n list").lines().count();
        let (many_chains, many_sets) = (chains(host), sets());

        host.restart();
        let origin = Origin::Stored { since: 0 };
        let stored = DesiredState { generation: 0, origin, ..state.clone() };
        host.apply(&stored, Wake::Start);
        assert_eq!((chains(host), sets()), (many_chains, many_sets));
        assert!(a.reaches(b.v4(), 80) && !a.reaches(c.v4(), 80), "an endpoint that nobody knows");
        // The datastore says the same: now everything else goes, without another look being due.
        host.apply(&state, Wake::Desired);
        assert!(chains(host) < many_chains && sets() < many_sets);
        assert!(a.reaches(b.v4(), 80) && a.reaches(b.v6(), 80) && !a.reaches(c.v4(), 80));
    });
}
