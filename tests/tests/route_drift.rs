//! Routes, neighbours and BIRD's configuration that others change under a running agent: as they
//! were within three seconds, told by `status`, and what is denied never passes meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::flow::{Flow, Flows, Tally};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::matrix::Family;
use calico_e2e::probe::{PATIENT, Service, ask_from};
use calico_e2e::tutorial::{DNS, HTTP, OTHER};
use calico_e2e::wait;

/// How long a repair may take.
const RECOVERY: Duration = Duration::from_secs(3);

/// Everything of the agent's in the main table and among the neighbours, in a fixed order.
fn state(host: &Host) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for args in [
        &["-4", "-d", "route", "show", "proto", "80"][..],
        &["-6", "-d", "route", "show", "proto", "80"],
        &["neigh", "show", "nud", "permanent"],
    ] {
        let text = host.ns().command("ip").args(args).run()?;
        all.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    all.sort();
    Ok(all)
}

/// How often a subject that holds `text` was repaired, as `status` says.
fn repairs(host: &Host, text: &str) -> Result<u64> {
    let status = host.status()?.0;
    let parts = status["parts"].as_array().context("no parts")?.iter();
    let all = parts.flat_map(|part| part["repairs"].as_array().into_iter().flatten());
    let ours = all.filter(|one| one["subject"].as_str().is_some_and(|s| s.contains(text)));
    Ok(ours.filter_map(|one| one["count"].as_u64()).sum())
}

fn what_others_do_to_routes_is_repaired_and_told(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.wait_for_routes()?;
    cluster.stop_server("backend-1");
    let denied = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        [Service::Udp(DNS), Service::Tcp(OTHER)].map(|service| Flow {
            from: "frontend-1".to_owned(),
            to: "backend-1".to_owned(),
            family,
            service,
            spoofed: None,
            allowed: false,
        })
    });
    let denied: Vec<_> = denied.collect();
    // A program that another test starts just now may hold a port for a moment.
    let start = || Flows::start(&denied, &cluster.sites()).map(Some);
    let flows = wait::until("free ports", Duration::from_secs(5), start)?;
    let host = &cluster.hosts[0];
    let (pod, other) = (cluster.pod("frontend-1")?, cluster.pod("backend-1")?);
    let friend = cluster.pod("frontend-2")?;
    let (v4, v6, mac) = (pod.spec.v4, pod.spec.v6, other.spec.mac);
    let (dev, wrong) = (pod.spec.interface(), other.spec.interface());
    let block = format!("{}/26", host.spec.block4);
    wait::until("a host at rest", RECOVERY, || Ok(host.status()?.is_ready().then_some(())))?;
    let before = state(host)?;
    ensure!(before.len() >= 10, "{before:#?}");
    let name = friend.ns().name();
    let mut slowest = Duration::ZERO;
    for (damage, told) in [
        (format!("route del {v4}/32"), format!("route {v4}/32 dev {dev}")),
        (format!("route replace {v4}/32 dev {wrong}"), format!("route {v4}/32 dev {dev}")),
        (format!("route replace {v4}/32 via 172.18.18.250"), format!("route {v4}/32 dev {dev}")),
        (format!("-6 route replace {v6}/128 dev {wrong}"), format!("route {v6}/128 dev {dev}")),
        (format!("-6 route del {v6}/128"), format!("route {v6}/128 dev {dev}")),
        (format!("route del blackhole {block}"), format!("route blackhole {block}")),
        (format!("route replace {block} via 172.18.18.250"), format!("route blackhole {block}")),
        (
            format!("neigh replace {v4} dev {dev} lladdr {mac} nud permanent"),
            format!("neighbour {v4} dev {dev}"),
        ),
        (format!("neigh del {v6} dev {dev}"), format!("neighbour {v6} dev {dev}")),
        ("route flush proto 80".to_owned(), format!("route {v4}/32 dev {dev}")),
    ] {
        let count = repairs(host, &told)?;
        let mut args = damage.split(' ').peekable();
        let begin = Instant::now();
        let family = args.next_if_eq(&"-6");
        host.ns().command("ip").args(family.into_iter().chain(args)).run()?;
        wait::until(&format!("repair after {damage}"), RECOVERY, || {
            let now = state(host)?;
            ensure!(now == before, "{damage}: {now:#?}");
            Ok(Some(()))
        })
        .with_context(|| cluster.logs())?;
        slowest = slowest.max(begin.elapsed());
        wait::until(&format!("{told} in the status"), RECOVERY, || {
            Ok((repairs(host, &told)? > count).then_some(()))
        })?;
        for to in [v4.into(), v6.into()] {
            let answer = ask_from(name, to, Service::Tcp(HTTP), PATIENT)?;
            ensure!(answer.reached(), "after {damage}: {answer:?}");
        }
    }

    let config = host.state_dir().join("bird/bird.cfg");
    let text = std::fs::read_to_string(&config)?;
    for (broken, count) in [(Some("# nothing\n"), 1), (None, 2)] {
        match broken {
            Some(broken) => std::fs::write(&config, broken)?,
            None => std::fs::remove_file(&config)?,
        }
        wait::until("repair of bird.cfg", RECOVERY, || {
            Ok((std::fs::read_to_string(&config).ok().as_ref() == Some(&text)).then_some(()))
        })
        .with_context(|| cluster.logs())?;
        wait::until("bird.cfg in the status", RECOVERY, || {
            Ok((repairs(host, "bird.cfg")? == count).then_some(()))
        })?;
    }
    ensure!(host.status_text()?.contains("bird.cfg"), "people are not told");
    let tallies = flows.finish()?;
    let wrong: Vec<_> = tallies.iter().filter(|t| t.wrong() > 0).map(Tally::to_string).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(slowest < RECOVERY, "{slowest:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: what_others_do_to_routes_is_repaired_and_told, "rdr";
}
