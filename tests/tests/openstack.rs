//! What guests of OpenStack (interfaces `tap…`) may ask of their host before any policy: names, an
//! address, their metadata. Pods behind `cali…` may not, on the same host and under the same policy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4};
use calico_e2e::host::Flavour;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from, shout};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{self, PODS, PodSpec};
use calico_e2e::world::{Profile, Resource};
use calico_e2e::{own_table, wait};
use serde_json::{Value, json};

/// The interface of the guest on its host.
const TAP: &str = "tap0b61d5d2-77";
/// Where a guest looks for its metadata.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// Where the service is, if nothing is said.
const SERVICE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 8775);
/// Ports of the host: names, DHCP and DHCPv6, and one that is nobody's.
const NAMES: u16 = 53;
const DHCP: [(u16, u16); 2] = [(68, 67), (546, 547)];
const NOTHING: u16 = 54;

/// The endpoint of a pod that may send nothing at all.
fn endpoint(spec: &PodSpec, interface: &str) -> Result<(String, String)> {
    let (key, text) = spec.endpoint().pair();
    let mut object: Value = serde_json::from_str(&text)?;
    object["spec"]["interfaceName"] = json!(interface);
    object["spec"]["profiles"] = json!(["nothing"]);
    Ok((key, object.to_string()))
}

/// A pod and a guest on a host that takes nothing from either.
fn cluster(label: &str, flavour: Flavour) -> Result<Cluster> {
    let mut cluster = Cluster::new(label)?;
    cluster.etcd.put_all(&tutorial::base())?;
    let nothing = Profile { ingress: vec![], egress: vec![], labels_to_apply: Default::default() };
    cluster.etcd.put_all(&[Resource::new("nothing", nothing).pair()])?;
    let [pod, guest] = [&PODS[0], &PODS[1]];
    for spec in [pod, guest] {
        cluster.wire_pod(spec)?;
    }
    let (name, host) = (guest.interface(), &cluster.hosts[0]);
    host.ns()
        .ip(&format!("link set {name} down\nlink set {name} name {TAP}\nlink set {TAP} up\n"))?;
    let pairs = [endpoint(pod, &pod.interface())?, endpoint(guest, TAP)?];
    cluster.etcd.put_all(&pairs)?;
    cluster.hosts[0].env.push(("FELIX_DEFAULTENDPOINTTOHOSTACTION".into(), "Drop".into()));
    cluster.hosts[0].env.push(("FELIX_INTERFACEPREFIX".into(), "cali,tap".into()));
    // What is for nobody is not refused for want of a route.
    cluster.hosts[0].ns().ip(&format!("route add default via {OUTSIDE_V4}\n"))?;
    cluster.start_agents(flavour)?;
    for spec in [pod, guest] {
        let host = &cluster.hosts[0];
        wait::until_true("status file", Duration::from_secs(20), || {
            host.has_status_file(&spec.status_file())
        })?;
    }
    cluster.wait_until_programmed()?;
    Ok(cluster)
}

/// Only a guest is answered, or nobody.
fn ask(cluster: &Cluster, to: IpAddr, service: Service, guest_too: bool) -> Result<()> {
    for (pod, answered) in [(&PODS[0], false), (&PODS[1], guest_too)] {
        let name = cluster.pod(pod.name)?.ns().name();
        let answer = ask_from(name, to, service, if answered { PATIENT } else { BRIEF })?;
        let right = if answered { answer.reached() } else { answer == Answer::Silence };
        ensure!(right, "{} to {to}, {service}: {answer:?}\n{}", pod.name, cluster.logs());
    }
    Ok(())
}

