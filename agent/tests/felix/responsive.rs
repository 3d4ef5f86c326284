//! What else the thread has to do (the watchdog, HTTP) while a large transaction is written.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use calico_agent::desired::{Member, SetId};
use calico_agent::reconcile::{Reconciler, Wake, World};
use calico_datastore::model::Cidr;

use crate::host::on_nftables;
use crate::world::*;

/// Members of one set: a transaction of some tenths of a second.
const MEMBERS: u32 = 150_000;

#[test]
fn a_large_transaction_keeps_nobody_waiting() {
    on_nftables(|host, flavour| {
        let a = host.pod(1);
        let mut state = empty(flavour);
        network(&mut state, "net", &[1]);
        endpoint(&mut state, &a, &profiles(&["net"]), true);
        host.apply(&state, Wake::Start);
        state = next(&state);
        let set = state.sets.get_mut(&SetId::new("s:net")).unwrap();
        for n in 0..MEMBERS {
            let address = std::net::Ipv4Addr::from(0x0a42_0000 + n);
            set.members.insert(Member::Net(Cidr::host(address.into())));
        }
        let world = World { desired: state.into(), links: host.links.clone() };
        // How often somebody else had a turn while it was written.
        let turns = Rc::new(Cell::new(0_u32));
        let begin = Instant::now();
        let before = host.felix.counters().nftables_bytes.get();
        let counted = Rc::clone(&turns);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let work = host.felix.reconcile(&world, Wake::Desired);
            let others = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    counted.set(counted.get() + 1);
                }
            };
            tokio::select! {
                report = work => report,
                () = others => unreachable!(),
            }
        });
        assert_eq!(report.problems, []);
        let bytes = host.felix.counters().nftables_bytes.get() - before;
        println!("{bytes} bytes in {:?}, {} turns", begin.elapsed(), turns.get());
        assert!(bytes > 2 << 20, "{bytes}");
        assert!(turns.get() > 20, "{} turns in {:?}", turns.get(), begin.elapsed());
    });
}
