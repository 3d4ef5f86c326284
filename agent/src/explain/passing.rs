//! A packet passes an interface of a host: what the host endpoint there says. Pure.

use std::net::IpAddr;

use calico_datastore::model::{Family, Name};

use super::directory::Directory;
use super::document::{End, EndKind, SideAnswer};
use super::uplink::Uplink;
use super::way::Writer;
use super::world::Place;
use crate::desired::verdict::{Flow, Hook, Judge, Passage, Side, Traced};

/// One passage.
pub(super) struct Passing<'a> {
    /// The host.
    pub(super) node: &'a Name,
    /// Its policy.
    pub(super) judge: &'a Judge<'a>,
    /// Which host endpoint its interface has.
    pub(super) at: Uplink,
    /// Which way.
    pub(super) passage: Passage,
    /// The packet as it was sent: as hooks before the translation of destinations see it.
    pub(super) sent: Flow,
    /// The packet as the others see it.
    pub(super) flow: Flow,
}

/// Which way a packet passes the host of one of its ends, when the other end is elsewhere.
pub(super) fn passage(end: &End, side: Side) -> Option<Passage> {
    match (&end.kind, side) {
        (EndKind::Pod, Side::Source) => Some(Passage::OutOf),
        (EndKind::Pod, Side::Destination) => Some(Passage::Into),
        (EndKind::Host, Side::Source) => Some(Passage::FromHost),
        (EndKind::Host, Side::Destination) => Some(Passage::ToHost),
        (EndKind::Address, _) => None,
    }
}

/// The end that is elsewhere.
pub(super) fn remote(passage: Passage, flow: &Flow) -> IpAddr {
    match passage.side() {
        Side::Source => flow.destination,
        Side::Destination => flow.source,
    }
}

/// The packet of a pod as others than its host see it: what leaves a pool with `natOutgoing` for
/// somewhere in no pool bears an address of the host.
pub(super) fn masqueraded(flow: &Flow, node: &Name, place: &Place, directory: &Directory) -> Flow {
    let pools = &place.state.pools;
    let from = pools.iter().any(|(pool, masquerade)| *masquerade && pool.contains(flow.source));
    if !from || pools.keys().any(|pool| pool.contains(flow.destination)) {
        return *flow;
    }
    let family = Family::of(flow.source);
    let own = place.state.settings.nat_outgoing_addresses.iter();
    let of_node = directory.hosts.get(node).into_iter().flatten();
    let mut all = own.chain(of_node).copied();
    let source = all.find(|address| Family::of(*address) == family);
    source.map_or(*flow, |source| Flow { source, ..*flow })
}

impl Passing<'_> {
    /// What was asked, hook by hook.
    pub(super) fn sides(&self) -> Vec<SideAnswer> {
        let answer = SideAnswer {
            side: self.passage.side().to_string(),
            endpoint: format!("host endpoints of {}", self.node),
            hook: None,
            interface: None,
            node: Some(self.node.to_string()),
            allowed: None,
            reason: String::new(),
            tiers: Vec::new(),
            profiles: Vec::new(),
        };
        let (id, interface) = match &self.at {
            Uplink::Nobodys => return Vec::new(),
            Uplink::Endpoint { id, interface } => (id, interface),
            Uplink::Unknown(why) => return vec![SideAnswer { reason: why.clone(), ..answer }],
        };
        let asked = self.judge.trace_passage(id, self.passage, &self.sent, &self.flow);
        let one = |(hook, Traced { verdict, steps }): (Hook, Traced<'_>)| {
            let lists = self.judge.of_hosts();
            let flow = if hook.is_early() { &self.sent } else { &self.flow };
            let writer = Writer { lists, flow, side: self.passage.side() };
            let (tiers, profiles) = writer.steps(&steps);
            SideAnswer {
                endpoint: format!("HostEndpoint {}", id.name),
                hook: Some(hook.to_string()),
                interface: interface.as_ref().map(ToString::to_string),
                allowed: Some(verdict.allowed),
                reason: verdict.reason.to_string(),
                tiers,
                profiles,
                ..answer.clone()
            }
        };
        asked.into_iter().map(one).collect()
    }
}
