//! What was allowed keeps flowing and what was denied stays denied, whatever happens to the agent
//! and to etcd.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{CONVERGENCE, Cluster};
use calico_e2e::host::Flavour;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{self, HTTP, OTHER, PODS};
use calico_e2e::wait;

fn a_crash_and_an_outage_change_nothing(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.etcd.put_all(&tutorial::policies())?;
    cluster.check(true)?;

    // Crashed agents: the kernel holds what they wrote.
    cluster.hosts.iter_mut().for_each(calico_e2e::host::Host::kill_agent);
    cluster.check(true)?;
    // A pod that comes now is closed, until an agent comes back.
    let late = &tutorial::PodSpec {
        name: "late",
        container_id: "1a7e0000-0000-4000-8000-000000000000",
        v4: std::net::Ipv4Addr::new(192, 168, 0, 9),
        v6: std::net::Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, 9),
        mac: "ca:fe:1d:52:bb:e9",
        ..PODS[0]
    };
    cluster.place_pod(late)?;
    let name = cluster.pod("late")?.ns().name().to_owned();
    let host = cluster.hosts[0].spec.v4;
    let answer = ask_from(&name, host.into(), Service::Tcp(HTTP), BRIEF)?;
    ensure!(answer == Answer::Silence, "a pod without a policy reached its host: {answer:?}");

    // While they come back nothing that is denied may pass for one packet, and nothing that is
    // allowed may be lost: ask all the time.
    let (from, open, closed) = (
        cluster.pod("frontend-1")?.ns().name().to_owned(),
        cluster.pod("frontend-2")?.spec.v4,
        cluster.pod("backend-1")?.spec.v4,
    );
    let done = std::sync::atomic::AtomicBool::new(false);
    let over = || done.load(std::sync::atomic::Ordering::Relaxed);
    let asked = std::thread::scope(|scope| -> Result<(usize, usize)> {
        let allowed = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !over() {
                let answer = ask_from(&from, open.into(), Service::Tcp(OTHER), PATIENT)?;
                ensure!(answer.reached(), "lost after {count}: {answer:?}");
                count += 1;
            }
            Ok(count)
        });
        let denied = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !over() {
                let brief = Duration::from_millis(20);
                let answer = ask_from(&from, closed.into(), Service::Tcp(OTHER), brief)?;
                ensure!(answer == Answer::Silence, "passed after {count}: {answer:?}");
                count += 1;
            }
            Ok(count)
        });
        let mut restart = || -> Result<()> {
            for host in &mut cluster.hosts {
                host.start_agent()?;
            }
            cluster.wait_until_ready()?;
            std::thread::sleep(Duration::from_millis(300));
            Ok(())
        };
        let result = restart();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let joined = (allowed.join(), denied.join());
        result?;
        let counts = |r: std::thread::Result<Result<usize>>| {
            r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok((counts(joined.0)?, counts(joined.1)?))
    })?;
    ensure!(asked.0 > 10 && asked.1 > 5, "hardly asked: {asked:?}");
    wait::until_true("the late pod", CONVERGENCE, || {
        ask_from(&name, host.into(), Service::Tcp(HTTP), PATIENT).is_ok_and(|a| a.reached())
    })?;

    // Without etcd everything stays, and a change made afterwards arrives.
    cluster.etcd.stop()?;
    std::thread::sleep(Duration::from_secs(1));
    cluster.check(true)?;
    cluster.etcd.start()?;
    for (key, _) in tutorial::policies().iter().filter(|(key, _)| !key.contains("/workload")) {
        cluster.etcd.delete(key)?;
    }
    cluster.check(false).context("after etcd came back")
}

calico_e2e::on_each_dataplane! {
    smoke: a_crash_and_an_outage_change_nothing, "res";
}
