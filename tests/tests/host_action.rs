//! Packets from a pod to its own host after policy: dropped, left to the host's own rules, or
//! accepted; and a change of that in the datastore applies in place, without a restart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::host::Flavour;
use calico_e2e::matrix::Family;
use calico_e2e::netns::Place;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from};
use calico_e2e::server::Server;
use calico_e2e::tutorial::{HTTP, OTHER};
use calico_e2e::wait;
use calico_e2e::world::{FelixConfiguration, GlobalNetworkPolicy, NetworkPolicy, Resource, Rule};
use nix::sys::signal::Signal;

/// Where `rkt metadata-service` listens.
const METADATA: u16 = 18112;

fn configure(cluster: &Cluster, name: &str, action: &str) -> Result<()> {
    let spec = FelixConfiguration {
        endpoint_to_host: Some(action.to_owned()),
        ..FelixConfiguration::default()
    };
    let (key, value) = Resource::new(name, spec).pair();
    cluster.etcd.put(&key, &value).map(drop)
}

/// Waits until frontend-1 reaches its host's port, or gets silence; and checks that it reaches the
/// other frontend all the while.
fn expect(cluster: &Cluster, what: &str, port: u16, passes: bool) -> Result<()> {
    let pod = cluster.pod("frontend-1")?.ns().name().to_owned();
    let host = cluster.hosts[0].site();
    let friend = cluster.pod("frontend-2")?.site();
    let limit = if passes { PATIENT } else { BRIEF };
    for family in [Family::V4, Family::V6] {
        wait::until(&format!("{what}, {family:?}"), Duration::from_secs(10), || {
            let answer = ask_from(&pod, host.address(family), Service::Tcp(port), limit)?;
            let right = if passes { answer.reached() } else { answer == Answer::Silence };
            Ok(right.then_some(()))
        })?;
        let control = ask_from(&pod, friend.address(family), Service::Tcp(HTTP), PATIENT)?;
        ensure!(control.reached(), "{what}: the other pod is not reached: {control:?}");
    }
    Ok(())
}

fn the_action_applies_in_place(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    let pid = cluster.hosts[0].agent()?.pid();

    // What the agents registered is Return: the host's own rules decide. It has one.
    let node = cluster
        .etcd
        .get(&format!("{}/felixconfigurations/node.calico-01", calico_e2e::world::RESOURCES))?;
    ensure!(
        node.as_ref().is_some_and(|v| v.contains(r#""defaultEndpointToHostAction":"Return""#)),
        "what calico/node writes is missing: {node:?}"
    );
    close(&cluster, flavour)?;
    expect(&cluster, "Return, free port", HTTP, true)?;
    expect(&cluster, "Return, port closed by the host", OTHER, false)?;

    configure(&cluster, "node.calico-01", "Drop")?;
    expect(&cluster, "Drop", HTTP, false)?;
    // The global setting does not beat the host's own.
    configure(&cluster, "default", "Return")?;
    std::thread::sleep(Duration::from_millis(300));
    expect(&cluster, "Drop of the node over Return of all", HTTP, false)?;

    configure(&cluster, "node.calico-01", "Return")?;
    expect(&cluster, "Return again", HTTP, true)?;

    ensure!(cluster.hosts[0].agent()?.ended().is_none(), "the agent ended");
    ensure!(cluster.hosts[0].agent()?.pid() == pid, "the agent was restarted");
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: the_action_applies_in_place, "hac";
}

/// Pods reach `rkt metadata-service` on their host with the setting for it, and no other port; a
/// pod whose policy denies it does not.
fn the_metadata_service_is_reached_after_policy(label: &str, flavour: Flavour) -> Result<()> {
    let mut cluster = Cluster::new(label)?;
    cluster.follow_the_tutorial(flavour)?;
    cluster.wait_for_routes()?;
    configure(&cluster, "node.calico-01", "Drop")?;
    let egress = NetworkPolicy {
        tier: Some("default".to_owned()),
        egress: vec![Rule::new("Deny")],
        selector: "role == 'backend'".to_owned(),
        types: vec!["Egress".to_owned()],
        ..NetworkPolicy::default()
    };
    let silent = Resource::new("default.silent", GlobalNetworkPolicy(egress));
    cluster.put_and_wait(&[silent.pair()])?;
    let host = cluster.hosts[0].site();
    let address = host.address(Family::V4);
    let _service = Server::start(&host.netns, &[address], &[METADATA], &[])?;
    let pods = ["frontend-1", "backend-1"].map(|name| cluster.pod(name).map(|p| p.ns().place()));
    let [frontend, backend] = pods;
    let (frontend, backend) = (frontend?, backend?);
    let ask = |pod: &Place, port| ask_from(pod.name(), address, Service::Tcp(port), BRIEF);
    expect(&cluster, "Drop", HTTP, false)?;
    ensure!(ask(&frontend, METADATA)? == Answer::Silence, "without the setting");

    std::fs::write(
        cluster.hosts[0].config_dir().join("agent.toml"),
        "[felix]\nrkt_metadata_service = true\n",
    )?;
    cluster.hosts[0].agent()?.signal(Signal::SIGHUP)?;
    wait::until("the metadata service", Duration::from_secs(5), || {
        Ok(ask(&frontend, METADATA)?.reached().then_some(()))
    })
    .with_context(|| cluster.logs())?;
    ensure!(ask(&frontend, HTTP)? == Answer::Silence, "another port of the host");
    ensure!(ask(&backend, METADATA)? == Answer::Silence, "against its policy");
    cluster.wait_until_ready()
}

calico_e2e::on_each_dataplane! {
    full: the_metadata_service_is_reached_after_policy, "met";
}

/// The host closes a port with a rule of its own. It is in the iptables of the agent: between the two, the
/// first to be registered in the kernel goes first, and a drop of either is final.
fn close(cluster: &Cluster, flavour: Flavour) -> Result<()> {
    let rule = format!("-A INPUT -p tcp --dport {OTHER} -j DROP");
    for family in ["iptables", "ip6tables"] {
        let program = format!("{family}-{}", flavour.iptables());
        cluster.hosts[0].ns().command(program).args(rule.split(' ')).run()?;
    }
    Ok(())
}

/// An agent of iptables accepts before the host's own rules are asked. In a table of its own it cannot:
/// each table may drop, and what the host closes stays closed.
fn accept_goes_before_the_hosts_own_rules(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.check(false)?;
    close(&cluster, flavour)?;
    expect(&cluster, "Return, port closed by the host", OTHER, false)?;
    configure(&cluster, "node.calico-01", "Drop")?;
    expect(&cluster, "Drop", HTTP, false)?;
    configure(&cluster, "node.calico-01", "Accept")?;
    expect(&cluster, "Accept", HTTP, true)?;
    expect(&cluster, "Accept, port closed by the host", OTHER, !flavour.is_nftables())
}

calico_e2e::on_each_dataplane! {
    full: accept_goes_before_the_hosts_own_rules, "acc";
}
