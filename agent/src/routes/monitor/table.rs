//! The interfaces as the kernel's messages tell them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{InterfaceName, Mac};
use imbl::OrdSet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{Link, Links};
use crate::routes::changes::Interest;

/// The links by index, and the same as published.
#[derive(Debug, Default)]
pub(super) struct LinkTable {
    names: BTreeMap<u32, InterfaceName>,
    /// By index as well: they are told of apart from the links.
    addresses: BTreeMap<u32, OrdSet<IpAddr>>,
    pub(super) published: Links,
    pub(super) changed: bool,
}

impl LinkTable {
    /// True when a known interface went down, came up, or got another Ethernet address.
    pub(super) fn set(&mut self, message: &LinkMessage) -> bool {
        // Bridges repeat their ports under their own family, with half of the attributes.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let index = message.header.index;
        let known = self.names.get(&index).and_then(|name| self.published.get(name));
        let mut mtu = known.map_or(0, |link| link.mtu);
        let mut mac = None;
        let mut name = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = text.parse::<InterfaceName>().ok(),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                LinkAttribute::Address(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
                }
                _ => {}
            }
        }
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        let addresses = self.addresses.get(&index).cloned().unwrap_or_default();
        let link = Link { index, up, mac, mtu, addresses };
        if name.is_some() && name.as_ref() == self.names.get(&index) && known == Some(&link) {
            return false;
        }
        let flapped = known.is_some_and(|known| (known.up, known.mac) != (link.up, link.mac));
        self.forget(index);
        // A name that we could not write into a rule can belong to no endpoint.
        let Some(name) = name else { return false };
        self.names.insert(index, name.clone());
        self.published.insert(name, link);
        self.changed = true;
        flapped
    }

    /// An interface got an address, or lost it.
    pub(super) fn address(&mut self, message: &AddressMessage, there: bool) {
        // Of a point-to-point interface `Address` is that of the other side.
        let of = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
        };
        let Some(address) = of(true).or_else(|| of(false)) else { return };
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return;
        }
        let index = message.header.index;
        let known = self.addresses.entry(index).or_default();
        // The kernel repeats itself: lifetimes are renewed, flags change.
        let differs =
            if there { known.insert(address).is_none() } else { known.remove(&address).is_some() };
        let link = self.names.get(&index).and_then(|name| self.published.get_mut(name));
        if let Some(link) = link.filter(|link| differs && link.index == index) {
            link.addresses = known.clone();
            self.changed = true;
        }
    }

    pub(super) fn remove(&mut self, message: &LinkMessage) {
        // A port that leaves its bridge is deleted under the bridge's family only.
        if message.header.interface_family == AddressFamily::Unspec {
            self.addresses.remove(&message.header.index);
            self.forget(message.header.index);
        }
    }

    /// Also the first half of a rename.
    fn forget(&mut self, index: u32) {
        if let Some(name) = self.names.remove(&index) {
            self.changed = true;
            // Another interface may have taken the name already.
            if self.published.get(&name).is_some_and(|link| link.index == index) {
                self.published.remove(&name);
            }
        }
    }

    pub(super) fn is_pod(&self, index: u32, interest: &Interest) -> bool {
        self.names.get(&index).is_some_and(|name| {
            interest.prefixes.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()))
        })
    }
}
