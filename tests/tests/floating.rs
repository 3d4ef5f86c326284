//! Floating addresses: `ipNATs` of an endpoint with `floatingIPs: Enabled`. By them a pod is reached
//! from everywhere, its policy still decides, and when they go nothing of them is left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use calico_e2e::cluster::{Cluster, OUTSIDE_V4, OUTSIDE_V6};
use calico_e2e::host::Flavour;
use calico_e2e::netns::enter;
use calico_e2e::probe::{Answer, BRIEF, PATIENT, Service, ask_from, shout};
use calico_e2e::tutorial::{DNS, HTTP, OTHER};
use calico_e2e::world::{Entity, GlobalNetworkPolicy, NetworkPolicy, Port, Resource, Rule};
use calico_e2e::{kernel, own_table, wait};
use serde_json::json;

/// The floating addresses of the pod, one of each family.
const FLOATING: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 7)),
];
/// Who has them.
const POD: &str = "backend-1";

/// Backends take TCP and UDP to one port each from anybody, and nothing else.
fn policy() -> (String, String) {
    let to = |port| Entity::ports([Port::Number(port)]);
    let spec = NetworkPolicy {
        ingress: vec![
            Rule::new("Allow").protocol("TCP").to(to(HTTP)),
            Rule::new("Allow").protocol("UDP").to(to(DNS)),
        ],
        selector: "role == 'backend'".to_owned(),
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    Resource::new("default.open-http", GlobalNetworkPolicy(spec)).pair()
}

/// Two hosts, where everybody knows on which one the addresses are; nobody has them yet.
fn cluster(label: &str, flavour: Flavour) -> Result<Cluster> {
    let cluster = Cluster::tutorial(label, flavour)?;
    cluster.put_and_wait(&[policy()])?;
    let (at, [v4, v6]) = (cluster.hosts[0].spec, FLOATING);
    let routes = format!("route add {v4}/32 via {}\nroute add {v6}/128 via {}\n", at.v4, at.v6);
    cluster.outside().ip(&routes)?;
    cluster.hosts[1].ns().ip(&routes)?;
    Ok(cluster)
}

/// Gives the addresses to a pod, or takes them away.
fn give(cluster: &Cluster, pod: &str, has: bool) -> Result<()> {
    let spec = cluster.pod(pod)?.spec;
    let own: [IpAddr; 2] = [spec.v4.into(), spec.v6.into()];
    let pairs = own.into_iter().zip(FLOATING);
    let list: Vec<_> =
        pairs.map(|(own, floating)| json!({"internalIP": own, "externalIP": floating})).collect();
    let list = if has { json!(list) } else { json!(null) };
    cluster.change_endpoint(pod, &json!({ "ipNATs": list }))
}

/// A question from a site and its answer; silence is listened for.
fn ask(
    cluster: &Cluster,
    from: &str,
    to: IpAddr,
    service: Service,
    limit: Duration,
) -> Result<Answer> {
    ask_from(cluster.netns(from)?.name(), to, service, limit)
}

/// As whom each site is seen at the pod behind the addresses.
fn everybody(cluster: &Cluster) -> Result<Vec<(&'static str, [IpAddr; 2])>> {
    let own = |pod: &str| -> Result<[IpAddr; 2]> {
        let spec = cluster.pod(pod)?.spec;
        Ok([spec.v4.into(), spec.v6.into()])
    };
    let far = cluster.hosts[1].spec;
    // The other host's pods leave it under its address: the pool of IPv4 says so, that of IPv6 does not.
    let [_, far_v6] = own("frontend-2")?;
    Ok(vec![
        ("outside", [OUTSIDE_V4.into(), OUTSIDE_V6.into()]),
        ("frontend-1", own("frontend-1")?),
        ("frontend-2", [far.v4.into(), far_v6]),
        ("calico-02", [far.v4.into(), far.v6.into()]),
        // To itself it comes as its floating address, not as itself, or it would drop it.
        (POD, FLOATING),
    ])
}

fn leads_to_the_pod_and_its_policy(cluster: &Cluster) -> Result<()> {
    for (from, seen) in everybody(cluster)? {
        for (to, seen) in FLOATING.into_iter().zip(seen) {
            let answer = ask(cluster, from, to, Service::Tcp(HTTP), PATIENT)?;
            ensure!(answer == Answer::Reached(Some(seen)), "{from} to {to}: {answer:?}");
            let answer = ask(cluster, from, to, Service::Udp(DNS), PATIENT)?;
            ensure!(answer == Answer::Reached(Some(seen)), "{from} to {to}, UDP: {answer:?}");
            for denied in [Service::Tcp(OTHER), Service::Icmp] {
                let answer = ask(cluster, from, to, denied, BRIEF)?;
                ensure!(answer == Answer::Silence, "{from} to {to}, {denied}: {answer:?}");
            }
        }
    }
    // Its own host reaches it, whatever policy says.
    for to in FLOATING {
        let answer = ask(cluster, "calico-01", to, Service::Tcp(OTHER), PATIENT)?;
        ensure!(answer.reached(), "its host to {to}: {answer:?}");
    }
    Ok(())
}

/// What the pod says by itself has not the floating address as its source: in IPv4 its host's, since
/// the outside is no pool, in IPv6 its own.
fn speaks_as_ever(cluster: &Cluster) -> Result<()> {
    let pod = cluster.pod(POD)?;
    let host = cluster.hosts[0].spec;
    for (own, to, seen) in [
        (IpAddr::from(pod.spec.v4), IpAddr::from(OUTSIDE_V4), IpAddr::from(host.v4)),
        (pod.spec.v6.into(), OUTSIDE_V6.into(), pod.spec.v6.into()),
    ] {
        let tag = format!("speaks to {to}");
        shout(pod.ns().name(), (own, 0).into(), SocketAddr::new(to, DNS), &tag)?;
        let server = cluster.server("outside")?;
        let from = wait::until(&tag, Duration::from_secs(2), || {
            Ok(server.arrivals(tag.as_bytes()).first().map(|arrival| arrival.from.ip()))
        })?;
        ensure!(from == seen, "{to} saw {from} instead of {seen}");
    }
    Ok(())
}

/// Nobody but somebody on the same socket all the time.
struct Talker {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Talker {
    fn new(cluster: &Cluster, from: &str, to: IpAddr) -> Result<Self> {
        let socket = enter(cluster.netns(from)?.name(), || {
            Ok(UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?)
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { socket, to: SocketAddr::new(to, DNS) })
    }

    /// Says it some times; is one answered?
    fn is_answered(&self, tries: usize) -> bool {
        let mut buffer = [0; 64];
        (0..tries).any(|_| {
            // No route is a refusal of the own kernel.
            let _ = self.socket.send_to(b"talker", self.to);
            self.socket.recv(&mut buffer).is_ok()
        })
    }
}

/// The agent's rules of a family on the first host, without those that count; none of them may be of the
/// chains that lead to and from floating addresses.
fn rules(cluster: &Cluster, flavour: Flavour, family: &str) -> Result<Vec<String>> {
    let ns = cluster.hosts[0].ns();
    if flavour.is_nftables() {
        let all = own_table::lines(ns)?;
        ensure!(all.iter().any(|line| line == "chain forward-to-pod:"), "another dataplane");
        return Ok(all);
    }
    let v = if family == "-4" { "" } else { "6" };
    let text = ns.command(format!("ip{v}tables-{}-save", flavour.iptables())).run()?;
    ensure!(text.contains("cali-FORWARD"), "another flavour");
    ensure!(!text.contains("cali-fip"), "{text}");
    Ok(text.lines().map(str::to_owned).collect())
}

/// Nothing of the addresses: nobody answers, also not to who was talking; no rule, route or
/// connection knows them.
fn nothing_is_left(cluster: &Cluster, talkers: &[Talker], flavour: Flavour) -> Result<()> {
    for (from, _) in everybody(cluster)? {
        for to in FLOATING {
            let answer = ask(cluster, from, to, Service::Tcp(HTTP), BRIEF)?;
            ensure!(!answer.reached(), "{from} still reaches {to}: {answer:?}");
        }
    }
    for talker in talkers {
        ensure!(
            !talker.is_answered(2),
            "{} goes on with {}",
            talker.socket.local_addr()?,
            talker.to
        );
    }
    let ns = cluster.hosts[0].ns();
    for (family, to) in ["-4", "-6"].into_iter().zip(FLOATING) {
        let to = to.to_string();
        let routes = kernel::routes(ns, family)?;
        ensure!(!routes.iter().any(|route| route.contains(&to)), "{routes:#?}");
        let rules = rules(cluster, flavour, family)?;
        ensure!(rules.iter().all(|rule| !rule.contains(&to)), "{rules:#?}");
        let list = ["-L", "-f", if family == "-4" { "ipv4" } else { "ipv6" }];
        let connections = ns.command("conntrack").args(list).run()?;
        ensure!(!connections.contains(&format!("dst={to} ")), "{connections}");
    }
    // By its own address the pod is as before.
    let pod = cluster.pod(POD)?.spec;
    for to in [IpAddr::from(pod.v4), pod.v6.into()] {
        let answer = ask(cluster, "frontend-1", to, Service::Tcp(HTTP), PATIENT)?;
        ensure!(answer.reached(), "{to}: {answer:?}");
    }
    Ok(())
}

/// What `status` and `explain` say of them.
fn is_told(cluster: &Cluster) -> Result<()> {
    let host = &cluster.hosts[0];
    let pod = cluster.pod(POD)?.spec;
    let status = host.status()?;
    let of_pod = status.0["endpoints"].as_array().into_iter().flatten();
    let mut of_pod = of_pod.filter(|one| one["interface"] == pod.interface());
    let said = &of_pod.next().context("the pod is not in status")?["external_addresses"];
    let expected = json!([
        {"address": FLOATING[0], "leads_to": pod.v4},
        {"address": FLOATING[1], "leads_to": pod.v6},
    ]);
    ensure!(*said == expected, "{said}");
    let text = host.status_text()?;
    let [v4, v6] = FLOATING;
    ensure!(text.contains(&format!("(external {v4} {v6})")), "{text}");

    let from = cluster.pod("frontend-1")?.spec.container_id;
    for to in FLOATING {
        for offline in [false, true] {
            for (port, code, outcome) in [(HTTP, 0, "ALLOWED"), (OTHER, 6, "DENIED")] {
                let words = format!("--from {from} --to {to} --port {port}");
                let output = host.explain(offline, &words)?;
                let line = output.stdout.lines().next().unwrap_or_default();
                let leads = format!("eth0 ({to} → ");
                let right = output.status.code() == Some(code)
                    && line.starts_with(outcome)
                    && line.contains(&leads);
                ensure!(right, "{words}: {} {}", output.stdout, output.stderr);
            }
        }
    }
    Ok(())
}

fn a_pod_is_reached_by_its_floating_address(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = cluster(label, flavour)?;
    // Switched off, as it is without a word, they lead nowhere.
    give(&cluster, POD, true)?;
    nothing_is_left(&cluster, &[], flavour)?;

    cluster.configure("default", &json!({ "floatingIPs": "Enabled" }))?;
    leads_to_the_pod_and_its_policy(&cluster)?;
    speaks_as_ever(&cluster)?;
    is_told(&cluster)?;

    let mut talkers = Vec::new();
    for from in ["outside", "frontend-1", "frontend-2", "calico-01", POD] {
        for to in FLOATING {
            let talker = Talker::new(&cluster, from, to)?;
            ensure!(talker.is_answered(5), "{from} talks to {to}");
            talkers.push(talker);
        }
    }
    give(&cluster, POD, false)?;
    nothing_is_left(&cluster, &talkers, flavour)?;
    give(&cluster, POD, true)?;
    leads_to_the_pod_and_its_policy(&cluster)?;
    for talker in &talkers {
        ensure!(talker.is_answered(5), "{} is led there again", talker.to);
    }
    // The setting takes them away as well.
    cluster.configure("default", &json!({ "floatingIPs": "Disabled" }))?;
    nothing_is_left(&cluster, &talkers, flavour)?;
    cluster.configure("default", &json!({ "floatingIPs": null }))?;
    nothing_is_left(&cluster, &talkers, flavour)
}

calico_e2e::on_each_dataplane! {
    full: a_pod_is_reached_by_its_floating_address, "flo";
}

/// The address moves to a pod with another policy while somebody talks.
fn a_floating_address_that_moves_takes_nobody_along(label: &str, flavour: Flavour) -> Result<()> {
    let cluster = cluster(label, flavour)?;
    cluster.configure("default", &json!({ "floatingIPs": "Enabled" }))?;
    give(&cluster, POD, true)?;
    let talkers = FLOATING.map(|to| Talker::new(&cluster, "outside", to));
    let [Ok(v4), Ok(v6)] = talkers else { bail!("no sockets") };
    ensure!(v4.is_answered(5) && v6.is_answered(5), "they talk");
    give(&cluster, POD, false)?;
    give(&cluster, "frontend-1", true)?;
    // Frontends take what comes from frontends, and nothing from outside.
    ensure!(!v4.is_answered(2) && !v6.is_answered(2), "they talk to another pod");
    for to in FLOATING {
        let answer = ask(&cluster, "outside", to, Service::Udp(DNS), BRIEF)?;
        ensure!(answer == Answer::Silence, "{to}: {answer:?}");
        let answer = ask(&cluster, "frontend-1", to, Service::Udp(DNS), PATIENT)?;
        ensure!(answer == Answer::Reached(Some(to)), "{to}: {answer:?}");
        let answer = ask(&cluster, POD, to, Service::Udp(DNS), BRIEF)?;
        ensure!(answer == Answer::Silence, "{to}: {answer:?}");
    }
    // The pod goes, and with it all.
    let (key, _) = cluster.pod("frontend-1")?.spec.endpoint().pair();
    let revision = cluster.etcd.delete(&key)?;
    cluster.wait_for_revision(&cluster.hosts[0], revision)?;
    for to in FLOATING {
        for from in ["outside", POD, "calico-01"] {
            let answer = ask(&cluster, from, to, Service::Udp(DNS), BRIEF)?;
            ensure!(!answer.reached(), "{from} to {to}: {answer:?}");
        }
    }
    Ok(())
}

calico_e2e::on_each_dataplane! {
    full: a_floating_address_that_moves_takes_nobody_along, "flm";
}
