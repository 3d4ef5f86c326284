//! The packets of each pod are counted, allowed and denied: `calico-agent status` tells them, and a new
//! agent goes on where the old one was.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::matrix::Family;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{HTTP, OTHER, policies};
use calico_e2e::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Packets: in allowed, in denied, out allowed, out denied. `None` when they are not counted.
fn packets(host: &Host, interface: &str) -> Result<Option<[u64; 4]>> {
    let status = host.status()?;
    let all = status.0["endpoints"].as_array().context("endpoints")?;
    let found = all.iter().find(|endpoint| endpoint["interface"] == interface);
    let counters = &found.with_context(|| format!("no {interface}: {}", status.0))?["counters"];
    if counters.is_null() {
        return Ok(None);
    }
    let one = |direction: &str, verdict: &str| -> Result<u64> {
        let counts = &counters[direction][verdict];
        let number =
            |name: &str| counts[name].as_u64().with_context(|| format!("{name}: {counters}"));
        let (packets, bytes) = (number("packets")?, number("bytes")?);
        // No packet is smaller than its IP header.
        ensure!(bytes >= packets * 20, "{counters}");
        Ok(packets)
    };
    Ok(Some([
        one("ingress", "allowed")?,
        one("ingress", "denied")?,
        one("egress", "allowed")?,
        one("egress", "denied")?,
    ]))
}

fn settings(cluster: &mut Cluster, text: &str) -> Result<()> {
    std::fs::write(cluster.hosts[0].config_dir().join("agent.toml"), text)?;
    cluster.hosts[0].agent()?.signal(Signal::SIGHUP)?;
    Ok(())
}

fn the_packets_of_each_pod_are_told(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&policies())?;
    let from = cluster.pod("frontend-1")?.ns().name().to_owned();
    let frontend = cluster.pod("frontend-1")?.spec.interface();
    let backend = cluster.pod("backend-1")?.spec.interface();
    let site = cluster.pod("backend-1")?.site();
    let addresses: Vec<IpAddr> =
        [Family::V4, Family::V6].into_iter().map(|family| site.address(family)).collect();
    let ask = |port, limit| -> Result<Vec<Answer>> {
        addresses.iter().map(|to| ask_from(&from, *to, Service::Tcp(port), limit)).collect()
    };
    let both = |cluster: &Cluster| -> Result<[[u64; 4]; 2]> {
        let of = |interface: &str| {
            packets(&cluster.hosts[0], interface)?
                .with_context(|| format!("{interface} is not counted"))
        };
        Ok([of(&frontend)?, of(&backend)?])
    };

    let [f0, b0] = both(&cluster)?;
    ensure!(ask(HTTP, PATIENT)?.iter().all(Answer::reached), "what the policy allows");
    let [f1, b1] = both(&cluster)?;
    // A connection is at least three packets there and two back, in each family.
    ensure!(b1[0] >= b0[0] + 6 && b1[2] >= b0[2] + 4, "{b0:?} {b1:?}");
    ensure!(f1[2] >= f0[2] + 6 && f1[0] >= f0[0] + 4, "{f0:?} {f1:?}");
    ensure!((b1[1], b1[3], f1[1], f1[3]) == (b0[1], b0[3], f0[1], f0[3]), "nothing was denied");

    // The first packet of a connection is repeated after a second at the soonest.
    ensure!(ask(OTHER, BRIEF)?.iter().all(|answer| *answer == Answer::Silence), "what it does not");
    let [f2, b2] = both(&cluster)?;
    ensure!(b2[1] == b1[1] + 2, "denied to the backend: {b1:?} {b2:?}");
    ensure!(f2[3] == f1[3] && f2[2] >= f1[2] + 2, "allowed from the frontend: {f1:?} {f2:?}");

    // People see them, too.
    let text = cluster.hosts[0].status_text()?;
    let (_, table) = text.split_once("PACKETS OF").with_context(|| text.clone())?;
    let row =
        table.lines().find(|line| line.starts_with(&backend)).with_context(|| text.clone())?;
    ensure!(row.contains(&format!("{} (", b2[1])), "{row}");

    // A new agent goes on.
    cluster.hosts[0].kill_agent();
    ensure!(ask(OTHER, BRIEF)?.iter().all(|answer| *answer == Answer::Silence));
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    let [_, b3] = both(&cluster)?;
    ensure!(b3[1] == b2[1] + 2 && b3[0] >= b2[0], "{b2:?} {b3:?}");

    // It can be switched off, and policy does not mind.
    settings(&mut cluster, "[felix]\nendpoint_counters = false\n")?;
    wait::until_true("nothing is counted", Duration::from_secs(5), || {
        packets(&cluster.hosts[0], &backend).is_ok_and(|counted| counted.is_none())
    })?;
    cluster.wait_until_ready()?;
    ensure!(!cluster.hosts[0].status_text()?.contains("PACKETS OF"));
    ensure!(ask(HTTP, PATIENT)?.iter().all(Answer::reached));
    ensure!(ask(OTHER, BRIEF)?.iter().all(|answer| *answer == Answer::Silence));
    let status: Value = cluster.hosts[0].status()?.0;
    ensure!(status["counters_error"].is_null() && status["state"] == "ready", "{status}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: the_packets_of_each_pod_are_told, "cnt";
}
