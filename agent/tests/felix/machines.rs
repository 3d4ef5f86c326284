//! Machines behind interfaces of the host, and host endpoints on those.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::desired::{
    ActiveRule, ActiveRules, DesiredState, HostTiers, LocalHostEndpoint, TierAcl,
};
use calico_agent::routes::monitor::Link;
use calico_datastore::model::{Action, HostEndpointId, InterfaceName, Name, PortRange, TierAction};

use crate::host::{Flavour, Host, serve};
use crate::netns::{Netns, sh};
use crate::world::*;

/// A machine behind an interface of the host of its own.
pub(crate) struct Machine {
    pub(crate) netns: Netns,
    pub(crate) n: u8,
    pub(crate) interface: String,
}

impl Machine {
    /// The machine number `n`, behind `eth<n>`. All its packets go to the host.
    pub(crate) fn new(host: &mut Host, n: u8) -> Self {
        let interface = format!("eth{n}");
        let netns = Netns::new();
        sh(&format!(
            "ip link add {interface} type veth peer name eth0 netns {}
             ip addr add 198.51.{n}.1/24 dev {interface}
             ip -6 addr add 2001:db8:{n}::1/64 dev {interface} nodad
             ip link set {interface} up",
            netns.tid
        ));
        netns.sh(&format!(
            "sysctl -qw net.ipv6.conf.eth0.accept_dad=0
             ip addr add 198.51.{n}.2/24 dev eth0; ip -6 addr add 2001:db8:{n}::2/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 198.51.{n}.1; ip -6 route add default via 2001:db8:{n}::1
             for i in $(seq 100); do ip -6 addr show dev eth0 scope link | grep -q 'inet6 fe80' && exit 0; sleep 0.02; done"
        ));
        let index = sh(&format!("ip -o link show {interface} | cut -d: -f1"));
        let machine = Self { netns, n, interface };
        let link = Link {
            index: index.trim().parse().unwrap(),
            up: true,
            mtu: 1500,
            addresses: machine.gate().into_iter().collect(),
            ..Link::default()
        };
        host.links.insert(machine.interface.parse().unwrap(), link);
        // Until the neighbours have found each other. The port is fail-safe; somebody may listen.
        for to in machine.gate() {
            let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
            machine.netns.run(move || {
                let found = || crate::host::dial((to, 22).into()).err().is_none_or(refused);
                assert!((0..40).any(|_| found()), "{to} is not found");
            });
        }
        machine
    }

    /// Its addresses.
    pub(crate) fn both(&self) -> [IpAddr; 2] {
        ["198.51.N.2", "2001:db8:N::2"].map(|text| self.address(text))
    }

    /// The host's addresses on the way to it.
    pub(crate) fn gate(&self) -> [IpAddr; 2] {
        ["198.51.N.1", "2001:db8:N::1"].map(|text| self.address(text))
    }

    pub(crate) fn address(&self, text: &str) -> IpAddr {
        text.replace('N', &self.n.to_string()).parse().unwrap()
    }

    pub(crate) fn serve(&self, ports: &[u16]) {
        let ports = ports.to_vec();
        self.netns.run(move || ports.into_iter().for_each(serve));
    }

    /// Which of these ports it reaches at an address.
    pub(crate) fn reaches(&self, to: IpAddr, ports: &[u16]) -> Vec<u16> {
        let ports = ports.to_vec();
        self.netns.run(move || ports.into_iter().filter(|port| reaches(to, *port)).collect())
    }
}

pub(crate) fn reaches(to: IpAddr, port: u16) -> bool {
    crate::host::dial(std::net::SocketAddr::new(to, port)).is_ok()
}

/// Which of these ports the host reaches at an address.
pub(crate) fn host_reaches(to: IpAddr, ports: &[u16]) -> Vec<u16> {
    ports.iter().copied().filter(|port| reaches(to, *port)).collect()
}

pub(crate) fn name(interface: &str) -> InterfaceName {
    interface.parse().unwrap()
}

pub(crate) fn hep(name: &str) -> HostEndpointId {
    HostEndpointId { name: Name::from(name) }
}

pub(crate) fn put(state: &mut DesiredState, name: &str, endpoint: LocalHostEndpoint) {
    state.host_endpoints.endpoints.insert(hep(name), Arc::new(endpoint));
}

/// A policy that host endpoints ask.
pub(crate) fn host_policy(
    state: &mut DesiredState,
    name: &str,
    ingress: Vec<ActiveRule>,
    egress: Vec<ActiveRule>,
) {
    let rules = ActiveRules { ingress, egress };
    state.host_endpoints.policies.insert(policy_id(name), Arc::new(rules));
}

pub(crate) fn one_tier(policy: &str) -> Vec<TierAcl> {
    vec![tier("default", &[policy], TierAction::Deny)]
}

/// One policy in both directions.
pub(crate) fn both(policy: &str) -> HostTiers {
    HostTiers { ingress: one_tier(policy), egress: one_tier(policy) }
}

pub(crate) fn on(interface: &str) -> LocalHostEndpoint {
    LocalHostEndpoint { interface: Some(Name::from(interface)), ..LocalHostEndpoint::default() }
}

/// Everything, for host endpoints and for pods.
pub(crate) fn allow_all(state: &mut DesiredState) {
    profile(state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    let rules = Arc::clone(&state.profiles[&Name::from("all")]);
    state.host_endpoints.profiles.insert(Name::from("all"), rules);
}

/// All that the tables of both families hold of host endpoints.
pub(crate) fn traces(host: &Host) -> Vec<String> {
    let words = ["cali-fh", "cali-th", "failsafe", "host-endpoint", "hep", "OUTPUT -", "mangle"];
    let mut found = Vec::new();
    for family in [4, 6] {
        let saved = host.saved(family);
        let ours = saved.lines().filter(|line| line.contains("cali"));
        found.extend(
            ours.filter(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned),
        );
    }
    found
}

pub(crate) const PORTS: [u16; 4] = [22, 80, 81, 2379];

/// An interface with a policy for 80, in both directions.
pub(crate) fn guarded(host: &mut Host, flavour: Flavour) -> (Machine, DesiredState) {
    let machine = Machine::new(host, 1);
    machine.serve(&PORTS);
    PORTS.into_iter().for_each(serve);
    let mut state = empty(flavour);
    host_policy(
        &mut state,
        "web",
        vec![tcp(Action::Allow, &[80])],
        vec![tcp(Action::Allow, &[80])],
    );
    put(&mut state, "a", LocalHostEndpoint { normal: both("web"), ..on("eth1") });
    (machine, state)
}

pub(crate) fn from_port(action: Action, port: u16) -> ActiveRule {
    let mut rule = tcp(action, &[]);
    rule.source.ports = vec![PortRange::single(port)];
    rule
}
