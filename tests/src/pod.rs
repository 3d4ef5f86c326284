//! A pod: a namespace that the CNI plugin connects to its host, or that is wired by hand as the plugin
//! does it, where a test wants a pod that no plugin would make.

use anyhow::Result;
use serde_json::json;

use crate::host::Host;
use crate::matrix::Site;
use crate::netns::{Netns, Place};
use crate::rkt::{Rkt, Sandbox};
use crate::run::Run;
use crate::tutorial::PodSpec;

/// The host side's Ethernet address, the same on every interface of every host.
pub const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The pod's IPv4 gateway. Nobody has this address.
pub const GATEWAY_V4: &str = "169.254.1.1";
/// The link-local address that [`HOST_MAC`] makes, the pod's IPv6 gateway.
pub const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    /// What it is.
    pub spec: PodSpec,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Wired(Netns),
    Run(Sandbox),
}

impl Pod {
    /// Runs it as rkt does: the plugin connects it to its network, with the addresses and the
    /// Ethernet address that the tables know, and returns when its policy is in force.
    ///
    /// # Errors
    /// A [`crate::rkt::Refusal`] of the plugin's.
    pub fn run(run: &Run, host: &Host, spec: &PodSpec) -> Result<Self> {
        let rkt = Rkt::new(host)?;
        rkt.network(spec.network, &json!({ "labels": { "role": spec.network } }))?;
        let mut sandbox = rkt.prepare(run, spec.container_id)?;
        rkt.connect(&mut sandbox, &[(spec.network, &spec.cni_args())])?;
        Ok(Self { spec: *spec, home: Home::Run(sandbox) })
    }

    /// Wires it by hand: the namespace and the veth pair, up on both sides.
    ///
    /// The gateways' neighbour entries are permanent: 169.254.1.1 would be answered by the host's
    /// proxy ARP only while the host has a route towards it, so not on a host without a default
    /// route.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(run: &Run, host: &Host, spec: &PodSpec) -> Result<Self> {
        let pod = Self { spec: *spec, home: Home::Wired(Netns::new(run, spec.name)?) };
        pod.wire(host)?;
        Ok(pod)
    }

    /// Makes the veth pair: for the first time, or again after it was deleted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wire(&self, host: &Host) -> Result<()> {
        let (interface, mac, name) = (self.spec.interface(), self.spec.mac, self.ns().name());
        host.ns().ip(&format!(
            "link add {interface} address {HOST_MAC} type veth \
             peer name eth0 address {mac} netns {name}\n\
             link set {interface} up\n"
        ))?;
        let (v4, v6) = (self.spec.v4, self.spec.v6);
        self.ns().ip(&format!(
            "link set eth0 up\n\
             addr add {v4}/32 dev eth0\n\
             route add {GATEWAY_V4} dev eth0 scope link\n\
             route add default via {GATEWAY_V4} dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             route add default via {GATEWAY_V6} dev eth0\n"
        ))?;
        self.set_neighbours()
    }

    /// Writes the routes that the original CNI plugin writes on the host: protocol boot.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_cni_routes(&self, host: &Host) -> Result<()> {
        let (v4, v6, interface) = (self.spec.v4, self.spec.v6, self.spec.interface());
        host.ns().ip(&format!(
            "route add {v4}/32 dev {interface} scope link proto boot\n\
             route add {v6}/128 dev {interface} proto boot\n"
        ))
    }

    /// Writes the gateways' permanent neighbour entries; the kernel forgets them when the
    /// interface's own Ethernet address changes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_neighbours(&self) -> Result<()> {
        self.ns().ip(&format!(
            "neigh replace {GATEWAY_V4} lladdr {HOST_MAC} dev eth0 nud permanent\n\
             neigh replace {GATEWAY_V6} lladdr {HOST_MAC} dev eth0 nud permanent\n"
        ))
    }

    /// Its namespace.
    pub fn ns(&self) -> &Place {
        match &self.home {
            Home::Wired(ns) => ns,
            Home::Run(sandbox) => sandbox.ns(),
        }
    }

    /// What rkt has of it, if it runs it.
    pub fn into_sandbox(self) -> Option<Sandbox> {
        match self.home {
            Home::Wired(_) => None,
            Home::Run(sandbox) => Some(sandbox),
        }
    }

    /// Where it is asked.
    pub fn site(&self) -> Site {
        let PodSpec { name, v4, v6, .. } = self.spec;
        Site { name: name.to_owned(), netns: self.ns().name().to_owned(), v4, v6 }
    }
}
