//! Routes and neighbours as rtnetlink messages, both ways. It does no I/O.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Mac};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::super::plan::{CALICO_PROTOCOL, Neighbour, Route, RouteKind};

/// The destination of a route message; a default route carries none.
pub(in crate::routes) fn destination_of(message: &RouteMessage) -> Option<Cidr> {
    let len = message.header.destination_prefix_length;
    let explicit = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let address = match (explicit, message.header.address_family) {
        (Some(address), _) => address_of(address)?,
        (None, AddressFamily::Inet) => IpAddr::from([0; 4]),
        (None, AddressFamily::Inet6) => IpAddr::from([0; 16]),
        _ => return None,
    };
    Cidr::new(address, len).ok()
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// `None` for routes outside the main table: a kernel that ignores the filter sends all of them.
pub(super) fn parse_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut route = Route {
        destination: destination_of(message)?,
        metric: 0,
        tos: header.tos,
        scope: header.scope.into(),
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            other => RouteKind::Other(other.into()),
        },
        device: None,
        indirect: false,
        protocol: header.protocol.into(),
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.device = Some(*index),
            RouteAttribute::PrefSource(address) => route.source = address_of(address),
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Encap(_) => route.indirect = true,
            _ => {}
        }
    }
    if route.kind != RouteKind::Unicast {
        // IPv6 shows these on `lo`.
        route.device = None;
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

pub(super) fn route_message(route: &Route) -> RouteMessage {
    let address = |address| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    let v4 = route.destination.address().is_ipv4();
    header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.destination_prefix_length = route.destination.prefix_len();
    header.tos = route.tos;
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    header.scope = RouteScope::from(route.scope);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(address(route.destination.address())));
    attributes.extend(route.device.map(RouteAttribute::Oif));
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    message
}

/// `None` for entries that are not permanent, and for proxies.
pub(super) fn parse_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac, mut marked) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
            }
            NeighbourAttribute::Protocol(protocol) => {
                marked = u8::from(*protocol) == CALICO_PROTOCOL;
            }
            _ => {}
        }
    }
    Some(Neighbour { device: message.header.ifindex, address: address?, mac, marked })
}

pub(super) fn neighbour_message(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, address) = match neighbour.address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = neighbour.device;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}
