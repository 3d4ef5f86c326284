//! Removes what a run with another iptables left in its tables.

use calico_datastore::model::Family;

use crate::exec::Exec;
use crate::felix::counters::Counters;
use crate::felix::iptables::driver::Driver;
use crate::felix::iptables::probe::Dataplane;
use crate::felix::iptables::tables::FamilyTables;
use crate::felix::reconciler::Run;
use crate::telemetry::chain;

/// Removes everything of ours from the tables of these families. True when nothing is left.
pub(in crate::felix) async fn clean(
    exec: &Exec,
    counters: &Counters,
    dataplane: &Dataplane,
    families: &[Family],
    run: &mut Run,
) -> bool {
    let driver = Driver::new(exec.clone(), dataplane.clone(), counters.clone());
    let mut clean = true;
    for &family in families {
        let mut nothing = FamilyTables::new(family, counters.clone());
        let outcome = nothing.apply(&driver, &|_, _| Vec::new()).await;
        clean &= outcome.failed.is_empty() && outcome.stuck.is_empty();
        // Nobody tells when a lock is free. A rule of somebody else may stay for ever.
        run.surprise |= !outcome.failed.is_empty();
        for (table, error) in outcome.failed {
            run.problem(
                format!("{} {family} table {}", dataplane.flavour, table.name()),
                format!("cannot remove our rules of an earlier run: {}", chain(&error)),
            );
        }
        for (chain, said) in outcome.stuck {
            run.problem(
                format!("{} chain {chain}", dataplane.flavour),
                format!("cannot be deleted from the {family} tables: {said}"),
            );
        }
    }
    clean
}
