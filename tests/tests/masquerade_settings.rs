//! As what masqueraded pods come: with an address of the host, with ports of a range, and only by some
//! interfaces, as the settings say.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::host::Flavour;
use calico_e2e::netns::enter;
use calico_e2e::probe::{Answer, PATIENT, Service, ask_from, shout};
use calico_e2e::server::Server;
use calico_e2e::tutorial::DNS;
use calico_e2e::wait;
use calico_e2e::world::{IPPool, Resource};
use serde_json::json;

const POD: &str = "frontend-1";
/// The ports of the setting.
const PORTS: (u16, u16) = (40_000, 40_031);
/// How many connections of each protocol look for one of them at once.
const AT_ONCE: usize = 12;
/// More addresses of the host.
const MORE: [&str; 2] = ["172.18.18.111", "fd00:172:18:18::111"];
/// The second wire to the outside: the host's end, the outside's.
const SECOND: [(&str, &str); 2] =
    [("172.18.19.101", "172.18.19.250"), ("fd00:172:18:19::101", "fd00:172:18:19::250")];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a constant")
}

fn outside() -> [IpAddr; 2] {
    [OUTSIDE_V4.into(), OUTSIDE_V6.into()]
}

/// Pods of both families are masqueraded; only so an answer finds its way.
fn cluster(label: &str, flavour: Flavour) -> Result<Cluster> {
    let cluster = Cluster::tutorial(label, flavour)?;
    let pool = IPPool::plain("fd80:24e2:f998:72d6::/64", 122, true);
    cluster.put_and_wait(&[Resource::new("default-ipv6-ippool", pool).pair()])?;
    Ok(cluster)
}

/// The sources that the outside sees of connections and of datagrams that are there at the same time.
fn seen(cluster: &Cluster, to: IpAddr) -> Result<[Vec<SocketAddr>; 2]> {
    let wait = Duration::from_secs(2);
    let (tcp, udp) = enter(cluster.outside().name(), || {
        Ok((TcpListener::bind((to, 0))?, UdpSocket::bind((to, 0))?))
    })?;
    udp.set_read_timeout(Some(wait))?;
    tcp.set_nonblocking(true)?;
    let (tcp_at, udp_at) = (tcp.local_addr()?, udp.local_addr()?);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let pod = cluster.pod(POD)?.ns().name();
    let (mut by_tcp, mut by_udp) = (Vec::new(), Vec::new());
    let _streams = enter(pod, || {
        let streams = (0..AT_ONCE).map(|_| Ok(TcpStream::connect_timeout(&tcp_at, wait)?));
        streams.collect::<Result<Vec<_>>>()
    })?;
    for _ in 0..AT_ONCE {
        by_tcp.push(wait::until("a connection", wait, || Ok(tcp.accept().ok()))?.1);
    }
    let sockets =
        enter(pod, || (0..AT_ONCE).map(|_| Ok(UdpSocket::bind(any)?)).collect::<Result<Vec<_>>>())?;
    for socket in &sockets {
        socket.send_to(b"datagram", udp_at)?;
        by_udp.push(udp.recv_from(&mut [0; 16])?.1);
        // The answer finds the one who asked.
        udp.send_to(b"answer", by_udp[by_udp.len() - 1])?;
        socket.set_read_timeout(Some(wait))?;
        socket.recv(&mut [0; 16]).context("no answer")?;
    }
    Ok([by_tcp, by_udp])
}

/// All come as `source`; with `ranged` all from ports of the range, else not all.
fn expect(cluster: &Cluster, to: IpAddr, source: IpAddr, ranged: bool) -> Result<()> {
    for (protocol, seen) in ["TCP", "UDP"].into_iter().zip(seen(cluster, to)?) {
        let of_range = |one: &SocketAddr| (PORTS.0..=PORTS.1).contains(&one.port());
        let right = seen.len() == AT_ONCE
            && seen.iter().all(|one| one.ip() == source)
            && seen.iter().all(of_range) == ranged;
        ensure!(right, "{protocol} to {to}: {seen:?} instead of {source}, ranged {ranged}");
    }
    // What has no ports is translated too, or no answer would come.
    let pod = cluster.pod(POD)?.ns().name();
    let answer = ask_from(pod, to, Service::Icmp, PATIENT)?;
    ensure!(answer.reached(), "echo to {to}: {answer:?}");
    Ok(())
}

