//! A store that forgets, goes back, or is empty.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::etcd_cluster::Cut;
use calico_e2e::host::Flavour;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::wait;
use calico_e2e::world::{ClusterInformation, Resource};

use crate::lab::{Lab, Meanwhile, RECOVERY, extra, switch};
use crate::picture::Picture;

/// The token that etcd has when nobody gives it one.
const SAME_TOKEN: &str = "etcd-cluster";

fn the_store_forgets_and_goes_back(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;

    lab.fault(
        "compacted while hosts cannot see it",
        Meanwhile::Unseen,
        |lab| {
            for index in 0..3 {
                lab.members()?.cut(index, Cut::FromHosts)?;
            }
            Ok(())
        },
        |lab| {
            let last = many_writes(lab)?;
            let members = lab.members()?;
            members.compact(last)?;
            (0..3).try_for_each(|index| members.heal(index))
        },
    )?;

    let saved = lab.members()?.snapshot()?;
    // What the snapshot knows, and what happens after it.
    lab.set_open(true);
    let closed = lab.flip(RECOVERY)?;
    let saved_closed = lab.members()?.snapshot()?;
    ensure!(saved == saved_closed, "two files");
    let open = lab.flip(RECOVERY)?;
    ensure!(open > closed);
    lab.in_sync(open, Instant::now(), RECOVERY)?;
    lab.check_switch()?;

    // Lower than what was read: the hosts must notice, and go back as well.
    let begun = Instant::now();
    lab.members()?.restore(&saved, "another")?;
    lab.members()?.start_all()?;
    lab.set_open(false);
    until_switched(&lab, begun)?;
    lab.note("restored from an older snapshot, another id", None, begun.elapsed())?;

    // The same id, and a revision that has overtaken theirs before they look.
    let open = lab.flip(RECOVERY)?;
    lab.in_sync(open, Instant::now(), RECOVERY)?;
    for index in 0..3 {
        lab.members()?.cut(index, Cut::FromHosts)?;
    }
    lab.members()?.restore(&saved, SAME_TOKEN)?;
    lab.members()?.start_all()?;
    many_writes(&lab)?;
    let begun = Instant::now();
    for index in 0..3 {
        lab.members()?.heal(index)?;
    }
    lab.set_open(false);
    until_switched(&lab, begun)?;
    lab.note("restored, same id, overtaken", None, begun.elapsed())?;
    lab.finish()
}

calico_e2e::on_each_dataplane! {
    full: the_store_forgets_and_goes_back, "efb";
}

/// 300 revisions that change nothing. Returns the last.
fn many_writes(lab: &Lab) -> Result<i64> {
    let (key, value) = calico_e2e::world::network_profile("frontend").pair();
    let mut last = 0;
    for round in 0..300 {
        last = lab.cluster.etcd.put(&key, &format!("{value}{}", " ".repeat(round % 2)))?;
    }
    Ok(last)
}

/// Waits until packets say what the store says.
fn until_switched(lab: &Lab, begun: Instant) -> Result<()> {
    let mut last = Ok(());
    while begun.elapsed() < RECOVERY {
        last = lab.check_switch();
        if last.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    last
}

fn the_store_is_wiped(label: &str, flavour: Flavour) -> Result<()> {
    let mut lab = Lab::new(label, flavour)?;
    let revision = lab.flip(RECOVERY)?;
    lab.in_sync(revision, Instant::now(), RECOVERY)?;
    lab.cluster.wait_until_ready()?;
    let before: Vec<Picture> =
        lab.cluster.hosts.iter().map(Picture::settled).collect::<Result<_>>()?;

    // Empty, at the same addresses, with the same id: nothing is torn down.
    lab.members()?.wipe()?;
    lab.members()?.start_all()?;
    lab.until_waiting()?;
    std::thread::sleep(Duration::from_secs(3));
    let untouched = |lab: &Lab, when: &str| -> Result<()> {
        for (before, host) in before.iter().zip(&lab.cluster.hosts) {
            let differences = before.difference(&Picture::take(host)?);
            ensure!(differences.is_empty(), "{when}: {}", differences.join("\n"));
        }
        Ok(())
    };
    untouched(&lab, "empty")?;
    // Nor by an agent that is started just now: it must not be the one that declares it ready.
    let host = &mut lab.cluster.hosts[0];
    host.stop_agent()?;
    host.start_agent()?;
    wait::until("an agent that says what to do", RECOVERY, || {
        let status = host.status_text()?;
        Ok(status.contains("was part of a cluster").then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    untouched(&lab, "empty, and an agent restarted")?;
    let kept = lab.cluster.etcd.get_prefix("/calico/resources/")?;
    ensure!(kept.is_empty(), "written into an empty store: {kept:?}");
    // Nor by half of a new content.
    let pods = PODS.iter().map(|pod| pod.endpoint().pair());
    lab.cluster.etcd.put_all(&tutorial::base())?;
    lab.cluster.etcd.put_all(&pods.collect::<Vec<_>>())?;
    lab.cluster.etcd.put_all(&extra())?;
    lab.cluster.etcd.put_all(&[switch(false)])?;
    lab.cluster.etcd.put_all(&[information(false)])?;
    std::thread::sleep(Duration::from_secs(1));
    untouched(&lab, "not ready")?;
    for host in &lab.cluster.hosts {
        let waiting = host.status()?.0["datastore"]["waiting"].clone();
        let reason = waiting.as_str().context("it waits for nothing")?;
        ensure!(reason.contains("ready"), "{reason}");
    }

    let begun = Instant::now();
    let revision = lab.cluster.etcd.put_all(&[information(true)])?;
    lab.set_open(false);
    lab.in_sync(revision, begun, RECOVERY)?;
    lab.note("wiped, filled, and ready again", None, begun.elapsed())?;
    lab.finish()
}

calico_e2e::on_each_dataplane! {
    full: the_store_is_wiped, "efw";
}

fn information(ready: bool) -> (String, String) {
    let spec = ClusterInformation {
        cluster_guid: "8a1f6ef3b4c14d0f9e5a7c2b1d3e4f50".to_owned(),
        cluster_type: "bgp".to_owned(),
        calico_version: "v3.29.0".to_owned(),
        datastore_ready: ready,
    };
    Resource::new("default", spec).pair()
}
