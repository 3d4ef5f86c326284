//! A host that boots while the datastore is away starts with the policy and the BIRD configuration
//! that it had, says how old they are, and follows the datastore when that is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::host::{Flavour, Host};
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{self, HTTP, OTHER, PODS, PodSpec};
use calico_e2e::world::{ClusterInformation, Resource};
use calico_e2e::{kernel, reboot, wait};

/// How the datastore is away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Nobody answers.
    Down,
    /// It answers that it is not ready. Meanwhile the policies are deleted.
    NotReady,
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

/// The policy on disk once it is there, knows the pods of the host, and nothing newer is on its way.
fn settled(host: &Host) -> Result<String> {
    let mut last = None;
    let own = PODS.iter().filter(|pod| pod.host == host.spec.name);
    let interfaces: Vec<String> = own.map(PodSpec::interface).collect();
    let knows = |text: &String| interfaces.iter().all(|name| text.contains(name.as_str()));
    wait::until("policy on disk", CONVERGENCE, || {
        std::thread::sleep(Duration::from_millis(1500));
        let now = reboot::content(&host.stored_policy()).ok();
        let same = now.as_ref().is_some_and(knows) && now == last;
        last = now;
        Ok(same.then(|| last.clone()).flatten())
    })
}

/// Asks all the time while `work` is done: one flow that is allowed before and after, one that is
/// denied before and after. Fails when one packet of the one is lost or one of the other passes.
fn under_traffic(
    cluster: &mut Cluster,
    work: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let (from, open, closed) = (
        cluster.pod("frontend-1")?.ns().name().to_owned(),
        cluster.pod("frontend-2")?.spec.v4,
        cluster.pod("backend-1")?.spec.v4,
    );
    let done = AtomicBool::new(false);
    let ask = |to: std::net::Ipv4Addr, limit, good: fn(&Answer) -> bool| -> Result<usize> {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            let answer = ask_from(&from, to.into(), Service::Tcp(OTHER), limit)?;
            ensure!(good(&answer), "after {count} right answers of {to}: {answer:?}");
            count += 1;
        }
        Ok(count)
    };
    std::thread::scope(|scope| {
        let allowed = scope.spawn(|| ask(open, PATIENT, Answer::reached));
        let brief = Duration::from_millis(20);
        let denied = scope.spawn(move || ask(closed, brief, |answer| *answer == Answer::Silence));
        let result = work(cluster);
        done.store(true, Ordering::Relaxed);
        let joined = [allowed.join(), denied.join()];
        result?;
        for asked in joined {
            let asked = asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(asked > 5, "hardly asked: {asked}");
        }
        Ok(())
    })
}

/// A pod that nobody knows: wired while the datastore was away.
const LATE: PodSpec = PodSpec {
    name: "late",
    container_id: "1a7e0000-0000-4000-8000-000000000000",
    v4: std::net::Ipv4Addr::new(192, 168, 0, 9),
    v6: std::net::Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, 9),
    mac: "ca:fe:1d:52:bb:e9",
    ..PODS[0]
};

fn has_late_route(host: &Host) -> Result<bool> {
    Ok(kernel::routes(host.ns(), "-4")?.iter().any(|route| route.contains(&LATE.interface())))
}

