//! Somebody flushes our rules while a denied flow sends and sends: it gets through the hole, and not
//! one packet of it passes once the rules are back. A flow that is allowed, and masqueraded, loses
//! nothing.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4};
use calico_e2e::host::Flavour;
use calico_e2e::netns::enter;
use calico_e2e::tutorial::{self, DNS};
use calico_e2e::wait;

/// From the end of what somebody did until nothing passes that is denied.
const REPAIRED: Duration = Duration::from_secs(3);
/// How long nothing must pass then.
const QUIET: Duration = Duration::from_secs(1);

/// Sends numbered datagrams from one socket each until told to stop.
fn send(from: &str, flows: &[(IpAddr, &str)], stop: &AtomicBool) -> Result<()> {
    enter(from, || {
        let mut sockets = Vec::new();
        for (to, tag) in flows {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect((*to, DNS))?;
            sockets.push((socket, *tag));
        }
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            for (socket, tag) in &sockets {
                // A route may be missing for a moment.
                let _ = socket.send(format!("{tag}{number:06}").as_bytes());
            }
            number += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })
}

fn numbers(cluster: &Cluster, site: &str, tag: &str) -> Result<Vec<u32>> {
    let arrivals = cluster.server(site)?.arrivals(tag.as_bytes());
    let text = |payload: &[u8]| String::from_utf8_lossy(&payload[tag.len()..]).into_owned();
    arrivals.iter().map(|one| Ok(text(&one.payload).parse()?)).collect()
}

fn hole(cluster: &Cluster, flush: &str) -> Result<()> {
    let denied = || numbers(cluster, "backend-1", "denied");
    let allowed = || numbers(cluster, "outside", "allowed");
    wait::until_true("allowed flow", Duration::from_secs(5), || {
        allowed().is_ok_and(|numbers| numbers.len() > 100)
    })?;
    ensure!(denied()?.is_empty(), "it is denied");

    let begin = Instant::now();
    while denied()?.is_empty() {
        ensure!(begin.elapsed() < Duration::from_secs(20), "nothing gets through a hole");
        for host in &cluster.hosts {
            host.ns().command("sh").args(["-ec", flush]).run()?;
        }
    }
    std::thread::sleep(REPAIRED);
    let (through, first) = (denied()?.len(), allowed()?);
    std::thread::sleep(QUIET);
    let after = denied()?.len() - through;
    ensure!(after == 0, "{after} packets passed after the repair, {through} before");
    let (begin, all) = (first.len(), allowed()?);
    let rest = &all[begin..];
    ensure!(rest.len() > 100, "the allowed flow sends {} a second", rest.len());
    let expected: Vec<u32> = (rest[0]..).take(rest.len()).collect();
    ensure!(rest == expected, "the allowed flow lost packets after the repair");
    let cut = cluster.hosts.iter().any(|host| {
        let log = std::fs::read_to_string(host.agent_log()).unwrap_or_default();
        log.contains("connections cut: ")
    });
    ensure!(cut, "no agent says that it cut a connection");
    Ok(())
}

fn a_denied_flow_ends_with_its_hole(label: &str, flavour: Flavour) -> Result<()> {
    let flush = match flavour {
        Flavour::Nftables => "nft flush ruleset",
        Flavour::Nft => "iptables-nft -w -F; iptables-nft -w -t raw -F",
        _ => "iptables-legacy -w -F; iptables-legacy -w -t raw -F",
    };
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;
    cluster.wait_until_ready()?;
    let from = cluster.pod("frontend-1")?.ns().name().to_owned();
    let to = cluster.pod("backend-1")?.spec.v4.into();
    let flows = [(to, "denied"), (IpAddr::from(OUTSIDE_V4), "allowed")];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&from, &flows, &stop));
        let outcome = hole(&cluster, flush);
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    })
    .with_context(|| cluster.logs())
}

calico_e2e::on_each_dataplane! {
    smoke: a_denied_flow_ends_with_its_hole, "hol";
}
