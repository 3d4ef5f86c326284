//! `allowSpoofedSourcePrefixes`: a pod that lists prefixes sends from them, under its own policy, and
//! nobody else does. Each forbidden packet is sent beside a permitted one to the same place.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::host::Flavour;
use calico_e2e::probe::shout;
use calico_e2e::server::Server;
use calico_e2e::tutorial::DNS;
use calico_e2e::wait;
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Port, Resource, Rule};
use serde_json::json;

/// A port that the policy of the pod denies.
const CLOSED: u16 = DNS + 1;
/// Addresses that are listed, and that are not; one of each family.
const LISTED: [&str; 2] = ["10.66.0.5", "fd66::5"];
const FOREIGN: [&str; 2] = ["10.67.0.5", "fd67::5"];
/// Who lists, and who does not.
const POD: &str = "frontend-1";
const OTHER_POD: &str = "backend-1";

fn ips(both: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([both[0].parse()?, both[1].parse()?])
}

/// Both pods have all of the addresses, and the outside hears whoever speaks.
fn cluster(label: &str, flavour: Flavour) -> Result<(Cluster, Server)> {
    let cluster = Cluster::tutorial(label, flavour)?;
    for pod in [POD, OTHER_POD] {
        for [v4, v6] in [LISTED, FOREIGN] {
            let pod = cluster.pod(pod)?;
            pod.ns().ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"))?;
        }
    }
    for name in ["all", "eth0"] {
        cluster.outside().sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
        cluster.hosts[0].ns().sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    }
    let closed = Rule::new("Deny").protocol("UDP").to(Entity::ports([Port::Number(CLOSED)]));
    let spec = NetworkPolicy {
        egress: vec![closed, Rule::new("Allow")],
        selector: "role == 'frontend'".to_owned(),
        types: vec!["Egress".to_owned()],
        ..NetworkPolicy::default()
    };
    cluster.put_and_wait(&[Resource::new("default.closed", GlobalNetworkPolicy(spec)).pair()])?;
    let at = [OUTSIDE_V4.into(), OUTSIDE_V6.into()];
    let server = Server::start(cluster.outside().name(), &at, &[], &[CLOSED])?;
    Ok((cluster, server))
}

/// Sends from each source to the outside; between them and the end something comes from the pod's
/// own address, so that silence is no accident. The source is seen as it is.
fn speak(
    (cluster, closed): &(Cluster, Server),
    pod: &str,
    sources: [IpAddr; 2],
    port: u16,
    what: &str,
    expected: bool,
) -> Result<()> {
    let pod = cluster.pod(pod)?;
    let (name, open) = (pod.ns().name(), cluster.server("outside")?);
    let own: [IpAddr; 2] = [pod.spec.v4.into(), pod.spec.v6.into()];
    for ((source, own), to) in
        sources.into_iter().zip(own).zip([OUTSIDE_V4.into(), IpAddr::from(OUTSIDE_V6)])
    {
        let tag = format!("{what}: {} from {source} to {port}", pod.spec.name);
        shout(name, (source, 0).into(), SocketAddr::new(to, port), &tag)?;
        let control = format!("control of {tag}");
        shout(name, (own, 0).into(), SocketAddr::new(to, DNS), &control)?;
        wait::until_true(&control, Duration::from_secs(2), || {
            !open.arrivals(control.as_bytes()).is_empty()
        })?;
        std::thread::sleep(Duration::from_millis(100));
        let server = if port == DNS { open } else { closed };
        let arrived = server.arrivals(tag.as_bytes());
        let right = arrived.is_empty() != expected
            && arrived.iter().all(|arrival| arrival.from.ip() == source);
        ensure!(right, "{tag}, expected {expected}: {arrived:?}\n{}", cluster.logs());
    }
    Ok(())
}

/// To its own host, which takes what policy allows.
fn speak_to_the_host(cluster: &Cluster, sources: [IpAddr; 2], expected: bool) -> Result<()> {
    let (pod, host) = (cluster.pod(POD)?, cluster.hosts[0].spec);
    let server = cluster.server(host.name)?;
    for (source, to) in sources.into_iter().zip([host.v4.into(), IpAddr::from(host.v6)]) {
        let tag = format!("to the host from {source}, {expected}");
        shout(pod.ns().name(), (source, 0).into(), SocketAddr::new(to, DNS), &tag)?;
        if expected {
            let what = format!("datagram {tag}");
            wait::until_true(&what, Duration::from_secs(2), || {
                !server.arrivals(tag.as_bytes()).is_empty()
            })?;
        }
        std::thread::sleep(Duration::from_millis(100));
        let arrived = server.arrivals(tag.as_bytes());
        ensure!(arrived.is_empty() != expected, "{tag}: {arrived:?}");
    }
    Ok(())
}

fn who_lists_prefixes_sends_from_them(label: &str, flavour: Flavour) -> Result<()> {
    let both = cluster(label, flavour)?;
    let cluster = &both.0;
    let (listed, foreign) = (ips(LISTED)?, ips(FOREIGN)?);
    let list = json!({ "allowSpoofedSourcePrefixes": ["10.66.0.0/16", "fd66::/64"] });
    let not_any_more = json!({ "allowSpoofedSourcePrefixes": null });

    // A list without leave is nothing, and is told.
    cluster.change_endpoint(POD, &list)?;
    speak(&both, POD, listed, DNS, "without leave", false)?;
    let status = cluster.hosts[0].status()?;
    let problems = status.problems();
    let said = |one: &String| one.contains("WorkloadSourceSpoofing is Disabled");
    ensure!(status.is_degraded() && problems.iter().any(said), "{problems:?}");

    cluster.configure("default", &json!({ "workloadSourceSpoofing": "Any" }))?;
    wait::until_true("status `ready`", Duration::from_secs(10), || {
        cluster.hosts[0].status().is_ok_and(|status| status.is_ready())
    })
    .with_context(|| format!("{:?}", cluster.hosts[0].status().map(|s| s.problems())))?;
    speak(&both, POD, listed, DNS, "listed", true)?;
    speak(&both, POD, listed, CLOSED, "its policy", false)?;
    speak(&both, POD, foreign, DNS, "not listed", false)?;
    speak(&both, OTHER_POD, listed, DNS, "the list of another", false)?;
    speak_to_the_host(cluster, listed, true)?;
    speak_to_the_host(cluster, foreign, false)?;

    // The other one has its own, and the first loses nothing.
    let foreign_list = json!({ "allowSpoofedSourcePrefixes": ["10.67.0.5/32", "fd67::5/128"] });
    cluster.change_endpoint(OTHER_POD, &foreign_list)?;
    speak(&both, OTHER_POD, foreign, DNS, "a list of its own", true)?;
    speak(&both, OTHER_POD, foreign, CLOSED, "another policy", true)?;
    speak(&both, OTHER_POD, listed, DNS, "still the list of another", false)?;
    speak(&both, POD, foreign, DNS, "still not listed", false)?;
    speak(&both, POD, listed, DNS, "still listed", true)?;

    // It ends with the list, and with the leave.
    cluster.change_endpoint(POD, &not_any_more)?;
    speak(&both, POD, listed, DNS, "no list any more", false)?;
    speak(&both, OTHER_POD, foreign, DNS, "the other one's", true)?;
    cluster.configure("default", &json!({ "workloadSourceSpoofing": null }))?;
    speak(&both, OTHER_POD, foreign, DNS, "no leave any more", false)
}

calico_e2e::on_each_dataplane! {
    full: who_lists_prefixes_sends_from_them, "spa";
}