fn boots(label: &str, flavour: Flavour, away: Away) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;

    // What is on disk follows from the store alone: an agent that has just begun writes the same.
    let long = settled(&cluster.hosts[0])?;
    ensure!(long.contains("security.") && !long.contains("generation"), "{long}");
    ensure!(long != settled(&cluster.hosts[1])?, "two hosts with one content");
    let host = &mut cluster.hosts[0];
    host.stop_agent()?;
    std::fs::remove_file(host.stored_policy())?;
    host.start_agent()?;
    let fresh = settled(&cluster.hosts[0])?;
    ensure!(fresh == long, "an agent that begins wrote:\n{fresh}\nthe one before:\n{long}");

    match away {
        Away::Down => cluster.etcd.stop()?,
        Away::NotReady => {
            cluster.etcd.put_all(&[information(false)])?;
            for (key, _) in policies_only() {
                cluster.etcd.delete(&key)?;
            }
        }
    }
    let bird = cluster.hosts[0].state_dir().join("bird/bird.cfg");
    let written = |path: &std::path::Path| -> Result<_> {
        Ok((std::fs::read(path)?, std::fs::metadata(path)?.modified()?))
    };
    let configuration = written(&bird)?;
    for host in &mut cluster.hosts {
        host.power_cycle()?;
        host.start_bird(CONVERGENCE)?;
    }
    // A pod that came while nobody could write it down.
    cluster.wire_pod(&LATE)?;
    let route = format!("route add {}/32 dev {} proto 80\n", LATE.v4, LATE.interface());
    cluster.hosts[0].ns().ip(&route)?;
    for host in &mut cluster.hosts {
        host.start_agent()?;
    }

    // Everything is as it was, over both hosts and both families.
    let late = cluster.pods.remove(LATE.name).context("no late pod")?;
    cluster.check(true).context("with the policy from disk")?;
    for host in &cluster.hosts {
        let status = host.status()?;
        ensure!(status.0["state"] == "starting", "{}", status.0);
        ensure!(status.0["stored"]["since"].is_string(), "{}", status.0);
        let text = host.status_text()?;
        ensure!(text.contains(" old) from disk, until the datastore answers"), "{text}");
        ensure!(text.contains("configuration of 2") || text.contains(", of 2"), "{text}");
        let log = std::fs::read_to_string(host.agent_log())?;
        ensure!(log.contains(" old) from disk, waiting for the datastore"), "{log}");
        for pod in PODS {
            ensure!(!host.has_status_file(&pod.status_file()), "{} may start", pod.name);
        }
    }
    ensure!(written(&bird)? == configuration, "BIRD's configuration was written again");

    // Nobody knows the late pod: it is closed, where one that is known is not. But its route stays.
    let host = cluster.hosts[0].spec.v4;
    let answer = ask_from(late.ns().name(), host.into(), Service::Tcp(HTTP), BRIEF)?;
    ensure!(answer == Answer::Silence, "a pod that nobody knows reached its host: {answer:?}");
    let known = cluster.pod("frontend-1")?.ns().name();
    ensure!(ask_from(known, host.into(), Service::Tcp(HTTP), PATIENT)?.reached());
    // A crash now changes nothing: the next agent does the same again.
    cluster.hosts[0].kill_agent();
    under_traffic(&mut cluster, |cluster| {
        cluster.hosts[0].start_agent()?;
        wait::until("policy from disk again", CONVERGENCE, || {
            let status = cluster.hosts[0].status().ok();
            let applied = status.is_some_and(|s| s.0["parts"][0]["applied"].as_u64() == Some(0));
            Ok(applied.then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(has_late_route(&cluster.hosts[0])?, "a route that nobody knows was removed");
        Ok(())
    })?;

    under_traffic(&mut cluster, |cluster| {
        match away {
            Away::Down => cluster.etcd.start()?,
            Away::NotReady => drop(cluster.etcd.put_all(&[information(true)])?),
        }
        cluster.wait_until_ready()?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    })?;
    cluster.check(away == Away::Down).context("after the datastore came back")?;
    for host in &cluster.hosts {
        ensure!(host.status()?.0["stored"].is_null(), "{}", host.status()?.0);
        for pod in PODS.iter().filter(|pod| pod.host == host.spec.name) {
            ensure!(host.has_status_file(&pod.status_file()), "{} may not start", pod.name);
        }
    }
    ensure!(!has_late_route(&cluster.hosts[0])?, "a route of nobody stayed");
    let now = settled(&cluster.hosts[0])?;
    ensure!((now == long) == (away == Away::Down), "{now}");
    Ok(())
}

/// The keys of the policies, without the endpoint that comes with them.
fn policies_only() -> impl Iterator<Item = (String, String)> {
    tutorial::policies().into_iter().filter(|(key, _)| !key.contains("/workload"))
}

fn a_boot_without_etcd_starts_with_the_last_policy(label: &str, flavour: Flavour) -> Result<()> {
    boots(label, flavour, Away::Down)
}

fn a_boot_while_the_store_is_not_ready_starts_with_the_last_policy(
    label: &str,
    flavour: Flavour,
) -> Result<()> {
    boots(label, flavour, Away::NotReady)
}

calico_e2e::on_each_dataplane! {
    smoke: a_boot_without_etcd_starts_with_the_last_policy, "sto";
    full: a_boot_while_the_store_is_not_ready_starts_with_the_last_policy, "stn";
}

fn a_policy_that_cannot_be_used_is_named_and_not_used(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::on(label, flavour)?;
    cluster.etcd.put_all(&tutorial::base())?;
    cluster.etcd.put_all(&tutorial::workloads())?;
    cluster.hosts[0].start_agent()?;
    settled(&cluster.hosts[0])?;
    cluster.etcd.stop()?;
    let host = &mut cluster.hosts[0];
    let path = host.stored_policy();
    let good = std::fs::read(&path)?;

    // (the file, what is in the log, whether it is in force)
    let half = good[..good.len() / 2].to_vec();
    let mut flipped = good.clone();
    let middle = good.len() / 2;
    flipped[middle] ^= 1;
    let garbage = b"\xff\x00garbage".repeat(100);
    let cases = [
        ("cut off", Some(half), "policy.json: its end is missing", false),
        ("one bit", Some(flipped), "policy.json: its checksum is wrong", false),
        ("garbage", Some(garbage), "policy.json: its end is missing", false),
        ("another node's", None, "is another node's", false),
        ("good", None, " old) from disk, waiting for the datastore", true),
    ];
    for (name, bytes, said, used) in cases {
        std::fs::write(&path, &good)?;
        host.power_cycle()?;
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes)?,
            None if used => {}
            None => reboot::edit_header(&path, |header| header["node"] = "calico-09".into())?,
        }
        std::fs::write(host.agent_log(), "")?;
        host.start_agent()?;
        wait::until(name, CONVERGENCE, || Ok(host.status().ok().map(drop)))?;
        wait::until(said, CONVERGENCE, || {
            let log = std::fs::read_to_string(host.agent_log())?;
            let there = !used || kernel::chains(host.ns())?.only() == Some(flavour);
            Ok((log.contains(said) && there).then_some(()))
        })?;
        // And nothing more comes.
        std::thread::sleep(Duration::from_secs(1));
        let log = std::fs::read_to_string(host.agent_log())?;
        ensure!(log.contains(said), "{name}: {log}");
        ensure!(!log.contains("panicked"), "{name}: {log}");
        let chains = kernel::chains(host.ns())?;
        let right = if used { chains.only() == Some(flavour) } else { chains.all() == 0 };
        ensure!(right, "{name}: {chains}");
        if used {
            host.read_back()?;
        }
        let problems = host.status()?.problems().concat();
        let damaged = said.contains("policy.json");
        ensure!(problems.contains("policy on disk") == damaged, "{name}: {problems}");
    }
    // The same boot: what the kernel holds stays as it is, here nothing.
    host.power_cycle()?;
    std::fs::write(&path, &good)?;
    host.start_agent()?;
    wait::until("agent", CONVERGENCE, || Ok(host.status().ok().map(drop)))?;
    std::thread::sleep(Duration::from_secs(1));
    let chains = kernel::chains(host.ns())?;
    ensure!(chains.all() == 0, "{chains}");
    ensure!(host.status()?.0["stored"].is_null());
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_policy_that_cannot_be_used_is_named_and_not_used, "stb";
}
