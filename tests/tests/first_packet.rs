//! ADD returns when the policy is in the kernel: a pod's very first packet is judged, and so is the
//! first one to it.

#![allow(clippy::print_stdout, reason = "a test that counts says what it counted")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::netns::enter;
use calico_e2e::rkt::{Rkt, Sandbox, draw_uuid};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, DNS};
use calico_e2e::wait;
use serde_json::json;

/// How many pods are started.
const PODS: usize = 50;

struct Lab {
    /// On the same host, in the same network: reached.
    friend: (Sandbox, Server),
    /// On the same host, in another network: not reached.
    stranger: (Sandbox, Server),
    rkt: Rkt,
    cluster: Cluster,
}

fn lab(label: &str, flavour: Flavour) -> Result<Lab> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::before_pods())?;
    cluster.start_agents(flavour)?;
    cluster.wait_until_ready()?;
    let rkt = Rkt::new(&cluster.hosts[0])?;
    let serve = |network: &str| -> Result<(Sandbox, Server)> {
        rkt.network(network, &json!({}))?;
        let mut pod = rkt.prepare(cluster.run(), &draw_uuid()?)?;
        rkt.connect(&mut pod, &[(network, "")]).with_context(|| cluster.logs())?;
        let server = Server::start(pod.ns().name(), &[pod.v4(0)?.into()], &[], &[DNS])?;
        Ok((pod, server))
    };
    let (friend, stranger) = (serve("network1")?, serve("network2")?);
    Ok(Lab { friend, stranger, rkt, cluster })
}

/// One ADD, with a datagram for each of `to` sent by the pod as soon as it has returned.
fn first_words(lab: &Lab, pod: &Sandbox, args: &str, to: &[Ipv4Addr], tag: &str) -> Result<()> {
    let (go, gone) = mpsc::channel();
    let name = pod.ns().name();
    std::thread::scope(|scope| {
        let speaker = scope.spawn(move || {
            enter(name, move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                let () = gone.recv().context("the ADD failed")?;
                for to in to {
                    let to = SocketAddr::from((*to, DNS));
                    socket.send_to(tag.as_bytes(), to).context("the first packet")?;
                }
                Ok(())
            })
        });
        let conf = lab.rkt.conf("network1", &json!({})).to_string();
        let call = lab.rkt.call(pod, &lab.rkt.plugins().join("calico"), "ADD", "eth0", args);
        let added = call.input(conf).run();
        if added.is_ok() {
            let _ = go.send(());
        }
        drop(go);
        let spoken = speaker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        added.map(drop).and(spoken)
    })
}

fn forget(lab: &Lab, pod: Sandbox) -> Result<()> {
    let conf = lab.rkt.conf("network1", &json!({})).to_string();
    lab.rkt.call(&pod, &lab.rkt.plugins().join("calico"), "DEL", "eth0", "").input(conf).run()?;
    lab.rkt.remove(pod).map(drop)
}

fn the_first_packet_of_a_pod_is_judged(label: &str, flavour: Flavour) -> Result<()> {
    let lab = lab(label, flavour)?;
    let (friend, stranger) = (lab.friend.0.v4(0)?, lab.stranger.0.v4(0)?);
    for number in 0..PODS {
        let tag = format!("pod {number:02}");
        let pod = lab.rkt.prepare(lab.cluster.run(), &draw_uuid()?)?;
        // Each of the two is the very first one in half of the pods.
        let to = if number % 2 == 0 { [friend, stranger] } else { [stranger, friend] };
        first_words(&lab, &pod, "", &to, &tag).with_context(|| lab.cluster.logs())?;
        wait::until_true(&format!("{tag} at its friend"), Duration::from_secs(2), || {
            !lab.friend.1.arrivals(tag.as_bytes()).is_empty()
        })?;
        forget(&lab, pod)?;
    }
    let (passed, slipped) = (lab.friend.1.arrivals(b"pod "), lab.stranger.1.arrivals(b"pod "));
    println!("{flavour:?}: first packets: {} passed, {} slipped", passed.len(), slipped.len());
    ensure!(passed.len() == PODS && slipped.is_empty(), "{slipped:?}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: the_first_packet_of_a_pod_is_judged, "fir";
}

/// Datagrams that reached a namespace, whether or not anybody listened.
fn received(pod: &Sandbox) -> Result<u64> {
    let text = pod.ns().enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp: "));
    let names = lines.next().context("no names")?.split(' ');
    let values = lines.next().context("no values")?.split(' ');
    let counted = names.zip(values).filter(|(name, _)| matches!(*name, "InDatagrams" | "NoPorts"));
    counted.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

/// Both neighbours call the pod's address all the time, from before it is there.
fn the_first_packet_to_a_pod_is_judged(label: &str, flavour: Flavour) -> Result<()> {
    let lab = lab(label, flavour)?;
    let over = AtomicBool::new(false);
    let mut sums = [0, 0];
    for number in 0..PODS {
        let friendly = number % 2 == 0;
        let caller = if friendly { &lab.friend.0 } else { &lab.stranger.0 };
        let address = Ipv4Addr::new(192, 168, 200, u8::try_from(number)?);
        let pod = lab.rkt.prepare(lab.cluster.run(), &draw_uuid()?)?;
        over.store(false, Ordering::Relaxed);
        let heard = std::thread::scope(|scope| {
            scope.spawn(|| {
                enter(caller.ns().name(), || {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                    while !over.load(Ordering::Relaxed) {
                        let _ = socket.send_to(b"hello", (IpAddr::from(address), DNS));
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    Ok(())
                })
            });
            let added = first_words(&lab, &pod, &format!("IP={address}"), &[], "");
            // A stranger gets a moment; a friend as long as a busy machine takes to send.
            let heard = added.and_then(|()| {
                if !friendly {
                    std::thread::sleep(Duration::from_millis(20));
                    return received(&pod);
                }
                let some = || Ok(Some(received(&pod)?).filter(|&heard| heard > 0));
                wait::until("a datagram of a friend", Duration::from_secs(2), some)
            });
            over.store(true, Ordering::Relaxed);
            heard
        })?;
        ensure!(friendly || heard == 0, "{heard} datagrams of a stranger reached pod {number}");
        ensure!(!friendly || heard > 0, "no datagram of a friend reached pod {number}");
        sums[usize::from(!friendly)] += heard;
        forget(&lab, pod)?;
    }
    println!("{flavour:?}: datagrams of friends {}, of strangers {}", sums[0], sums[1]);
    Ok(())
}

calico_e2e::on_each_dataplane! {
    smoke: the_first_packet_to_a_pod_is_judged, "fin";
}
