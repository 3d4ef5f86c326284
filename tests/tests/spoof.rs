//! A pod sends only from its own addresses and its own MAC. Each forbidden packet is sent beside a
//! permitted one to the same place, where it would be accepted if it came through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::probe::{PATIENT, Service, ask_from, shout};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{DNS, PODS};
use calico_e2e::wait;

/// Sends `bad` and then `good` datagrams, waits until the good ones arrived, and a little longer;
/// then the bad ones must have arrived too or not, as `guarded` says.
fn compare(
    server: &Server,
    guarded: bool,
    what: &str,
    bad: impl FnOnce(&str) -> Result<()>,
    good: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let (bad_tag, good_tag) = (format!("bad {what}"), format!("good {what}"));
    bad(&bad_tag)?;
    good(&good_tag)?;
    wait::until_true(&good_tag, Duration::from_secs(2), || {
        !server.arrivals(good_tag.as_bytes()).is_empty()
    })?;
    verdict(server, guarded, &bad_tag)
}

fn verdict(server: &Server, guarded: bool, tag: &str) -> Result<()> {
    std::thread::sleep(Duration::from_millis(100));
    let arrived = server.arrivals(tag.as_bytes());
    ensure!(arrived.is_empty() == guarded, "{tag}, guarded {guarded}: {arrived:?}");
    Ok(())
}

/// Without an agent, what any router would do: nothing in the way of a forged sender.
fn unguarded(label: &str) -> Result<Cluster> {
    let mut cluster = Cluster::new(label)?;
    for pod in &PODS {
        cluster.wire_pod(pod)?;
    }
    cluster.route_by_hand()?;
    Ok(cluster)
}

fn guarded(label: &str, flavour: Flavour) -> Result<Cluster> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    Ok(cluster)
}

fn forge(cluster: &Cluster, guarded: bool) -> Result<()> {
    let (victim, thief) = (cluster.pod("frontend-1")?, cluster.pod("backend-1")?);
    let (good, bad) = (victim.ns().name(), thief.ns().name());
    let far = cluster.pod("frontend-2")?.spec;
    let host = cluster.hosts[0].spec;

    // Another pod's address, which the profile of frontend-2 would let in; over the wire.
    let (v4, v6) = (victim.spec.v4, victim.spec.v6);
    thief.ns().ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"))?;
    for (from, to) in [(IpAddr::from(v4), IpAddr::from(far.v4)), (v6.into(), far.v6.into())] {
        let to = SocketAddr::new(to, DNS);
        compare(
            cluster.server("frontend-2")?,
            guarded,
            &format!("address of another pod {from}"),
            |tag| shout(bad, (from, 0).into(), to, tag),
            |tag| shout(good, (from, 0).into(), to, tag),
        )?;
    }

    // An address of nobody, to the own host, which lets everybody in.
    let (no4, no6) = (Ipv4Addr::new(10, 66, 0, 1), Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 1));
    thief.ns().ip(&format!("addr add {no4}/32 dev lo\naddr add {no6}/128 dev lo nodad\n"))?;
    let own = [
        (IpAddr::from(no4), IpAddr::from(thief.spec.v4), IpAddr::from(host.v4)),
        (no6.into(), thief.spec.v6.into(), host.v6.into()),
    ];
    for (forged, real, to) in own {
        let to = SocketAddr::new(to, DNS);
        compare(
            cluster.server("calico-01")?,
            guarded,
            &format!("address of nobody {forged}"),
            |tag| shout(bad, (forged, 0).into(), to, tag),
            |tag| shout(bad, (real, 0).into(), to, tag),
        )?;
    }

    // The host's loopback: reachable from a pod since route_localnet is on for its interface, so
    // only a rule keeps it closed (CVE-2020-8558 in another product).
    cluster.hosts[0]
        .ns()
        .sysctl(&format!("ipv4/conf/{}/route_localnet", thief.spec.interface()), "1")?;
    let localhost =
        Server::start(cluster.hosts[0].ns().name(), &[Ipv4Addr::LOCALHOST.into()], &[], &[DNS])?;
    thief.ns().sysctl("ipv4/conf/all/route_localnet", "1")?;
    thief.ns().ip("route del local 127.0.0.0/8 dev lo table local\n\
                   route del local 127.0.0.1 dev lo table local\n\
                   route add 127.0.0.1 via 169.254.1.1 dev eth0 onlink\n")?;
    let from = SocketAddr::from((thief.spec.v4, 0));
    shout(bad, from, (Ipv4Addr::LOCALHOST, DNS).into(), "bad localhost")?;
    let control = |tag: &str| shout(bad, from, (host.v4, DNS).into(), tag);
    compare(cluster.server("calico-01")?, true, "beside localhost", |_| Ok(()), control)?;
    verdict(&localhost, guarded, "bad localhost")?;

    // Another MAC than the endpoint's.
    let to = SocketAddr::from((far.v4, DNS));
    let from = SocketAddr::from((v4, 0));
    let mac = |mac: &str| -> Result<()> {
        victim.ns().ip(&format!("link set eth0 address {mac}\n"))?;
        victim.set_neighbours()
    };
    mac("02:00:00:00:66:66")?;
    shout(good, from, to, "bad MAC")?;
    mac(victim.spec.mac)?;
    let server = cluster.server("frontend-2")?;
    compare(server, true, "beside MAC", |_| Ok(()), |tag| shout(good, from, to, tag))?;
    verdict(server, guarded, "bad MAC")
}

