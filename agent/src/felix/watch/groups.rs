//! What others do to the groups of interfaces: the kernel tells each change of an interface that is up
//! (`RTNLGRP_LINK`). Only interfaces count that the reconciler has put into a group; one that is new, or
//! another under the same name, it hears of elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use calico_datastore::model::InterfaceName;

use super::changes::Placed;
use super::socket::{Events, Overrun};
use crate::felix::nftables::groups::{NEW, decode};
use crate::netlink::messages;

/// `RTNLGRP_LINK`.
const GROUP: u32 = 1;

/// Listens to interfaces.
#[derive(Debug)]
pub(super) struct Groups {
    events: Events,
}

impl Groups {
    /// Begins to listen in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { events: Events::open(netlink_sys::protocols::NETLINK_ROUTE, &[GROUP])? })
    }

    /// Waits for something to read. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        self.events.ready().await;
    }

    /// Reads all that has come.
    pub(super) fn drain(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let overrun = self.events.drain(|bytes| heard.read(bytes))?;
        heard.overrun = overrun == Overrun::Yes;
        Ok(heard)
    }
}

/// What the kernel told of interfaces.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The groups, by index. The last word counts: what was put right meanwhile is right.
    groups: BTreeMap<u32, u32>,
    /// Some of it was lost.
    overrun: bool,
}

impl Heard {
    fn read(&mut self, datagram: &[u8]) {
        let links = messages(datagram).filter(|(header, _)| header.kind == NEW);
        let links = links.filter_map(|(_, body)| decode(body));
        self.groups.extend(links.map(|link| (link.index, link.group)));
    }

    /// The interfaces that are no longer in the group that they should be in; every one where some of it
    /// was lost.
    pub(super) fn elsewhere(&self, placed: &Placed) -> BTreeSet<InterfaceName> {
        if self.overrun {
            return names(placed);
        }
        let heard = self.groups.iter().filter_map(|(index, group)| {
            placed.get(index).filter(|(_, right)| right != group).map(|(name, _)| name.clone())
        });
        heard.collect()
    }
}

/// All of them.
pub(super) fn names(placed: &Placed) -> BTreeSet<InterfaceName> {
    placed.values().map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::request;
    use proptest::prelude::*;

    fn link(index: u32, group: u32) -> Vec<u8> {
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        request(NEW, 0, &header, &[(3, b"cali1\0"), (27, &group.to_ne_bytes())])
    }

    fn touched(datagram: &[u8]) -> Vec<String> {
        let mut heard = Heard::default();
        heard.read(datagram);
        let placed = Placed::unit(7, ("cali1".parse().unwrap(), 5));
        heard.elsewhere(&placed).into_iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn who_lost_something_looks_at_all() {
        let placed = Placed::unit(7, ("cali1".parse().unwrap(), 5));
        let heard = Heard { overrun: true, ..Heard::default() };
        assert_eq!(heard.elsewhere(&placed).len(), 1);
        assert!(Heard::default().elsewhere(&placed).is_empty());
    }

    #[test]
    fn an_interface_in_another_group_is_noticed() {
        assert_eq!(touched(&link(7, 0)), ["cali1"]);
        assert_eq!(touched(&link(7, 6)), ["cali1"]);
        assert!(touched(&link(7, 5)).is_empty());
        assert!(touched(&link(8, 0)).is_empty(), "nobody keeps it");
        assert!(touched(&[link(7, 0), link(7, 5)].concat()).is_empty(), "it was put right");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = touched(&bytes);
        }
    }
}
