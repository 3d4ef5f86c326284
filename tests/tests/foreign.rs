//! What is not ours: there before, there after, untouched, counters included.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::host::Flavour;
use calico_e2e::kernel::Snapshot;
use calico_e2e::probe::shout;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, PODS};
use calico_e2e::{netns::Place, run, wait};

/// A port of which only the foreign rules know.
const PORT: u16 = 7777;

fn make_foreign(ns: &Place, flavour: &str) -> Result<()> {
    let mut lines = vec![
        "ipset create foreign4 hash:ip counters".to_owned(),
        "ipset add foreign4 172.18.18.250".to_owned(),
        "ipset add foreign4 10.77.0.1".to_owned(),
        "ip route add 10.77.0.0/16 via 172.18.18.1 proto static".to_owned(),
        "ip route add blackhole 10.77.9.0/24 proto 99".to_owned(),
        "ip route add 10.77.1.0/24 via 172.18.18.1 table 77".to_owned(),
        "ip -6 route add fd00:77::/64 via fd00:172:18:18::1 proto static".to_owned(),
        "ip rule add fwmark 0x77/0xff lookup 77".to_owned(),
        "ip -6 rule add fwmark 0x77/0xff lookup 77".to_owned(),
        "ip neigh add 172.18.18.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent".to_owned(),
        "nft add table inet foreign".to_owned(),
        "nft add chain inet foreign input { type filter hook input priority -5 ; }".to_owned(),
        format!("nft add rule inet foreign input udp dport {PORT} counter comment foreign"),
    ];
    for program in [format!("iptables-{flavour}"), format!("ip6tables-{flavour}")] {
        // As rkt does: its jump at position 1 of a nat chain; as an administrator does: a chain,
        // and a rule that marks.
        for rule in [
            "-t filter -N FOREIGN".to_owned(),
            format!("-t filter -A FOREIGN -p udp --dport {PORT} -m comment --comment foreign"),
            format!("-t filter -A INPUT -p udp --dport {PORT} -j FOREIGN"),
            format!("-t filter -A FORWARD -p udp --dport {PORT} -j FOREIGN"),
            "-t nat -N RKT-FOREIGN".to_owned(),
            format!("-t nat -I PREROUTING 1 -p udp --dport {PORT} -j RKT-FOREIGN"),
            format!(
                "-t mangle -A INPUT -p udp --dport {PORT} -m comment --comment foreign \
                     -j MARK --set-xmark 0x77/0xff"
            ),
            format!("-t raw -A PREROUTING -p udp --dport {PORT} -m comment --comment foreign"),
        ] {
            lines.push(format!("{program} {rule}"));
        }
    }
    lines.push(format!(
        "iptables-{flavour} -t filter -A INPUT -p udp --dport {PORT} \
         -m set --match-set foreign4 src -m comment --comment foreign"
    ));
    for line in lines {
        let mut words = line.split_whitespace();
        ns.command(words.next().unwrap_or_default()).args(words).run()?;
    }
    Ok(())
}

/// The lines about foreign things. Of nft's own listing too, where each rule has a handle that
/// changes when it is written again.
fn foreign(ns: &Place) -> Result<Snapshot> {
    let marks = ["foreign", "FOREIGN", "10.77.", "fd00:77", "0x77/", "18.77 ", "7777"];
    Ok(Snapshot::take(ns)?.filter(|line| marks.iter().any(|mark| line.contains(mark))))
}

fn untouched(label: &str, flavour: Flavour, name: &str) -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = Cluster::new(label)?;
    let host = cluster.hosts[0].spec;
    make_foreign(cluster.hosts[0].ns(), name)?;
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
    let before = foreign(cluster.hosts[0].ns())?;
    let text = before.to_string();
    // The witness must be worth something: counters that count, in both families.
    ensure!(text.matches("[3:").count() >= 8 && text.contains("packets 6 "), "{text}");

    // A life: everything programmed, changed, taken away, restarted, stopped.
    cluster.etcd.put_all(&tutorial::base())?;
    cluster.start_agents(flavour)?;
    for pod in &PODS {
        cluster.add_pod(pod)?;
    }
    cluster.wait_until_programmed()?;
    cluster.check(false)?;
    let started = foreign(cluster.hosts[0].ns())?;
    ensure!(started == before, "touched at start: {:#?}", before.difference(&started));
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    let changed = foreign(cluster.hosts[0].ns())?;
    ensure!(changed == before, "touched by a policy: {:#?}", before.difference(&changed));
    cluster.hosts[0].stop_agent()?;
    cluster.hosts[0].start_agent()?;
    cluster.etcd.delete(&PODS[0].endpoint().key())?;
    let first = &cluster.hosts[0];
    wait::until_true("removal of an endpoint", Duration::from_secs(10), || {
        !first.has_status_file(&PODS[0].status_file())
    })?;
    cluster.hosts[0].stop_agent()?;
    let after = foreign(cluster.hosts[0].ns())?;
    ensure!(after == before, "touched: {:#?}", before.difference(&after));
    Ok(())
}

#[test]
fn foreign_things_are_untouched_on_iptables_legacy() -> Result<()> {
    untouched("forleg", Flavour::Legacy, "legacy")
}

#[test]
fn foreign_things_are_untouched_on_iptables_nft() -> Result<()> {
    untouched("fornft", Flavour::Nft, "nft")
}
