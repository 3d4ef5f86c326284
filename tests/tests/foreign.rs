//! What is not ours: there before, there after, untouched, counters included.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::foreign::{self, PORT};
use calico_e2e::host::Flavour;
use calico_e2e::probe::shout;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::wait;

fn foreign_things_are_untouched(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    let host = cluster.hosts[0].spec;
    foreign::make(cluster.hosts[0].ns(), flavour.iptables())?;
    let sink = Server::start(
        cluster.hosts[0].ns().name(),
        &[host.v4.into(), host.v6.into()],
        &[],
        &[PORT],
    )?;
    let outside = cluster.outside().name().to_owned();
    shout(&outside, (OUTSIDE_V4, 0).into(), (host.v4, PORT).into(), "count")?;
    shout(&outside, (OUTSIDE_V6, 0).into(), SocketAddr::from((host.v6, PORT)), "count")?;
    wait::until_true("foreign traffic", Duration::from_secs(2), || {
        sink.arrivals(b"count").len() == 6
    })?;
    drop(sink);
    let before = foreign::snapshot(cluster.hosts[0].ns())?;
    let text = before.to_string();
    // The witness must be worth something: counters that count, in both families.
    ensure!(text.matches("[3:").count() >= 8 && text.contains("packets 6 "), "{text}");

    // A life: everything programmed, changed, taken away, restarted, stopped.
    cluster.etcd.put_all(&tutorial::base())?;
    cluster.start_agents(flavour)?;
    for pod in &PODS {
        cluster.place_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    cluster.check(false)?;
    let started = foreign::snapshot(cluster.hosts[0].ns())?;
    ensure!(started == before, "touched at start: {:#?}", before.difference(&started));
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    let changed = foreign::snapshot(cluster.hosts[0].ns())?;
    ensure!(changed == before, "touched by a policy: {:#?}", before.difference(&changed));
    cluster.hosts[0].stop_agent()?;
    cluster.hosts[0].start_agent()?;
    cluster.etcd.delete(&PODS[0].endpoint().key())?;
    let first = &cluster.hosts[0];
    wait::until_true("removal of an endpoint", Duration::from_secs(10), || {
        !first.has_status_file(&PODS[0].status_file())
    })?;
    cluster.hosts[0].stop_agent()?;
    let after = foreign::snapshot(cluster.hosts[0].ns())?;
    ensure!(after == before, "touched: {:#?}", before.difference(&after));
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: foreign_things_are_untouched, "for";
}
