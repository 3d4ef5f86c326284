//! The whole policy of a host, and single changes of it.

use calico_agent::reconcile::Wake;

use crate::change::Change;
use crate::host::{Host, Took};
use crate::netns::{apart, run, try_run};
use crate::rows::{Row, Rows, Spread};
use crate::samples::Samples;
use crate::transaction::{self, Kernel};
use crate::world::{self, BUDGETED, Dataplane, Size};

const TITLE: &str =
    "a change of policy: desired state → acknowledged by the kernel, beside the tools";
const ALONE: &str = "nftables, the transaction alone, beside the same bytes made beforehand";

/// All of it on a host of one size.
pub fn measure(dataplane: Dataplane, size: Size, long: bool, rows: &mut Rows) {
    let (label, budgeted) = (size.label(), size == BUDGETED);
    let (loads, single) = (Samples::of_everything(long), Samples::of_change(long));
    let full = world::full(dataplane, size);
    // What a first endpoint makes beside itself is there.
    let none = world::full(dataplane, Size { endpoints: 1, classes: 1 });
    let (load, changes, asked) = apart(|| {
        let mut host = Host::new(size.endpoints + 1);
        host.apply(&none, Wake::Start);
        let load = host.load(&none, &full, loads);
        host.apply(&full, Wake::Desired);
        let took = |change: Change| host.there_and_back(&full, &change.of(&full, size), single);
        let changes = Change::ALL.map(took);
        (load, changes, loads.turns().map(|_| host.ask_counters(&full)).collect::<Vec<_>>())
    });
    let row = |what: &str, ours: Spread| Row::new(TITLE, what, ours).on(dataplane.name());
    let tools = dataplane.tools();
    let add = |rows: &mut Rows, (what, back): (&str, Option<&str>), took: &Took| {
        let ours = Spread::of(&took.ours);
        let mut one = row(&format!("{what}, {label}"), ours).beside(tools, Spread::of(&took.tools));
        if budgeted && what == Change::Join.says().0 && dataplane == Dataplane::Legacy {
            one = one.within("≤ 10 ms", ours.p50 <= 10.0);
        }
        rows.add(one);
        if let Some(back) = back {
            let one = row(&format!("{back}, {label}"), Spread::of(&took.back));
            rows.add(one.beside(tools, Spread::of(&took.tools_back)));
        }
    };
    add(rows, ("everything", None), &load);
    rows.add(
        row(&format!("everything, {label}: sent"), Spread::one(load.bytes as f64 / 1e3))
            .in_unit("kB"),
    );
    for (change, took) in Change::ALL.into_iter().zip(&changes) {
        add(rows, change.says(), took);
    }
    rows.add(row(&format!("what it counted is read, {label}"), Spread::of(&asked)));
}

/// The transaction of nftables alone, at one size.
pub fn alone(size: Size, long: bool, rows: &mut Rows) {
    let (label, budgeted) = (size.label(), size == BUDGETED);
    let (loads, single) = (Samples::of_everything(long), Samples::of_change(long));
    let full = world::full(Dataplane::Nftables, size);
    // Interfaces that are not there: their groups are not part of the transaction.
    let kernel = || Kernel::new(&full.settings, Default::default());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut text = String::new();
    for _ in loads.turns() {
        apart(|| {
            ours.push(kernel().fill(&full));
            if text.is_empty() {
                text = run(&["nft", "list", "ruleset"], "");
            }
        });
        apart(|| {
            let begin = std::time::Instant::now();
            try_run(&["nft", "-f", "-"], &text).unwrap();
            theirs.push(begin.elapsed());
        });
    }
    let (ours, theirs) = (Spread::of(&ours), Spread::of(&theirs));
    let mut row = Row::new(ALONE, format!("everything, {label}"), ours).on("nftables");
    if budgeted {
        row = row.within("≤ 1.0 × nft -f", ours.p50 <= theirs.p50);
    }
    rows.add(row.beside("nft -f", theirs));
    let all = apart(|| {
        let mut kernel = kernel();
        kernel.fill(&full);
        Change::ALL.map(|change| kernel.there_and_back(&full, &change.of(&full, size), single))
    });
    for (change, took) in Change::ALL.into_iter().zip(&all) {
        // With nothing but a group it is no transaction.
        if took.bytes > 0 {
            add_alone(rows, change, took, &label, budgeted);
        }
    }
}

fn add_alone(
    rows: &mut Rows,
    change: Change,
    took: &transaction::Took,
    label: &str,
    budgeted: bool,
) {
    let (what, back) = change.says();
    let (ours, raw) = (Spread::of(&took.ours), Spread::of(&took.raw));
    let mut row = Row::new(ALONE, format!("{what}, {label}"), ours).on("nftables");
    if budgeted && change == Change::Join {
        row = row.within("≤ 0.1 ms", ours.p50 <= 0.1);
    } else if change == Change::NewClass {
        row = row.within("≤ 2 × the raw batch", ours.p50 <= 2.0 * raw.p50);
    }
    rows.add(row.beside("the same bytes", raw));
    if let Some(back) = back {
        let row = Row::new(ALONE, format!("{back}, {label}"), Spread::of(&took.back));
        rows.add(row.on("nftables").beside("the same bytes", Spread::of(&took.raw_back)));
    }
}