fn pods_leave_with_the_address_and_the_ports_of_the_settings(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let cluster = cluster(label, flavour)?;
    let host = cluster.hosts[0].spec;
    let own: [IpAddr; 2] = [host.v4.into(), host.v6.into()];
    let [more4, more6] = MORE;
    // Never chosen by the kernel itself.
    cluster.hosts[0].ns().ip(&format!(
        "addr add {more4}/32 dev eth0\naddr add {more6}/128 dev eth0 nodad preferred_lft 0\n"
    ))?;
    let all = |sources: [IpAddr; 2], ranged: bool| -> Result<()> {
        let mut ways = outside().into_iter().zip(sources);
        ways.try_for_each(|(to, source)| expect(&cluster, to, source, ranged))
    };
    all(own, false)?;

    // Of this host alone: the address is nobody else's.
    let name = format!("node.{}", host.name);
    let (first, last) = PORTS;
    cluster.configure(&name, &json!({ "natPortRange": format!("{first}:{last}") }))?;
    all(own, true)?;
    cluster.configure(&name, &json!({ "natOutgoingAddress": more4 }))?;
    all([ip(more4), own[1]], true)?;
    cluster.configure(&name, &json!({ "natOutgoingAddress": more6 }))?;
    all([own[0], ip(more6)], true)?;
    cluster.configure(&name, &json!({ "natPortRange": null }))?;
    all([own[0], ip(more6)], false)?;
    cluster.configure(&name, &json!({ "natOutgoingAddress": null }))?;
    all(own, false)?;

    // Pods of the other host have nothing of it, and among pods nothing is translated.
    cluster.configure(&name, &json!({ "natOutgoingAddress": more4 }))?;
    let far = cluster.pod("frontend-2")?;
    let answer = ask_from(far.ns().name(), OUTSIDE_V4.into(), Service::Udp(DNS), PATIENT)?;
    let other = IpAddr::from(cluster.hosts[1].spec.v4);
    ensure!(answer == Answer::Reached(Some(other)), "the other host's pod came as {answer:?}");
    cluster.wait_for_routes()?;
    let pod = cluster.pod(POD)?;
    let answer = ask_from(pod.ns().name(), far.spec.v4.into(), Service::Udp(DNS), PATIENT)?;
    ensure!(answer == Answer::Reached(Some(pod.spec.v4.into())), "pod to pod: {answer:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: pods_leave_with_the_address_and_the_ports_of_the_settings, "map";
}

/// Of each datagram the source that is seen.
fn source(pod: &calico_e2e::pod::Pod, to: IpAddr, at: &Server, tag: &str) -> Result<IpAddr> {
    let own: IpAddr = if to.is_ipv4() { pod.spec.v4.into() } else { pod.spec.v6.into() };
    shout(pod.ns().name(), (own, 0).into(), SocketAddr::new(to, DNS), tag)?;
    wait::until(tag, Duration::from_secs(2), || {
        Ok(at.arrivals(tag.as_bytes()).first().map(|arrival| arrival.from.ip()))
    })
}

fn only_what_leaves_by_an_interface_of_the_filter_is_masqueraded(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    let cluster = cluster(label, flavour)?;
    let (host, out) = (&cluster.hosts[0], cluster.outside());
    host.ns().ip(&format!("link add ens8 type veth peer name eth1 netns {}\n", out.name()))?;
    for (ns, dev, own) in [
        (host.ns(), "ens8", SECOND.map(|(near, _)| near)),
        (out, "eth1", SECOND.map(|(_, far)| far)),
    ] {
        let [v4, v6] = own;
        ns.ip(&format!(
            "link set {dev} up\naddr add {v4}/24 dev {dev}\naddr add {v6}/64 dev {dev} nodad\n"
        ))?;
    }
    // What comes as a pod is no stranger.
    for name in ["all", "eth0", "eth1"] {
        out.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    }
    let far = SECOND.map(|(_, far)| ip(far));
    let second = Server::start(out.name(), &far, &[], &[DNS])?;
    let pod = cluster.pod(POD)?;
    let first = cluster.server("outside")?;
    let own: [IpAddr; 2] = [pod.spec.v4.into(), pod.spec.v6.into()];
    let by_eth0: [IpAddr; 2] = [host.spec.v4.into(), host.spec.v6.into()];
    let by_ens8 = SECOND.map(|(near, _)| ip(near));
    for (filter, eth0, ens8) in [
        (None, true, true),
        (Some("eth0"), true, false),
        (Some("ens+"), false, true),
        (Some("nowhere"), false, false),
        (None, true, true),
    ] {
        cluster.configure("default", &json!({ "iptablesNATOutgoingInterfaceFilter": filter }))?;
        for family in [0, 1] {
            for (to, at, masked, masquerade) in [
                (outside()[family], first, by_eth0[family], eth0),
                (far[family], &second, by_ens8[family], ens8),
            ] {
                let expected = if masquerade { masked } else { own[family] };
                let tag = format!("{filter:?} {eth0} {ens8} {to}");
                let seen = source(pod, to, at, &tag)?;
                ensure!(seen == expected, "filter {filter:?}: {to} saw {seen}, not {expected}");
            }
        }
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: only_what_leaves_by_an_interface_of_the_filter_is_masqueraded, "mif";
}
