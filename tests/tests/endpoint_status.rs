//! The files that tell the CNI plugin that a pod's policy is in the kernel.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::matrix::{Family, Site};
use calico_e2e::probe::shout;
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, DNS, PODS};
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Port, Resource, Rule};
use calico_e2e::{kernel, netns, wait};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

fn files(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.run_dir().join("endpoint-status"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn a_file_says_that_an_endpoint_is_programmed(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::base())?;
    let (first, second) = (PODS[0], PODS[1]);
    ensure!(first.host == second.host, "both on one host");

    // What an earlier run left must not be trusted: it is gone before anything is programmed.
    let dir = cluster.hosts[0].run_dir().join("endpoint-status");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("cni default%2Fold eth0"), "")?;
    std::fs::write(dir.join(second.status_file()), "")?;

    // An endpoint without its interface is not up.
    let (key, value) = second.endpoint().pair();
    cluster.etcd.put(&key, &value)?;
    cluster.start_agents(flavour)?;
    cluster.place_pod(&first)?;
    let host = &cluster.hosts[0];
    wait::until("file of the first pod alone", Duration::from_secs(10), || {
        let files = files(host);
        Ok((files == [first.status_file()]).then_some(()).ok_or(files))
            .and_then(|r| r.map(Some).map_err(|files| anyhow::anyhow!("{files:?}")))
    })?;
    // At that moment, its chains and routes are there.
    ensure!(kernel::chains(host.ns())?.only() == Some(flavour), "no chains");
    host.read_back()?;
    let routes = kernel::routes(host.ns(), "-4")?;
    let to = format!("{} dev {}", first.v4, first.interface());
    ensure!(routes.iter().any(|route| route.starts_with(&to)), "{routes:?}");

    // The interface comes, the file comes; the endpoint goes, the file goes.
    cluster.wire_pod(&second)?;
    let host = &cluster.hosts[0];
    let limit = Duration::from_secs(10);
    wait::until_true("second file", limit, || host.has_status_file(&second.status_file()))?;
    cluster.etcd.delete(&key)?;
    wait::until_true("end of it", limit, || files(host) == [first.status_file()])
}

calico_e2e::on_each_dataplane! {
    full: a_file_says_that_an_endpoint_is_programmed, "fil";
}

/// A port that the second pod of that name may not send to.
const DENIED: u16 = 5454;
/// Its Ethernet address.
const SECOND_MAC: &str = "ca:fe:00:00:00:02";

/// Waits inside `pod` for a file that names [`SECOND_MAC`], and sends one datagram to each port over
/// each family at once. When that was, and what the file said.
fn first_packets(pod: &str, file: &Path, to: &Site) -> Result<(Instant, Value)> {
    netns::enter(pod, || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        let end = Instant::now() + Duration::from_secs(20);
        let text = loop {
            match std::fs::read_to_string(file) {
                Ok(text) if text.contains(SECOND_MAC) => break text,
                _ => ensure!(Instant::now() < end, "no file of the second pod"),
            }
            std::thread::sleep(Duration::from_micros(20));
        };
        let seen = Instant::now();
        for port in [DENIED, DNS] {
            socket.send_to(b"first", (IpAddr::V6(to.v4.to_ipv6_mapped()), port))?;
            socket.send_to(b"first", (IpAddr::V6(to.v6), port))?;
        }
        Ok((seen, serde_json::from_str(&text)?))
    })
}

/// A pod is made again under the same name, with another MAC and another policy.
fn a_pod_made_again_gets_its_file_with_its_rules(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    let spec = PODS[0];
    let deny = Entity::ports([Port::Number(DENIED)]);
    let policy = NetworkPolicy {
        tier: Some("default".to_owned()),
        egress: vec![Rule::new("Deny").protocol("UDP").to(deny), Rule::new("Allow")],
        selector: "round == 'second'".to_owned(),
        types: vec!["Egress".to_owned()],
        ..NetworkPolicy::default()
    };
    cluster.put_and_wait(&[Resource::new("default.second", GlobalNetworkPolicy(policy)).pair()])?;
    cluster.check(false)?;
    let friend = cluster.pod("frontend-2")?.site();
    let addresses = [friend.v4.into(), friend.v6.into()];
    let denied = Server::start(&friend.netns, &addresses, &[], &[DENIED])?;
    let pod = cluster.pod("frontend-1")?.ns().name().to_owned();
    // The control: the first pod may send there.
    for family in [Family::V4, Family::V6] {
        let own = cluster.pod("frontend-1")?.site().address(family);
        shout(&pod, (own, 0).into(), (friend.address(family), DENIED).into(), "control")?;
    }
    wait::until_true("the control", Duration::from_secs(2), || {
        denied.arrivals(b"control").len() == 6
    })?;

    let file = cluster.hosts[0].run_dir().join("endpoint-status").join(spec.status_file());
    let before: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    ensure!(before["mac"] == spec.mac, "{before}");
    let interface = spec.interface();
    let again = cluster.pods.get_mut("frontend-1").context("no frontend-1")?;
    again.spec.mac = SECOND_MAC;
    let host = &cluster.hosts[0];
    host.ns().ip(&format!("link del {interface}\n"))?;
    cluster.pod("frontend-1")?.wire(host)?;

    // As long as somebody holds the lock of the legacy tables, its rules cannot be in the kernel.
    let lock = match flavour {
        Flavour::Legacy => {
            let file = File::options().create(true).append(true).open(host.xtables_lock())?;
            Some(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?)
        }
        _ => None,
    };
    let (seen, said, released) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| first_packets(&pod, &file, &friend));
        let (key, value) =
            cluster.pod("frontend-1")?.spec.endpoint().label("round", "second").pair();
        cluster.etcd.put(&key, &value)?;
        if lock.is_some() {
            std::thread::sleep(Duration::from_millis(500));
        }
        let released = Instant::now();
        drop(lock);
        let (seen, said) = watcher.join().map_err(|_| anyhow::anyhow!("the watcher"))??;
        anyhow::Ok((seen, said, released))
    })?;
    ensure!(
        flavour != Flavour::Legacy || seen >= released,
        "there {:?} before its rules could be",
        released - seen
    );
    let index = host.ns().enter(|| Ok(nix::net::if_::if_nametoindex(interface.as_str())?))?;
    let expected = json!({
        "mac": SECOND_MAC,
        "interfaceName": interface,
        "interfaceIndex": index,
        "ipNetworks": [format!("{}/32", spec.v4), format!("{}/128", spec.v6)],
        "profiles": ["frontend"],
    });
    ensure!(said == expected, "{said}");
    ensure!(before["interfaceIndex"] != said["interfaceIndex"], "{before}");

    let allowed = cluster.server("frontend-2")?;
    wait::until("the first packets", Duration::from_secs(2), || {
        Ok((allowed.arrivals(b"first").len() == 2).then_some(()))
    })
    .with_context(|| cluster.logs())?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(denied.arrivals(b"first").is_empty(), "judged by the policy of the pod before");
    cluster.wait_until_ready()
}

calico_e2e::on_each_dataplane! {
    smoke: a_pod_made_again_gets_its_file_with_its_rules, "aga";
}
