//! The world of the rkt tutorial: two hosts, networks `frontend` and `backend`, one pod of each on
//! each host; a policy layer to put on top; and what should pass in both.
//!
//! What should pass is written down by hand, never calculated: the tables are the specification.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::matrix::{Expected, Family};
use crate::probe::Service;
use crate::world::{
    Assigned, BGPConfiguration, Block, Entity, GlobalNetworkPolicy, IPPool, NamedPort,
    NetworkPolicy, Node, NodeBgp, Pair, Port, Resource, Rule, Tier, WorkloadEndpoint, affinity,
    handle, network_profile, workload_endpoint,
};

/// The port that endpoints of `backend` call `http`.
pub const HTTP: u16 = 8080;
/// A TCP port without a name.
pub const OTHER: u16 = 9090;
/// The UDP port that endpoints of `backend` call `dns`.
pub const DNS: u16 = 5353;
/// What every site is asked.
pub const SERVICES: [(char, Service); 4] = [
    ('h', Service::Tcp(HTTP)),
    ('t', Service::Tcp(OTHER)),
    ('u', Service::Udp(DNS)),
    ('i', Service::Icmp),
];

/// A host of the tutorial.
#[derive(Clone, Copy, Debug)]
pub struct HostSpec {
    /// Its node name.
    pub name: &'static str,
    /// Its address on the wire, of a /24.
    pub v4: Ipv4Addr,
    /// Its address on the wire, of a /64.
    pub v6: Ipv6Addr,
    /// Its block of the IPv4 pool, a /26.
    pub block4: Ipv4Addr,
    /// Its block of the IPv6 pool, a /122.
    pub block6: Ipv6Addr,
}

/// A pod of the tutorial.
#[derive(Clone, Copy, Debug)]
pub struct PodSpec {
    /// As tables call it.
    pub name: &'static str,
    /// Its host.
    pub host: &'static str,
    /// Its CNI network, which is its profile.
    pub network: &'static str,
    /// rkt's pod UUID.
    pub container_id: &'static str,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    /// Its Ethernet address.
    pub mac: &'static str,
}

const fn host_v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0x18, 0x18, 0, 0, 0, last)
}

const fn pod_v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, last)
}

/// The two hosts.
pub const HOSTS: [HostSpec; 2] = [
    HostSpec {
        name: "calico-01",
        v4: Ipv4Addr::new(172, 18, 18, 101),
        v6: host_v6(0x101),
        block4: Ipv4Addr::new(192, 168, 0, 0),
        block6: pod_v6(0),
    },
    HostSpec {
        name: "calico-02",
        v4: Ipv4Addr::new(172, 18, 18, 102),
        v6: host_v6(0x102),
        block4: Ipv4Addr::new(192, 168, 0, 64),
        block6: pod_v6(0x40),
    },
];

/// The four pods. `192.168.0.0` is a pod's address like any other: all of a block are used.
pub const PODS: [PodSpec; 4] = [
    PodSpec {
        name: "frontend-1",
        host: "calico-01",
        network: "frontend",
        container_id: "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11",
        v4: Ipv4Addr::new(192, 168, 0, 0),
        v6: pod_v6(0),
        mac: "ca:fe:1d:52:bb:e1",
    },
    PodSpec {
        name: "backend-1",
        host: "calico-01",
        network: "backend",
        container_id: "0b61d5d2-77aa-4c3f-8a52-5f0d9f1e6c02",
        v4: Ipv4Addr::new(192, 168, 0, 1),
        v6: pod_v6(1),
        mac: "ca:fe:1d:52:bb:e2",
    },
    PodSpec {
        name: "backend-2",
        host: "calico-02",
        network: "backend",
        container_id: "407208a5-9e0c-4d6b-b1c4-3a7f5e8d2c03",
        v4: Ipv4Addr::new(192, 168, 0, 64),
        v6: pod_v6(0x40),
        mac: "ca:fe:1d:52:bb:e3",
    },
    PodSpec {
        name: "frontend-2",
        host: "calico-02",
        network: "frontend",
        container_id: "e5c1a9f4-02d8-4f1b-a6e7-8b9c0d1e2f04",
        v4: Ipv4Addr::new(192, 168, 0, 65),
        v6: pod_v6(0x41),
        mac: "ca:fe:1d:52:bb:e4",
    },
];

