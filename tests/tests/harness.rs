//! The harness itself, with a few rules and routes made by hand instead of by an agent: its probes
//! must tell what passes from what is dropped, refused or unreachable, or no other test means much.

use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::{Cluster, ETCD};
use calico_e2e::kernel::{Snapshot, Witness};
use calico_e2e::matrix::{Expected, Family, Measured};
use calico_e2e::netns;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::run;
use calico_e2e::tutorial::{DNS, HTTP, PODS, SERVICES};

#[test]
fn answers_are_told_apart() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new("harness")?;
    for pod in &PODS {
        cluster.wire_pod(pod)?;
    }
    cluster.route_by_hand()?;
    // Pods of both hosts see each other; the outside has no way back.
    let table = "
                    frontend-1 backend-1 frontend-2 backend-2 calico-01 calico-02 outside
        frontend-1      -          *         *          *         *         *        .
        calico-02       *          *         *          *         *         -        *";
    let table = Expected::parse(table, &SERVICES)?;
    for family in [Family::V4, Family::V6] {
        let measured = cluster.measure(&table, family)?;
        ensure!(measured.differences().is_empty(), "{measured}");
    }

    // A rule that drops is silence, for that service and direction only.
    let second = cluster.host("calico-02")?.ns();
    for iptables in ["iptables-legacy", "ip6tables-nft"] {
        let rule = format!("-A FORWARD -o {} -p tcp --dport {HTTP} -j DROP", "calie5c1a9f4-02");
        second.command(iptables).args(rule.split(' ')).run()?;
    }
    let open = "frontend-2 backend-2\nfrontend-1 * *";
    let closed = "frontend-2 backend-2\nfrontend-1 tui *";
    for family in [Family::V4, Family::V6] {
        let sites = cluster.sites();
        let as_open = Expected::parse(open, &SERVICES)?;
        let measured = Measured::take(&as_open, &sites, &SERVICES, family)?;
        ensure!(measured.differences().len() == 1, "{measured}");
        let as_closed = Expected::parse(closed, &SERVICES)?;
        let measured = Measured::take(&as_closed, &sites, &SERVICES, family)?;
        ensure!(measured.differences().is_empty(), "{measured}");
    }

    // Nobody listens, no route, masked: none of them is silence.
    let pod = cluster.pod("frontend-1")?.ns().name().to_owned();
    let backend = cluster.pod("backend-1")?.spec.v4;
    for service in [Service::Tcp(1), Service::Udp(1)] {
        ensure!(ask_from(&pod, backend.into(), service, PATIENT)? == Answer::Refused, "{service}");
    }
    let nowhere = "203.0.113.1".parse()?;
    for service in [Service::Tcp(HTTP), Service::Udp(DNS), Service::Icmp] {
        let answer = ask_from(&pod, nowhere, service, PATIENT)?;
        ensure!(matches!(answer, Answer::Unreachable(_)), "{service}: {answer:?}");
    }
    let seen = ask_from(&pod, backend.into(), Service::Udp(DNS), BRIEF)?;
    ensure!(seen == Answer::Reached(Some(PODS[0].v4.into())), "{seen:?}");

    // One way: what the server saw, whether or not an answer finds its way.
    let outside = cluster.outside().name().to_owned();
    let arrived = cluster.server("outside")?.arrivals(b"probe");
    ensure!(arrived.iter().any(|a| a.from.ip() == PODS[0].v4), "nothing arrived: {arrived:?}");
    ensure!(ask_from(&outside, ETCD, Service::Icmp, PATIENT)?.reached(), "no way to etcd");
    Ok(())
}

#[test]
fn a_run_leaves_nothing_behind() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::new("gone")?;
    let (name, dir) = (cluster.run().name().to_owned(), cluster.run().dir().to_owned());
    cluster.etcd.put("/a", "1")?;
    ensure!(cluster.etcd.get("/a")?.as_deref() == Some("1"), "etcd forgot");
    let pids = netns::pids(&format!("{name}-wire"));
    ensure!(pids.len() == 1, "etcd should run on the wire: {pids:?}");
    drop(cluster);
    ensure!(!dir.exists(), "{} is still there", dir.display());
    let left: Vec<_> = netns::list().into_iter().filter(|n| n.starts_with(&name)).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    std::thread::sleep(Duration::from_millis(10));
    for pid in pids {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "etcd still runs");
    }
    Ok(())
}

#[test]
fn a_snapshot_sees_every_kind_of_change() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::new("snap")?;
    let ns = cluster.hosts[0].ns();
    let mut last = Snapshot::take(ns)?.written();
    for change in [
        "iptables-legacy -A INPUT -s 10.0.0.1 -j DROP",
        "ip6tables-legacy -A INPUT -s fd00::1 -j DROP",
        "iptables-nft -A INPUT -s 10.0.0.1 -j DROP",
        "ip6tables-nft -A INPUT -s fd00::1 -j DROP",
        "ipset create foreign hash:ip",
        "ipset add foreign 10.0.0.1",
        "ip route add 10.1.0.0/16 via 172.18.18.1",
        "ip route add fd01::/64 via fd00:172:18:18::1",
        "ip rule add fwmark 0x1/0x1 lookup 100",
        "ip -6 rule add fwmark 0x1/0x1 lookup 100",
        "ip neigh add 172.18.18.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        "nft add table inet foreign",
    ] {
        let mut words = change.split(' ');
        ns.command(words.next().unwrap_or_default()).args(words).run()?;
        let now = Snapshot::take(ns)?.written();
        ensure!(now != last, "not seen: {change}");
        last = now;
    }
    let counted = Snapshot::take(ns)?;
    ask_from(ns.name(), "127.0.0.1".parse()?, Service::Icmp, PATIENT)?;
    let after = Snapshot::take(ns)?;
    ensure!(counted != after, "packets are not seen");
    let differs = last.difference(&after.written());
    ensure!(after.written() == last, "differs without a change: {differs:#?}");
    Ok(())
}

#[test]
fn a_witness_hears_every_write_once() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let cluster = Cluster::new("wit")?;
    let ns = cluster.hosts[0].ns();
    let mut witness = Witness::start(ns, cluster.run().dir())?;
    ensure!(witness.writes()?.is_empty(), "heard something in silence");
    ns.ip("route add 10.1.0.0/16 via 172.18.18.1\n")?;
    ns.command("iptables-nft").args(["-A", "INPUT", "-s", "10.0.0.1", "-j", "DROP"]).run()?;
    let heard = witness.writes()?;
    for part in ["10.1.0.0/16 via 172.18.18.1", "10.0.0.1"] {
        ensure!(heard.iter().filter(|l| l.contains(part)).count() == 1, "{part}: {heard:#?}");
    }
    ensure!(witness.writes()?.is_empty(), "heard twice");
    Ok(())
}