fn guests_of_openstack_ask_their_host_and_pods_do_not(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = cluster(label, flavour)?;
    let host = &cluster.hosts[0];
    let at: [IpAddr; 2] = [host.spec.v4.into(), host.spec.v6.into()];
    let ports = [NAMES, NOTHING, DHCP[0].1, DHCP[1].1];
    let server = Server::start(host.ns().name(), &at, &[NAMES, NOTHING], &ports)?;
    let _metadata = Server::start(host.ns().name(), &[SERVICE.0], &[SERVICE.1], &[])?;
    for to in at {
        ask(&cluster, to, Service::Udp(NAMES), true)?;
        ask(&cluster, to, Service::Udp(NOTHING), false)?;
        ask(&cluster, to, Service::Tcp(NOTHING), false)?;
        // What policy says of packets that are not for the host is for both the same.
        let far: IpAddr = if to.is_ipv4() { PODS[3].v4.into() } else { PODS[3].v6.into() };
        ask(&cluster, far, Service::Udp(NAMES), false)?;
    }
    ask(&cluster, METADATA, Service::Tcp(80), true)?;
    ask(&cluster, METADATA, Service::Tcp(81), false)?;
    // The service itself is not for them at its own port.
    ask(&cluster, at[0], Service::Tcp(SERVICE.1), false)?;

    for ((client, to_port), to) in DHCP.into_iter().zip(at) {
        for (pod, port, arrives) in
            [(&PODS[1], client, true), (&PODS[0], client, false), (&PODS[1], client + 1, false)]
        {
            let own: IpAddr = if to.is_ipv4() { pod.v4.into() } else { pod.v6.into() };
            let tag = format!("DHCP of {} from {own} port {port}", pod.name);
            let from = SocketAddr::new(own, port);
            shout(cluster.pod(pod.name)?.ns().name(), from, SocketAddr::new(to, to_port), &tag)?;
            if arrives {
                wait::until_true(&tag, Duration::from_secs(2), || {
                    !server.arrivals(tag.as_bytes()).is_empty()
                })?;
            }
            std::thread::sleep(Duration::from_millis(100));
            ensure!(server.arrivals(tag.as_bytes()).is_empty() != arrives, "{tag}");
        }
    }

    // Nothing in the kernel of it names the interfaces of pods.
    wait::until("rules of the second host", Duration::from_secs(20), || {
        Ok(cluster.hosts[1].status()?.is_ready().then_some(()))
    })?;
    cluster.hosts[1].read_back()?;
    let second = cluster.hosts[1].ns();
    if flavour.is_nftables() {
        let rules = own_table::rules(host.ns())?;
        let ports = ["dport 53 ", "dport 67 ", "dport 547 ", "169.254.169.254", "dport 8775 "];
        let said = |line: &str| ports.iter().any(|port| line.contains(port));
        let exceptions: Vec<&(String, String)> = rules.iter().filter(|(_, r)| said(r)).collect();
        ensure!(exceptions.len() >= 4, "{rules:#?}");
        let of_guests = |line: &str| line.contains("iifname \"tap*\" ");
        ensure!(exceptions.iter().all(|(_, rule)| of_guests(rule)), "{exceptions:#?}");
        // Without the prefix there is nothing of it.
        let saved = second.command("nft").args(["list", "table", "inet", "calico"]).run()?;
        ensure!(saved.contains("forward-to-pod") && !saved.contains("tap*"), "{saved}");
        return Ok(());
    }
    for tool in ["iptables", "ip6tables"] {
        let saved = host.ns().command(format!("{tool}-{}-save", flavour.iptables())).run()?;
        let ports =
            ["--dport 53 ", "--dport 67 ", "--dport 547 ", "169.254.169.254", "--dport 8775 "];
        let said = |line: &&str| ports.iter().any(|port| line.contains(port));
        let exceptions: Vec<&str> = saved.lines().filter(said).collect();
        ensure!(exceptions.len() >= 2, "{saved}");
        ensure!(exceptions.iter().all(|line| line.contains("-i tap+ ")), "{exceptions:#?}");
    }

    // Without the prefix there is nothing of it.
    let saved = second.command(format!("iptables-{}-save", flavour.iptables())).run()?;
    ensure!(saved.contains("cali-FORWARD") && !saved.contains("tap+"), "{saved}");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: guests_of_openstack_ask_their_host_and_pods_do_not, "ost";
}
