//! Pods of a pool with `natOutgoing` reach the outside under their host's address; pods reach each
//! other, and pods of a pool without it everybody, under their own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::host::Flavour;
use calico_e2e::probe::{Answer, PATIENT, Service, ask_from, shout};
use calico_e2e::tutorial::{DNS, HTTP};
use calico_e2e::wait;
use calico_e2e::world::{IPPool, Resource};

/// The address under which the outside sees datagrams of a pod.
fn seen_outside(cluster: &Cluster, pod: &str, tag: &str, v6: bool) -> Result<IpAddr> {
    let pod = cluster.pod(pod)?;
    let (from, to): (IpAddr, IpAddr) = if v6 {
        (pod.spec.v6.into(), OUTSIDE_V6.into())
    } else {
        (pod.spec.v4.into(), OUTSIDE_V4.into())
    };
    shout(pod.ns().name(), (from, 0).into(), SocketAddr::new(to, DNS), tag)?;
    let server = cluster.server("outside")?;
    wait::until(&format!("datagram {tag}"), Duration::from_secs(2), || {
        Ok(server.arrivals(tag.as_bytes()).first().map(|arrival| arrival.from.ip()))
    })
}

fn the_outside_sees_the_host(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    let host: IpAddr = cluster.hosts[0].spec.v4.into();
    let pod = cluster.pod("frontend-1")?;
    let name = pod.ns().name();

    let answer = ask_from(name, OUTSIDE_V4.into(), Service::Tcp(HTTP), PATIENT)?;
    ensure!(answer == Answer::Reached(Some(host)), "the outside saw {answer:?}");
    ensure!(seen_outside(&cluster, "frontend-1", "on", false)? == host, "not masqueraded");

    let friend = cluster.pod("frontend-2")?.spec;
    let answer = ask_from(name, friend.v4.into(), Service::Tcp(HTTP), PATIENT)?;
    ensure!(answer == Answer::Reached(Some(pod.spec.v4.into())), "pod to pod: {answer:?}");

    // The IPv6 pool has none: seen as it is.
    let seen = seen_outside(&cluster, "frontend-1", "six", true)?;
    ensure!(seen == IpAddr::from(pod.spec.v6), "IPv6 was masqueraded: {seen}");

    // Switched off in the datastore it ends, switched on it begins, on the running agent.
    for (on, expected) in [(false, pod.spec.v4.into()), (true, host)] {
        let pool = Resource::new("default-ipv4-ippool", IPPool::plain("192.168.0.0/16", 26, on));
        let (key, value) = pool.pair();
        cluster.etcd.put(&key, &value)?;
        let mut last = None;
        let mut round = 0;
        wait::until("change of natOutgoing", Duration::from_secs(10), || {
            round += 1;
            last = Some(seen_outside(&cluster, "frontend-1", &format!("{on} {round}"), false)?);
            Ok((last == Some(expected)).then_some(()))
        })
        .with_context(|| format!("last seen {last:?}"))?;
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: the_outside_sees_the_host, "mas";
}