/// The same packets with nothing in their way: were they lost here too, the tests below would mean
/// nothing.
#[test]
fn forged_senders_come_through_without_an_agent() -> Result<()> {
    forge(&unguarded("spno")?, false)
}

fn forged_senders_are_dropped(label: &str, flavour: Flavour) -> Result<()> {
    forge(&guarded(label, flavour)?, true)
}

calico_e2e::on_each_dataplane! {
    full: forged_senders_are_dropped, "spo";
}

/// Link-local senders: neighbour discovery passes, a datagram to the host does not.
fn link_local(cluster: &Cluster, guarded: bool) -> Result<()> {
    let pod = cluster.pod("frontend-1")?;
    let name = pod.ns().name();
    let host = cluster.hosts[0].spec;
    // Without the permanent entry the pod must ask, and be answered.
    pod.ns().ip("neigh del fe80::ecee:eeff:feee:eeee dev eth0\n")?;
    let answer = ask_from(name, host.v6.into(), Service::Icmp, PATIENT)?;
    ensure!(answer.reached(), "the gateway was not found: {answer:?}");
    let entry = pod.ns().command("ip").args(["-6", "neigh", "show", "dev", "eth0"]).run()?;
    ensure!(entry.contains("lladdr ee:ee:ee:ee:ee:ee"), "{entry}");

    let shown = pod.ns().command("ip").args(["-6", "-o", "addr", "show", "dev", "eth0"]).run()?;
    let line = shown.lines().find(|line| line.contains("fe80::")).context("no link-local")?;
    let index: u32 = line.split(':').next().unwrap_or_default().trim().parse()?;
    let local = line.split_whitespace().find(|word| word.starts_with("fe80::"));
    let local: Ipv6Addr = local.and_then(|word| word.split('/').next()).unwrap_or("").parse()?;
    let from = SocketAddr::V6(SocketAddrV6::new(local, 0, 0, index));
    let to = SocketAddr::from((host.v6, DNS));
    compare(
        cluster.server("calico-01")?,
        guarded,
        "link-local",
        |tag| shout(name, from, to, tag),
        |tag| shout(name, (pod.spec.v6, 0).into(), to, tag),
    )
}

#[test]
fn link_local_senders_come_through_without_an_agent() -> Result<()> {
    link_local(&unguarded("feno")?, false)
}

fn link_local_addresses_do_neighbour_discovery_and_nothing_else(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    link_local(&guarded(label, flavour)?, true)
}

calico_e2e::on_each_dataplane! {
    full: link_local_addresses_do_neighbour_discovery_and_nothing_else, "fel";
}
