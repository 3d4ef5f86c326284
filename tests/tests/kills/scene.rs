//! Who talks to whom, and the policies that decide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use calico_e2e::cluster::Cluster;
use calico_e2e::flow::Flow;
use calico_e2e::matrix::Family;
use calico_e2e::probe::Service;
use calico_e2e::tutorial::{DNS, HTTP, OTHER};
use calico_e2e::world::{
    Entity, GlobalNetworkPolicy, NetworkPolicy, Pair, Port, Resource, Rule, Tier,
};

/// An address that no pool has, given to `frontend-1`.
const SPOOFED: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 99, 0, 1), Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1));

/// `from to service`, what should arrive. `u`: UDP, `h`: the port that backends call `http`, `t`:
/// another TCP port.
const ALLOWED: &str = "
    frontend-1 backend-1  h
    frontend-1 frontend-2 t
    frontend-2 frontend-1 t
    frontend-2 backend-1  h
    backend-1  backend-2  u
    backend-2  backend-1  u
    backend-1  backend-2  t
    frontend-1 calico-01  u
    backend-2  calico-02  t
    calico-01  frontend-1 u
    calico-02  backend-2  t
";
/// Over IPv4 only: seen under the host's address; over IPv6 there is no way back.
const MASQUERADED: &str = "
    frontend-1 outside    t
    backend-2  outside    u
    frontend-1 calico-02  u
";
const DENIED: &str = "
    frontend-1 backend-1  u
    frontend-1 backend-1  t
    frontend-1 backend-2  u
    frontend-2 frontend-1 u
    backend-1  frontend-1 u
    backend-1  frontend-2 t
    calico-01  backend-2  u
    calico-02  frontend-1 t
";

/// All flows, in both families where both make sense.
pub(super) fn flows() -> Vec<Flow> {
    let mut all = Vec::new();
    let both = [Family::V4, Family::V6];
    for (table, families, allowed) in
        [(ALLOWED, &both[..], true), (MASQUERADED, &both[..1], true), (DENIED, &both[..], false)]
    {
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let (Some(from), Some(to), Some(service)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let service = match service {
                "u" => Service::Udp(DNS),
                "h" => Service::Tcp(HTTP),
                _ => Service::Tcp(OTHER),
            };
            all.extend(families.iter().map(|family| Flow {
                from: from.to_owned(),
                to: to.to_owned(),
                family: *family,
                service,
                spoofed: None,
                allowed,
            }));
        }
    }
    let spoofed = [(Family::V4, IpAddr::V4(SPOOFED.0)), (Family::V6, IpAddr::V6(SPOOFED.1))];
    all.extend(spoofed.map(|(family, address)| Flow {
        from: "frontend-1".to_owned(),
        to: "calico-01".to_owned(),
        family,
        service: Service::Udp(DNS),
        spoofed: Some(address),
        allowed: false,
    }));
    all
}

/// What [`flows`] needs besides the pods: nobody on their ports, and the address to spoof.
pub(super) fn prepare(cluster: &mut Cluster) -> Result<()> {
    let names: Vec<String> = cluster.sites().into_iter().map(|site| site.name).collect();
    names.iter().for_each(|name| cluster.stop_server(name));
    // Deprecated, so that nothing else uses it as its source.
    cluster.netns("frontend-1")?.ip(&format!(
        "addr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad preferred_lft 0\n",
        SPOOFED.0, SPOOFED.1
    ))
}

fn tier(name: &str, order: u32) -> Pair {
    Resource::new(name, Tier { order, default_action: "Deny".to_owned() }).pair()
}

pub(super) fn global(tier: &str, name: &str, spec: NetworkPolicy) -> Resource<GlobalNetworkPolicy> {
    let spec = NetworkPolicy { tier: Some(tier.to_owned()), ..spec };
    Resource::new(format!("{tier}.{name}"), GlobalNetworkPolicy(spec))
        .label("projectcalico.org/tier", tier)
}

pub(super) fn ingress() -> Vec<String> {
    vec!["Ingress".to_owned()]
}

pub(super) fn both() -> Vec<String> {
    vec!["Ingress".to_owned(), "Egress".to_owned()]
}

/// The policies that decide. The first two never change; their counters are watched.
pub(super) fn policies() -> Vec<Pair> {
    let frontends = || Entity::selector("role == 'frontend'");
    let no_udp = NetworkPolicy {
        order: Some(20),
        ingress: vec![Rule::new("Deny").protocol("UDP").from(frontends()), Rule::new("Pass")],
        egress: vec![Rule::new("Pass")],
        selector: "all()".to_owned(),
        types: both(),
        ..NetworkPolicy::default()
    };
    let http = Entity::ports([Port::Text("http".to_owned())]);
    let http = NetworkPolicy {
        order: Some(50),
        ingress: vec![Rule::new("Allow").protocol("TCP").from(frontends()).to(http)],
        selector: "role == 'backend'".to_owned(),
        types: ingress(),
        ..NetworkPolicy::default()
    };
    vec![
        tier("security", 100),
        tier("default", 1_000_000),
        global("security", "no-udp", no_udp).pair(),
        global("default", "http", http).pair(),
        peers(0),
    ]
}

/// Backends accept everything from backends: the same said in several ways.
pub(super) fn peers(variant: usize) -> Pair {
    let allow = |selector: &str| Rule::new("Allow").from(Entity::selector(selector));
    let backends = "role == 'backend'";
    let (order, ingress) = match variant {
        0 => (60, vec![allow(backends)]),
        1 => (40, vec![allow(backends)]),
        2 => (60, vec![allow("role in {'backend'}")]),
        3 => {
            (60, vec![Rule::new("Deny").from(Entity::selector("role == 'ghost'")), allow(backends)])
        }
        4 => (
            60,
            ["TCP", "UDP", "ICMP", "ICMPv6"]
                .map(|p| allow(backends).protocol(p))
                .into_iter()
                .collect(),
        ),
        _ => (60, vec![allow(backends), allow("role == 'ghost' || role == 'spirit'")]),
    };
    let spec = NetworkPolicy {
        order: Some(order),
        ingress,
        selector: backends.to_owned(),
        types: self::ingress(),
        ..NetworkPolicy::default()
    };
    global("default", "peers", spec).pair()
}

/// How many there are.
pub(super) const PEERS: usize = 6;

/// A tier that looks at everybody and decides nothing: every class gets another name.
pub(super) fn audit() -> Vec<Pair> {
    let spec = NetworkPolicy {
        order: Some(1),
        ingress: vec![Rule::new("Pass")],
        egress: vec![Rule::new("Pass")],
        selector: "has(role)".to_owned(),
        types: both(),
        ..NetworkPolicy::default()
    };
    vec![tier("audit", 10), global("audit", "all", spec).pair()]
}
