//! A program that outlives its agent: what it writes afterwards must not stay.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use calico_e2e::host::Flavour;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::DNS;
use calico_e2e::world::{NetworkPolicy, Rule};
use calico_e2e::{run, wait};
use nix::fcntl::{Flock, FlockArg};

use crate::{prepared_and_served, ready, scene};

/// An agent is about to open something and is killed while `iptables-restore` waits for the lock of
/// the tables. The permission is taken back; the next agent reads tables that are as they should
/// be; then the lock is free.
#[test]
fn a_program_that_outlives_its_agent_opens_nothing_for_long() -> Result<()> {
    if !run::can_run() {
        return Ok(());
    }
    let mut cluster = prepared_and_served("orphan", Flavour::Legacy)?;
    let from = cluster.pod("backend-1")?.ns().name().to_owned();
    let to = cluster.pod("frontend-1")?.spec.v4;
    let ask = |limit| ask_from(&from, to.into(), Service::Udp(DNS), limit);
    ensure!(ask(BRIEF)? == Answer::Silence, "it is open from the start");

    let spec = NetworkPolicy {
        order: Some(1),
        ingress: vec![Rule::new("Allow")],
        selector: "role == 'frontend'".to_owned(),
        types: scene::ingress(),
        ..NetworkPolicy::default()
    };
    let (key, value) = scene::global("security", "open", spec).pair();
    // The control: without the accident it does open.
    cluster.put_and_wait(&[(key.clone(), value.clone())])?;
    ensure!(ask(PATIENT)?.reached(), "the policy does not open");
    let revision = cluster.etcd.delete(&key)?;
    cluster.wait_for_revision(&cluster.hosts[0], revision)?;
    ensure!(ask(BRIEF)? == Answer::Silence, "it is still open");
    std::thread::sleep(Duration::from_millis(1_500));

    let path = cluster.hosts[0].xtables_lock();
    let file = File::options().create(true).append(true).open(path)?;
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    cluster.etcd.put(&key, &value)?;
    let agent = cluster.hosts[0].agent()?;
    wait::until_true("a program that waits for the lock", Duration::from_secs(5), || {
        agent.children() > 0
    })?;
    std::thread::sleep(Duration::from_millis(200));
    cluster.hosts[0].kill_agent();
    cluster.etcd.delete(&key)?;
    cluster.hosts[0].start_agent()?;
    std::thread::sleep(Duration::from_secs(1));
    drop(lock);
    std::thread::sleep(Duration::from_millis(100));
    ready(&cluster, 0)?;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let answer = ask(Duration::from_millis(100))?;
        ensure!(answer == Answer::Silence, "{answer:?}\n{}", cluster.logs());
    }
    Ok(())
}
