//! `rkt run --port`: rkt leads ports of the host to a pod with rules of its own in the table `nat`.
//! They work beside the agent, which never touches them, and `status` says who gets through.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::{Flavour, Host};
use calico_e2e::kernel::Snapshot;
use calico_e2e::netns::Place;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::tutorial::{HTTP, PODS, PodSpec};
use calico_e2e::wait;
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Port, Resource, Rule};
use serde_json::Value;

/// The port of the host, `--port=http:18080`.
const HOST_PORT: u16 = 18_080;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What rkt 1.30 does for one port, in its order: the calls of its iptables library.
fn forward(ns: &Place, program: &str, pod: &PodSpec) -> Result<()> {
    let short = &pod.container_id[..8];
    let (dnat, snat) = (format!("RKT-PFWD-DNAT-{short}"), format!("RKT-PFWD-SNAT-{short}"));
    let (address, port) = (pod.v4, HTTP);
    for rule in [
        format!("-N {dnat}"),
        format!("-N {snat}"),
        format!("-I POSTROUTING 1 -s 127.0.0.1 ! -d 127.0.0.1 -j {snat}"),
        format!("-I PREROUTING 1 -m addrtype --dst-type LOCAL -j {dnat}"),
        format!("-I OUTPUT 1 -m addrtype --dst-type LOCAL -j {dnat}"),
        format!(
            "-A {dnat} -d 0.0.0.0/0 -p tcp --dport {HOST_PORT} -j DNAT \
             --to-destination {address}:{port}"
        ),
        format!("-A {snat} -p tcp -s 127.0.0.1 -d {address} --dport {port} -j MASQUERADE"),
    ] {
        let words = ["-t", "nat"].into_iter().chain(rule.split_whitespace());
        ns.command(program).args(words).arg("--wait").run()?;
    }
    Ok(())
}

/// What the kernel holds of rkt's, with counters and handles.
fn of_rkt(host: &Host) -> Result<Snapshot> {
    Ok(Snapshot::take(host.ns())?.filter(|line| line.contains("RKT-PFWD")))
}

/// The packets that the rule of the port counted.
fn counted(snapshot: &Snapshot) -> Result<u64> {
    let text = snapshot.to_string();
    let line = text.lines().find(|line| line.contains("--to-destination"));
    let counter = line.and_then(|line| line.strip_prefix('[')?.split_once(':'));
    counter.context("no counter")?.0.parse().context("a counter")
}

/// What `status` says of the one port that there is.
fn explained(host: &Host) -> Result<Value> {
    let status = host.status()?;
    ensure!(status.0["forwarded_ports_error"].is_null(), "{}", status.0["forwarded_ports_error"]);
    let ports = status.0["forwarded_ports"].as_array().context("no forwarded ports")?;
    ensure!(ports.len() == 1, "{ports:?}");
    Ok(ports[0].clone())
}

/// Who gets through: the host always, the outside as it should.
fn expect(cluster: &Cluster, what: &str, outside: bool) -> Result<()> {
    let host = &cluster.hosts[0];
    for to in [IpAddr::V4(host.spec.v4), LOOPBACK] {
        let answer = ask_from(host.ns().name(), to, Service::Tcp(HOST_PORT), PATIENT)?;
        ensure!(answer.reached(), "{what}: from the host to {to}: {answer:?}\n{}", cluster.logs());
    }
    let (to, limit) = (IpAddr::V4(host.spec.v4), if outside { PATIENT } else { BRIEF });
    let answer = ask_from(cluster.outside().name(), to, Service::Tcp(HOST_PORT), limit)?;
    let right = if outside { answer.reached() } else { answer == Answer::Silence };
    ensure!(right, "{what}: from outside: {answer:?}\n{}", cluster.logs());
    Ok(())
}

