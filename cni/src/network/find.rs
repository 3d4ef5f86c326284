//! Reads what is there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use calico_datastore::model::{Family, InterfaceName, Mac};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::netlink::{Netlink, Step};
use super::{Found, GATEWAY_V4, GATEWAY_V6, HOST_MAC_BYTES, NetworkError, message, namespace};

const ENOENT: i32 = 2;
const ENODEV: i32 = 19;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;
const FAMILIES: [(Family, AddressFamily); 2] =
    [(Family::V4, AddressFamily::Inet), (Family::V6, AddressFamily::Inet6)];

/// What the kernel says of an interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
    pub(super) veth: bool,
    name: Option<InterfaceName>,
    mtu: u32,
    up: bool,
    /// Of a kind that is made by software: bridge, veth, tunnel, the loopback.
    made: bool,
    /// Its peer's index in the peer's namespace.
    peer: Option<u32>,
    /// The peer's namespace, as this one numbers it; none: the same.
    peer_netns: Option<i32>,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let header = &message.header;
        let mut link = Self {
            index: header.index,
            mac: None,
            veth: false,
            name: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            made: header.link_layer_type == LinkLayerType::Loopback,
            peer: None,
            peer_netns: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => link.name = text.parse().ok(),
                LinkAttribute::Mtu(bytes) => link.mtu = *bytes,
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
                }
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    link.made |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
                    link.veth |=
                        infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        link
    }
}

/// The interface of a name.
pub(super) fn link(
    netlink: &mut Netlink,
    name: &InterfaceName,
) -> Result<Option<Link>, NetworkError> {
    get_link(netlink, message::link_named(name), || format!("the interface {name}"))
}

fn get_link(
    netlink: &mut Netlink,
    request: Message,
    what: impl FnOnce() -> String,
) -> Result<Option<Link>, NetworkError> {
    match netlink.get(request) {
        Ok(Message::NewLink(found)) => Ok(Some(Link::of(&found))),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
        Err(source) => Err(NetworkError::Read { what: what(), source }),
    }
}

/// See [`super::inspect`].
pub(super) fn inspect(netns: &Path, name: &InterfaceName) -> Result<Option<Found>, NetworkError> {
    let file = match namespace::open(netns) {
        Err(NetworkError::NoNamespace { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        file => file?,
    };
    let mut host = Netlink::open()?;
    namespace::enter(&file, netns)?;
    let mut pod = Netlink::open()?;
    let Some(inside) = link(&mut pod, name)? else { return Ok(None) };
    let outside = peer(&mut host, &file, &inside)?;
    Ok(Some(Found {
        // An interface of another kind may have none.
        mac: inside.mac.unwrap_or(Mac::new([0; 6])),
        mtu: inside.mtu,
        up: inside.up,
        addresses: addresses(&mut pod, inside.index)?,
        host_name: outside.and_then(|link| link.name),
        default_routes: families_of(&default_routes(&mut pod, Some(inside.index))?),
        neighbours: neighbours(&mut pod, inside.index)?,
    }))
}

/// See [`super::default_routes`].
pub(super) fn default_routes_in(netns: &Path) -> Result<Vec<Family>, NetworkError> {
    let file = namespace::open(netns)?;
    namespace::enter(&file, netns)?;
    Ok(families_of(&default_routes(&mut Netlink::open()?, None)?))
}

/// The other side, if it is in the host's namespace and says so too.
fn peer(host: &mut Netlink, netns: &File, inside: &Link) -> Result<Option<Link>, NetworkError> {
    let (Some(index), Some(_), true) = (inside.peer, inside.peer_netns, inside.veth) else {
        return Ok(None);
    };
    let request = message::link_at(index);
    let found = get_link(host, request, || format!("the interface with index {index}"))?;
    // Another namespace may have an interface with the same index.
    let Some(outside) = found.filter(|link| link.veth && link.peer == Some(inside.index)) else {
        return Ok(None);
    };
    let mut request = NsidMessage::default();
    let failed = |source| NetworkError::Read { what: "a namespace's number".to_owned(), source };
    let fd = u32::try_from(netns.as_raw_fd()).map_err(|error| failed(io::Error::other(error)))?;
    request.attributes.push(NsidAttribute::Fd(fd));
    let answer = host.get(Message::GetNsId(request)).map_err(failed)?;
    let Message::NewNsId(answer) = answer else { return Ok(None) };
    let number = answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id),
        _ => None,
    });
    Ok(Some(outside).filter(|link| number.is_some() && link.peer_netns == number))
}

fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<IpAddr>, NetworkError> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let found = list(netlink, &Message::GetAddress(request), "the addresses")?;
    let of = |message: Message| match message {
        Message::NewAddress(address)
            if address.header.index == index && address.header.scope != AddressScope::Link =>
        {
            let (mut local, mut remote) = (None, None);
            for attribute in address.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(ip),
                    AddressAttribute::Address(ip) => remote = Some(ip),
                    _ => {}
                }
            }
            local.or(remote)
        }
        _ => None,
    };
    Ok(found.into_iter().filter_map(of).collect())
}

