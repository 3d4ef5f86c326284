//! What counting packets costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::felix::tally::Tally;
use calico_agent::reconcile::Wake;

use crate::counters::{PAYLOAD, quiet_world};
use crate::host::{each_flavour, receiver};
use crate::world::*;

/// What counting costs a packet: a stream of datagrams from one pod to another, with and without, in
/// turn.
#[test]
#[ignore = "measures; run by itself: CALICO_STREAM seconds for each"]
fn what_counting_costs() {
    let seconds = std::env::var("CALICO_STREAM").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    each_flavour(move |host, flavour| {
        let (pods, mut state) = quiet_world(host, flavour);
        let [a, _, c] = &pods;
        let mut best = [[f64::MAX; 2]; 2];
        for round in 0..10 {
            let counters = round % 2 == 1;
            settings(&mut state, |s| s.endpoint_counters = counters);
            state = next(&state);
            host.apply(&state, Wake::Retry);
            for (kind, port) in [80, 81].into_iter().enumerate() {
                let to = a.v4();
                let from = c.v4();
                let each = c.netns.run(move || {
                    let socket = receiver(SocketAddr::new(from, 0));
                    let (begin, mut least) = (Instant::now(), f64::MAX);
                    // The least of many short times: others are at work on this machine, too.
                    while begin.elapsed() < length {
                        let begin = Instant::now();
                        for _ in 0..500 {
                            let _ = socket.send_to(&[0; PAYLOAD], (to, port));
                        }
                        least = least.min(begin.elapsed().as_nanos() as f64 / 500.0);
                    }
                    least
                });
                let best = &mut best[kind][usize::from(counters)];
                *best = best.min(each);
            }
        }
        // And what an answer costs.
        let mut many = next(&state);
        for n in 0..1000_u16 {
            let one = calico_agent::desired::LocalEndpoint {
                interface: format!("calimany{n}").parse().unwrap(),
                addresses: vec![
                    format!("10.66.{}.{}/32", n / 250, n % 250).parse().unwrap(),
                    format!("fd66::{n:x}/128").parse().unwrap(),
                ],
                ..calico_agent::desired::LocalEndpoint::clone(&state.endpoints[&id(a)])
            };
            let mut id = id(a);
            id.workload = format!("default/many{n}").into();
            many.endpoints.insert(id, Arc::new(one));
        }
        host.apply(&many, Wake::Desired);
        let begin = Instant::now();
        assert_eq!(host.block_on(Tally::default().ask(&many)).unwrap().len(), 1003);
        println!("{flavour:?}: 1003 endpoints read in {:?}", begin.elapsed());
        for (kind, [without, with]) in ["of a connection", "denied"].into_iter().zip(best) {
            println!("{flavour:?}, {kind}: {without:.0} ns a packet, counted {with:.0} ns");
        }
    });
}