fn rkts_ports_work_beside_the_agent(label: &str, flavour: Flavour) -> Result<()> {
    let program = &format!("iptables-{}", flavour.iptables());
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    cluster.wait_until_ready()?;
    let pod = PODS[0];
    let status = cluster.hosts[0].status()?;
    ensure!(status.0["forwarded_ports"] == Value::Array(vec![]), "{}", status.0);
    forward(cluster.hosts[0].ns(), program, &pod)?;

    // The network's profile lets its own members in, and nobody else.
    expect(&cluster, "profile", false)?;
    let said = explained(&cluster.hosts[0])?;
    ensure!(said["endpoint"] == format!("cni/default/{}/eth0", pod.container_id), "{said}");
    ensure!(
        said["port"] == HOST_PORT && said["endpoint_port"] == HTTP && said["by"] == "rkt",
        "{said}"
    );
    ensure!(said["from_outside"] == false, "{said}");
    ensure!(said["reason"] == "no policy and no profile allows it", "{said}");
    let text = cluster.hosts[0].status_text()?;
    let line = text.lines().find(|line| line.starts_with("forwarded"));
    let line = line.with_context(|| text.clone())?;
    ensure!(line.contains("port 18080 (tcp) of this host leads to cni/"), "{line}");
    ensure!(line.contains("port 8080: from outside denied, no policy and no profile"), "{line}");
    let before = of_rkt(&cluster.hosts[0])?;
    let packets = counted(&before)?;
    ensure!(packets > 0, "nothing was counted:\n{before}");

    // A policy for the pod's port, on top of its network's rules.
    let policy = NetworkPolicy {
        tier: Some("default".to_owned()),
        ingress: vec![Rule::new("Allow").protocol("TCP").to(Entity::ports([Port::Number(HTTP)]))],
        selector: "role == 'frontend'".to_owned(),
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    let open = Resource::new("default.open", GlobalNetworkPolicy(policy));
    cluster.put_and_wait(&[open.pair()])?;
    let said = explained(&cluster.hosts[0])?;
    ensure!(said["from_outside"] == true, "{said}");
    ensure!(said["reason"] == "policy default.open of tier default, ingress[0]", "{said}");
    // Only looked at between two snapshots: whatever counts now would be traffic.
    let policed = of_rkt(&cluster.hosts[0])?;
    ensure!(counted(&policed)? == packets, "a policy has touched\n{policed}");
    expect(&cluster, "policy", true)?;

    // A restart, and a repair of what is ours.
    let before = of_rkt(&cluster.hosts[0])?;
    cluster.hosts[0].stop_agent()?;
    cluster.hosts[0].start_agent()?;
    cluster.wait_until_ready()?;
    let host = &cluster.hosts[0];
    let (damage, told) = if flavour.is_nftables() {
        let damage = "nft insert rule inet calico forward-to-pod accept".to_owned();
        (damage, "nftables chain forward-to-pod")
    } else {
        let damage = format!("{program} -t filter -I cali-wl-forward 1 -j ACCEPT --wait");
        (damage, "filter chain cali-wl-forward")
    };
    host.ns().command("sh").args(["-ec", &damage]).run()?;
    let repairs = || -> Result<Vec<String>> {
        let status = host.status()?;
        let parts = status.0["parts"].as_array().context("no parts")?;
        let all = parts.iter().filter_map(|part| part["repairs"].as_array()).flatten();
        Ok(all.map(|repair| repair["subject"].to_string()).collect())
    };
    wait::until_true("the repair", Duration::from_secs(10), || {
        repairs().is_ok_and(|found| !found.is_empty())
    })?;
    let found = repairs()?;
    ensure!(found.iter().all(|subject| subject.contains(told)), "{found:?}");
    let interface = pod.interface();
    let localnet = format!("ipv4/conf/{interface}/route_localnet");
    host.ns().sysctl(&localnet, "0")?;
    wait::until_true("the parameter", Duration::from_secs(10), || {
        host.ns().read_sysctl(&localnet).is_ok_and(|value| value == "1")
    })?;

    let after = of_rkt(host)?;
    let difference = before.without_counters().difference(&after.without_counters());
    ensure!(difference.is_empty(), "rkt's rules were touched: {difference:#?}");
    ensure!(counted(&after)? == counted(&before)?, "{before}\n{after}");
    expect(&cluster, "after restart and repair", true)?;
    let last = counted(&of_rkt(&cluster.hosts[0])?)?;
    ensure!(last > counted(&after)?, "the witness does not count");

    // What allows it goes.
    let revision = cluster.etcd.delete(&open.key())?;
    cluster.wait_for_revision(&cluster.hosts[0], revision)?;
    expect(&cluster, "without the policy", false)
}

calico_e2e::on_each_dataplane! {
    full: rkts_ports_work_beside_the_agent, "pfw";
}
