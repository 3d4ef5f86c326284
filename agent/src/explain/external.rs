//! External addresses (`ipNATs`): whom one means, and as what each side of the way sees it. Pure.
//!
//! The host of the endpoint leads packets for it to the endpoint, before any policy. What comes from
//! another host goes there by the external address, and that is what the sender's policy sees.

use std::net::IpAddr;

use super::directory::{Known, Peer};
use super::world::{Place, World};
use crate::desired::verdict::{Flow, Side};

/// An external address that is in force, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The address that was asked about.
    pub address: IpAddr,
    /// The endpoint.
    pub pod: Known,
    /// The endpoint's own address behind it.
    pub internal: IpAddr,
}

impl External {
    /// Whom an address means, when it is an external one of a host that is known.
    fn of(address: IpAddr, world: &World) -> Option<Self> {
        let mut places = world.places.values();
        let target = places.find_map(|Place { externals, .. }| externals.given.get(&address))?;
        let pod = world.directory.pods.iter().find(|pod| pod.id == target.endpoint)?;
        Some(Self { address, pod: pod.clone(), internal: target.internal })
    }

    /// The peer, or the endpoint that its external address leads to.
    pub(super) fn resolve(peer: Peer, world: &World) -> Peer {
        match peer {
            Peer::Address(address) => match Self::of(address, world) {
                Some(external) => Peer::External(external),
                None => Peer::Address(address),
            },
            other => other,
        }
    }

    /// What the policy of a pod sees of a flow to it, which is translated already.
    pub(super) fn seen_by(&self, pod: &Known, side: Side, flow: &Flow) -> Flow {
        let elsewhere = side == Side::Source && pod.id.node != self.pod.id.node;
        let destination = if elsewhere { self.address } else { flow.destination };
        Flow { destination, ..*flow }
    }

    /// What may make it different: who comes from another host may come as that.
    pub(super) fn note(&self, from: &[&Known], world: &World) -> Option<String> {
        let far = from.iter().find(|pod| pod.id.node != self.pod.id.node)?;
        let state = &world.places.get(&far.id.node)?.state;
        let masked = state.pools.iter().any(|(pool, nat)| {
            *nat && far.addresses.iter().any(|net| pool.contains(net.address()))
        });
        masked.then(|| {
            format!(
                "{} leaves its host under the host's address (natOutgoing): the ingress of {} is asked \
                 here for the pod's own, ask for that of the host too",
                far.id.on_host(),
                self.pod.id.on_host()
            )
        })
    }
}
