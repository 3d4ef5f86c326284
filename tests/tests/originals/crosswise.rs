//! What one plugin connected the other one disconnects, and their pods talk to each other.

use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::ETCD;
use calico_e2e::holdings::Holdings;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::rkt::Sandbox;
use calico_e2e::wait;

use super::programs::{Lab, Maker, Originals, pool};

/// How long routes and policies, and the collector, may take.
const SETTLED: Duration = Duration::from_secs(30);

fn lab(originals: Originals, label: &str) -> Result<Lab> {
    let pools = [pool("v4", "10.65.0.0/24", 28), pool("v6", "fd65::/120", 124)];
    Lab::new(originals, label, &pools)
}

#[test]
fn each_disconnects_what_the_other_connected() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = lab(originals, "origcross")?;
    let held = || Holdings::read(&lab.cluster.etcd, &lab.cluster.hosts);
    let mut cases = 0;
    for maker in Maker::ALL {
        for by in Maker::ALL {
            for (network, addresses) in [("network1", 1), ("network2", 2)] {
                for rebooted in [false, true] {
                    let mut pod = lab.add(0, maker, (network, ""))?;
                    let what = format!("{maker:?}, {by:?}, {network}, rebooted: {rebooted}");
                    let now = held()?;
                    let counts = (now.endpoints.len(), now.addresses.len(), now.interfaces.len());
                    ensure!(counts == (1, addresses, 1), "{what}: {now}");
                    let handle = format!("{network}.{}", pod.uuid);
                    ensure!(now.handles.get(&handle) == Some(&(addresses as u64)), "{what}: {now}");
                    let rkt = lab.rkts[0].of(by);
                    pod.hand_over(rkt);
                    let refusals =
                        if rebooted { rkt.remove_after_reboot(pod)? } else { rkt.remove(pod)? };
                    ensure!(refusals.is_empty(), "{what}: {refusals:?}");
                    let mut left = held()?;
                    let records = std::mem::take(&mut left.records).len();
                    ensure!(left.is_empty(), "{what}: {left}");
                    // Our record is nothing to them; the agent's collector finds it.
                    let kept = usize::from((maker, by) == (Maker::Ours, Maker::Theirs));
                    ensure!(records <= kept, "{what}: {records} records");
                    wait::until("end of the record", SETTLED, || {
                        let left = held()?;
                        Ok(left.is_empty().then_some(()))
                    })?;
                    cases += 1;
                }
            }
        }
    }
    ensure!(cases == 16, "{cases} cases");
    println!("{cases} pods, each plugin's disconnected by each, before and after a reboot");
    Ok(())
}

#[test]
fn their_pods_and_ours_talk_within_a_network_and_not_across() -> Result<()> {
    let Some(originals) = Originals::find()? else { return Ok(()) };
    let lab = lab(originals, "origtalk")?;
    // Its pods know their gateway by proxy ARP, which a host without a default route does not do. Ours
    // need none.
    for host in &lab.cluster.hosts {
        host.ns().ip(&format!("route add default via {ETCD}\n"))?;
    }
    let ours = lab.add(0, Maker::Ours, ("network1", ""))?;
    let near = lab.add(0, Maker::Theirs, ("network1", ""))?;
    let far = lab.add(1, Maker::Theirs, ("network1", ""))?;
    let other = lab.add(1, Maker::Theirs, ("network2", ""))?;
    let stranger = lab.add(0, Maker::Ours, ("network2", ""))?;
    let ask = |from: &Sandbox, to: &Sandbox, limit| {
        ask_from(from.ns().name(), to.v4(0)?.into(), Service::Icmp, limit)
    };
    let friends = [
        (&ours, &near),
        (&near, &ours),
        (&ours, &far),
        (&far, &ours),
        (&other, &stranger),
        (&stranger, &other),
    ];
    for (from, to) in friends {
        let what = format!("echo of {} by {}", to.v4(0)?, from.v4(0)?);
        wait::until(&what, SETTLED, || Ok(ask(from, to, PATIENT)?.reached().then_some(())))?;
    }
    let enemies = [(&ours, &other), (&other, &ours), (&near, &stranger), (&stranger, &far)];
    for (from, to) in enemies {
        let answer = ask(from, to, BRIEF)?;
        ensure!(answer == Answer::Silence, "{} to {}: {answer:?}", from.uuid, to.uuid);
    }
    println!("{} pairs talk, {} do not", friends.len(), enemies.len());
    let pods = [(0, ours), (0, near), (1, far), (1, other), (0, stranger)];
    for (host, pod) in pods {
        lab.remove(host, Maker::Ours, pod)?;
    }
    let left = Holdings::read(&lab.cluster.etcd, &lab.cluster.hosts)?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}