/// The default routes of the main table: family and interface.
fn default_routes(
    netlink: &mut Netlink,
    over: Option<u32>,
) -> Result<BTreeSet<(Family, u32)>, NetworkError> {
    let mut routes = BTreeSet::new();
    for (family, number) in FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = number;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.attributes.extend(over.map(RouteAttribute::Oif));
        for message in list(netlink, &Message::GetRoute(request), "the routes")? {
            let Message::NewRoute(route) = message else { continue };
            let mut table = u32::from(route.header.table);
            let mut devices = Vec::new();
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Table(id) => table = *id,
                    RouteAttribute::Oif(index) => devices.push(*index),
                    RouteAttribute::MultiPath(hops) => {
                        devices.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                }
            }
            devices.retain(|index| over.is_none_or(|over| over == *index));
            let default = route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && route.header.address_family == number
                && table == u32::from(RouteHeader::RT_TABLE_MAIN);
            if default {
                routes.extend(devices.into_iter().map(|index| (family, index)));
            }
        }
    }
    Ok(routes)
}

fn families_of(routes: &BTreeSet<(Family, u32)>) -> Vec<Family> {
    let families: BTreeSet<Family> = routes.iter().map(|(family, _)| *family).collect();
    families.into_iter().collect()
}

/// The families whose gateway has its permanent entry.
fn neighbours(netlink: &mut Netlink, index: u32) -> Result<Vec<Family>, NetworkError> {
    let mut request = NeighbourMessage::default();
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    let found = list(netlink, &Message::GetNeighbour(request), "the neighbours")?;
    let mut families = BTreeSet::new();
    for message in found {
        let Message::NewNeighbour(neighbour) = message else { continue };
        let header = &neighbour.header;
        if header.ifindex != index || header.state != NeighbourState::Permanent {
            continue;
        }
        let attributes = &neighbour.attributes;
        let right =
            attributes.contains(&NeighbourAttribute::LinkLayerAddress(HOST_MAC_BYTES.to_vec()));
        let is = |address| attributes.contains(&NeighbourAttribute::Destination(address));
        if right && is(NeighbourAddress::Inet(GATEWAY_V4)) {
            families.insert(Family::V4);
        }
        if right && is(NeighbourAddress::Inet6(GATEWAY_V6)) {
            families.insert(Family::V6);
        }
    }
    Ok(families.into_iter().collect())
}

/// The removals of the rules that lead to an interface's own table.
pub(super) fn rules_to(netlink: &mut Netlink, index: u32) -> Result<Vec<Step>, NetworkError> {
    let mut removals = Vec::new();
    for (family, number) in FAMILIES {
        let mut request = RuleMessage::default();
        request.header.family = number;
        for message in list(netlink, &Message::GetRule(request), "the rules")? {
            let Message::NewRule(rule) = message else { continue };
            if rule.header.family == number && message::leads_to(&rule, index) {
                removals.push(message::rule_to_removal(index, family == Family::V4));
            }
        }
    }
    Ok(removals)
}

/// See [`super::host_mtu`].
pub(super) fn host_mtu(netlink: &mut Netlink) -> Result<Option<u32>, NetworkError> {
    let links: Vec<Link> = list(netlink, &message::links(), "the interfaces")?
        .iter()
        .filter_map(|message| match message {
            Message::NewLink(link) => Some(Link::of(link)),
            _ => None,
        })
        .collect();
    let routed: BTreeSet<u32> =
        default_routes(netlink, None)?.into_iter().map(|(_, index)| index).collect();
    Ok(lowest_mtu(&links, &routed))
}

fn lowest_mtu(links: &[Link], routed: &BTreeSet<u32>) -> Option<u32> {
    let lowest = |keep: &dyn Fn(&&Link) -> bool| {
        links.iter().filter(keep).map(|link| link.mtu).filter(|mtu| *mtu > 0).min()
    };
    lowest(&|link| routed.contains(&link.index)).or_else(|| lowest(&|link| link.up && !link.made))
}

/// A list; empty when the kernel knows no such family or table.
fn list(
    netlink: &mut Netlink,
    request: &Message,
    what: &'static str,
) -> Result<Vec<Message>, NetworkError> {
    const EMPTY: [i32; 4] = [ENOENT, ENODEV, EOPNOTSUPP, EAFNOSUPPORT];
    match netlink.list(request) {
        Err(error) if error.raw_os_error().is_some_and(|errno| EMPTY.contains(&errno)) => {
            Ok(Vec::new())
        }
        Err(source) => Err(NetworkError::Read { what: what.to_owned(), source }),
        Ok(found) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, mtu: u32, up: bool, kind: Option<InfoKind>) -> Link {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let kind = kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        message.attributes.extend(kind);
        Link::of(&message)
    }

    #[test]
    fn without_a_default_route_the_hosts_own_cards_that_are_up_count() {
        let mut loopback = LinkMessage::default();
        loopback.header.link_layer_type = LinkLayerType::Loopback;
        loopback.header.flags = LinkFlags::Up;
        loopback.attributes.push(LinkAttribute::Mtu(100));
        let mut links = vec![
            Link::of(&loopback),
            link(2, 9000, true, None),
            link(3, 1500, true, None),
            link(4, 1400, false, None),
            link(5, 1300, true, Some(InfoKind::Veth)),
            link(6, 1200, true, Some(InfoKind::Wireguard)),
        ];
        assert_eq!(lowest_mtu(&links, &BTreeSet::new()), Some(1500));
        // What has the default route counts, whatever it is made of.
        assert_eq!(lowest_mtu(&links, &BTreeSet::from([2])), Some(9000));
        assert_eq!(lowest_mtu(&links, &BTreeSet::from([2, 6])), Some(1200));
        links.retain(|link| link.made);
        assert_eq!(lowest_mtu(&links, &BTreeSet::new()), None);
    }
}
