//! Endpoints on interfaces that are none of pods: no policy of pods is asked about what passes there, but
//! the host endpoint of the interface is, if it has one. Pure.

use calico_datastore::model::{InterfaceName, Name, WorkloadEndpointId};

use super::directory::Known;
use super::document::{End, EndKind, SideAnswer};
use super::passing::Passing;
use super::uplink::{Uplink, behind};
use super::world::Place;
use crate::desired::verdict::{Flow, Judge, Passage, Side};

/// One of them.
pub(super) struct Stray<'a> {
    id: &'a WorkloadEndpointId,
    interface: InterfaceName,
    place: &'a Place,
    judge: &'a Judge<'a>,
}

impl<'a> Stray<'a> {
    /// The endpoint, if it is one; also where another one has its interface, which counts among pods.
    pub(super) fn of(pod: &'a Known, place: &'a Place, judge: &'a Judge<'a>) -> Option<Self> {
        let interface = pod.interface.parse().ok()?;
        let is_one = !place.state.settings.is_of_pods(&interface);
        is_one.then_some(Self { id: &pod.id, interface, place, judge })
    }

    /// What is asked where the packet passes its interface, and a note about it. `other`: the other end.
    /// `sent`, `flow`: before and behind the translation of the destination.
    pub(super) fn ask(
        &self,
        side: Side,
        other: &End,
        sent: Flow,
        flow: Flow,
    ) -> (Vec<SideAnswer>, String) {
        let address = if side == Side::Source { flow.source } else { flow.destination };
        let routed = self.place.interfaces.towards.get(&address);
        let at = behind(self.place, &self.interface, routed);
        let what = match &at {
            Uplink::Nobodys => "what passes there is not policed".to_owned(),
            Uplink::Endpoint { id, .. } => {
                format!("no policy of pods is asked; HostEndpoint {} is on it", id.name)
            }
            Uplink::Unknown(_) => "no policy of pods is asked".to_owned(),
        };
        let why = self.place.state.settings.not_of_pods(&self.interface);
        let note = format!("endpoint {}: {why}: {what}", self.id.on_host());
        let (node, judge, passage) = (&self.id.node, self.judge, self.passage(side, other, &flow));
        (Passing { node, judge, at, passage, sent, flow }.sides(), note)
    }

    /// What comes from it comes in by its interface, and what goes to it leaves by that.
    fn passage(&self, side: Side, other: &End, flow: &Flow) -> Passage {
        let node = other.node.as_deref().map(Name::from);
        let host = other.kind == EndKind::Host && node.as_ref() == Some(&self.id.node);
        match side {
            Side::Source if host || self.judge.is_for_host(flow.destination) => Passage::ToHost,
            Side::Source => Passage::Into,
            Side::Destination if host || self.judge.is_of_host(flow.source) => Passage::FromHost,
            Side::Destination => Passage::OutOf,
        }
    }
}
