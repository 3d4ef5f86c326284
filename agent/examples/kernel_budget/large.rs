//! Large address sets, one member more, and all of them; long policies, one rule more.

use calico_agent::reconcile::Wake;

use crate::host::Host;
use crate::netns::apart;
use crate::rows::{Row, Rows, Spread};
use crate::samples::Samples;
use crate::transaction::Kernel;
use crate::world::{self, Dataplane};

const TITLE: &str =
    "a set of 100,000: desired state → acknowledged by the kernel, beside the tools";
const LONG: &str = "a long policy: desired state → acknowledged by the kernel, beside the tools";
const ALONE: &str = "nftables, the transaction alone, beside the same bytes made beforehand";
const MEMBERS: u32 = 100_000;

/// Addresses and, at length, prefixes.
pub fn measure(dataplane: Dataplane, long: bool, rows: &mut Rows) {
    let (loads, single) = (Samples::of_everything(long), Samples::of_change(long));
    let kinds = [("address", false), ("prefix of three lengths", true)];
    for (what, prefixes) in kinds.into_iter().filter(|(_, prefixes)| long || !prefixes) {
        let empty = world::with_set(dataplane, 3, prefixes);
        let full = world::with_set(dataplane, MEMBERS, prefixes);
        let mut more = full.clone();
        world::add_member(&mut more, MEMBERS, prefixes);
        let (all, one, read) = apart(|| {
            let mut host = Host::new(2);
            host.apply(&empty, Wake::Start);
            let all = host.load(&empty, &full, loads);
            host.apply(&full, Wake::Desired);
            let one = host.there_and_back(&full, &more, single);
            let read: Vec<_> = (0..3).map(|_| host.apply(&full, Wake::Retry)).collect();
            (all, one, read)
        });
        for (label, took) in [
            (format!("one {what} more"), &one),
            (format!("{MEMBERS} of {what} into a small one"), &all),
        ] {
            let row = Row::new(TITLE, label, Spread::of(&took.ours)).on(dataplane.name());
            rows.add(row.beside(dataplane.tools(), Spread::of(&took.tools)));
        }
        let row = Row::new(TITLE, format!("{what}: read back and compared"), Spread::of(&read));
        rows.add(row.on(dataplane.name()));
        if dataplane != Dataplane::Nftables {
            continue;
        }
        let took = apart(|| {
            let mut kernel = Kernel::new(&full.settings, Default::default());
            kernel.fill(&full);
            kernel.there_and_back(&full, &more, single)
        });
        let ours = Spread::of(&took.ours);
        let row = Row::new(ALONE, format!("one {what} more into {MEMBERS}"), ours).on("nftables");
        let row = row.beside("the same bytes", Spread::of(&took.raw));
        rows.add(row.within("≤ 0.05 ms", ours.p50 <= 0.05));
    }
    for length in [30, 3000] {
        let (from, to) = (world::long(dataplane, length), world::long(dataplane, length + 1));
        let took = apart(|| {
            let mut host = Host::new(2);
            host.apply(&from, Wake::Start);
            host.there_and_back(&from, &to, single)
        });
        let what = format!("one rule more in a policy of {length}");
        let row = Row::new(LONG, what, Spread::of(&took.ours)).on(dataplane.name());
        rows.add(row.beside(dataplane.tools(), Spread::of(&took.tools)));
    }
}