impl PodSpec {
    /// The host side of its veth, named as the CNI plugin does: `cali` and 11 characters of the
    /// container's id.
    pub fn interface(&self) -> String {
        format!("cali{}", &self.container_id[..11])
    }

    /// Its endpoint as the CNI plugin writes it.
    pub fn endpoint(&self) -> Resource<WorkloadEndpoint> {
        let ports = match self.network {
            "backend" => {
                vec![NamedPort::new("http", "TCP", HTTP), NamedPort::new("dns", "UDP", DNS)]
            }
            _ => Vec::new(),
        };
        let spec = WorkloadEndpoint {
            orchestrator: "cni".to_owned(),
            node: self.host.to_owned(),
            container_id: self.container_id.to_owned(),
            endpoint: "eth0".to_owned(),
            networks: vec![format!("{}/32", self.v4), format!("{}/128", self.v6)],
            profiles: vec![self.network.to_owned()],
            interface: self.interface(),
            mac: self.mac.to_owned(),
            ports,
        };
        workload_endpoint(spec).label("role", self.network)
    }

    /// What `CNI_ARGS` says of it.
    pub fn cni_args(&self) -> String {
        format!("IP={},{};MAC={}", self.v4, self.v6, self.mac)
    }

    /// The file that says that its policy is in the kernel.
    pub fn status_file(&self) -> String {
        format!("cni default%2F{} eth0", self.container_id)
    }

    fn handle(&self) -> String {
        format!("{}.{}", self.network, self.container_id)
    }
}

/// A pod by its name in the tables.
pub fn pod(name: &str) -> Option<&'static PodSpec> {
    PODS.iter().find(|pod| pod.name == name)
}

/// Nodes, pools and BGP: what an administrator has made before the first pod. `ClusterInformation` and
/// the nodes' Felix configuration are the agents' to write, all that belongs to pods the plugin's.
pub fn before_pods() -> Vec<Pair> {
    let mut all = Vec::new();
    for host in HOSTS {
        let bgp = NodeBgp { ipv4: format!("{}/24", host.v4), ipv6: format!("{}/64", host.v6) };
        all.push(Resource::new(host.name, Node { bgp }).pair());
    }
    let v4 = IPPool::plain("192.168.0.0/16", 26, true);
    let v6 = IPPool::plain("fd80:24e2:f998:72d6::/64", 122, false);
    all.push(Resource::new("default-ipv4-ippool", v4).pair());
    all.push(Resource::new("default-ipv6-ippool", v6).pair());
    let bgp = BGPConfiguration { log_severity: "Info".to_owned(), mesh: true, as_number: 64512 };
    all.push(Resource::new("default", bgp).pair());
    all
}

/// The same with what the original plugin writes for the four pods, but for their endpoints:
/// networks, address blocks, handles. For pods that are wired by hand.
pub fn base() -> Vec<Pair> {
    let mut all = before_pods();
    all.extend(["frontend", "backend"].map(|network| network_profile(network).pair()));
    for host in HOSTS {
        let pods: Vec<_> = PODS.iter().filter(|pod| pod.host == host.name).collect();
        let block = |base| Block {
            base,
            node: host.name.to_owned(),
            assigned: (pods.iter().enumerate())
                .map(|(second, pod)| Assigned {
                    handle: pod.handle(),
                    timestamp: format!("2024-11-05 10:00:{second:02}.123456789 +0000 UTC"),
                })
                .collect(),
        };
        let blocks = [block(host.block4.into()), block(host.block6.into())];
        all.extend(blocks.iter().map(Block::pair));
        all.extend(blocks.iter().map(affinity));
        all.extend(pods.iter().map(|pod| handle(&pod.handle(), &[&blocks[0], &blocks[1]])));
    }
    all
}

