//! Members that die, hang, and cannot be reached.

use anyhow::{Result, ensure};
use calico_e2e::etcd_cluster::Cut;
use calico_e2e::host::Flavour;

use crate::lab::{Lab, Meanwhile, complaints};

fn members_come_and_go(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;

    let leader = lab.members()?.leader()?;
    lab.fault(
        "the leader is killed",
        Meanwhile::Goes,
        |lab| {
            lab.members()?.kill(leader);
            Ok(())
        },
        |lab| lab.members()?.start_all(),
    )?;

    let said: usize = lab.cluster.hosts.iter().map(|host| complaints(host).len()).sum();
    lab.fault(
        "a majority is lost",
        Meanwhile::Stands,
        |lab| {
            // The one that serves stays: its connection is as good as before.
            let serving = lab.serving()?;
            for index in (0..3).filter(|index| *index != serving) {
                lab.members()?.kill(index);
            }
            Ok(())
        },
        |lab| lab.members()?.start_all_at_once(),
    )?;
    let now: usize = lab.cluster.hosts.iter().map(|host| complaints(host).len()).sum();
    ensure!(now - said >= 2, "nobody said that the store is away");
    ensure!(now - said <= 8, "said {} times:\n{}", now - said, lab.cluster.logs());

    lab.fault(
        "all are killed",
        Meanwhile::Stands,
        |lab| {
            lab.members()?.kill_all();
            Ok(())
        },
        |lab| lab.members()?.start_all_at_once(),
    )?;
    lab.finish()
}

calico_e2e::on_each_dataplane! {
    full: members_come_and_go, "efm";
}

fn members_are_silent(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;

    let serving = lab.serving()?;
    lab.fault(
        "the member that serves is paused (SIGSTOP)",
        Meanwhile::Goes,
        |lab| lab.members()?.pause(serving),
        |lab| lab.members()?.resume(serving),
    )?;
    for (name, cut, meanwhile) in [
        ("its packets are dropped, all", Cut::Everything, Meanwhile::Goes),
        ("dropped: what hosts send to it", Cut::FromHosts, Meanwhile::Goes),
        ("dropped: what hosts send to it, after 9 s", Cut::FromHosts, Meanwhile::GoesOn),
        ("dropped: what it sends to hosts", Cut::ToHosts, Meanwhile::Goes),
    ] {
        let serving = lab.serving()?;
        lab.fault(
            name,
            meanwhile,
            |lab| lab.members()?.cut(serving, cut),
            |lab| lab.members()?.heal(serving),
        )?;
    }
    lab.fault(
        "all are paused",
        Meanwhile::Stands,
        |lab| (0..3).try_for_each(|index| lab.members()?.pause(index)),
        |lab| (0..3).try_for_each(|index| lab.members()?.resume(index)),
    )?;
    lab.finish()
}

calico_e2e::on_each_dataplane! {
    full: members_are_silent, "efs";
}