/// The endpoints of the four pods.
pub fn workloads() -> Vec<Pair> {
    PODS.iter().map(|pod| pod.endpoint().pair()).collect()
}

/// What `POLICY=1` puts on top, and the label that one policy looks for.
///
/// * tier `security`, before all others: `backend-2` is in quarantine, nothing in, nothing out;
///   UDP from frontends is denied everywhere; everything else passes on to the next tier.
/// * tier `default`: backends accept TCP on the port that they call `http` from frontends, and
///   everything from backends. Frontends have no policy there, so their network's profile decides.
pub fn policies() -> Vec<Pair> {
    let both = || vec!["Ingress".to_owned(), "Egress".to_owned()];
    let security = |name: &str, spec: NetworkPolicy| {
        let spec = NetworkPolicy { tier: Some("security".to_owned()), ..spec };
        Resource::new(format!("security.{name}"), GlobalNetworkPolicy(spec))
            .label("projectcalico.org/tier", "security")
            .pair()
    };
    let quarantine = NetworkPolicy {
        order: Some(10),
        ingress: vec![Rule::new("Deny")],
        egress: vec![Rule::new("Deny")],
        selector: "quarantine == 'yes'".to_owned(),
        types: both(),
        ..NetworkPolicy::default()
    };
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
    let backend_ports = NetworkPolicy {
        tier: Some("default".to_owned()),
        order: Some(50),
        ingress: vec![
            Rule::new("Allow").protocol("TCP").from(frontends()).to(http),
            Rule::new("Allow").from(Entity::selector("role == 'backend'")),
        ],
        selector: "role == 'backend'".to_owned(),
        types: vec!["Ingress".to_owned()],
        ..NetworkPolicy::default()
    };
    let deny = || "Deny".to_owned();
    let mut all = vec![
        Resource::new("security", Tier { order: 100, default_action: deny() }).pair(),
        Resource::new("default", Tier { order: 1_000_000, default_action: deny() }).pair(),
        security("quarantine", quarantine),
        security("no-udp-from-frontends", no_udp),
        Resource::new("default.backend-ports", backend_ports).namespace("default").pair(),
    ];
    let quarantined = PODS.iter().filter(|pod| pod.name == "backend-2");
    all.extend(quarantined.map(|pod| pod.endpoint().label("quarantine", "yes").pair()));
    all
}

/// Without policies: each network talks to itself. Hosts and the outside are free to be reached,
/// and a host always reaches its own pods, but not those of the other host.
const BASE: &str = "
            frontend-1 backend-1 frontend-2 backend-2 calico-01 calico-02 outside
frontend-1      -          .         *          .         *         *        *
backend-1       .          -         .          *         *         *        *
frontend-2      *          .         -          .         *         *        *
backend-2       .          *         .          -         *         *        *
calico-01       *          *         .          .         -         *        *
calico-02       .          .         *          *         *         -        *
";

/// With policies.
const POLICY: &str = "
            frontend-1 backend-1 frontend-2 backend-2 calico-01 calico-02 outside
frontend-1      -          h        hti         .         *         *        *
backend-1       .          -         .          .         *         *        *
frontend-2     hti         h         -          .         *         *        *
backend-2       .          .         .          -         .         .        .
calico-01       *          *         .          .         -         *        *
calico-02       .          .         *          *         *         -        *
";

/// What should pass. Over IPv6 no pod reaches the outside, which knows no way back: that pool has
/// no `natOutgoing`. Over IPv4 it is reached through masquerade alone.
///
/// # Errors
/// When a table is malformed.
pub fn expected(policy: bool, family: Family) -> Result<Expected> {
    let text = if policy { POLICY } else { BASE };
    let mut table = Expected::parse(text, &SERVICES)?;
    if family == Family::V6 {
        for pod in PODS {
            table.set(pod.name, "outside", "");
        }
    }
    Ok(table)
}
