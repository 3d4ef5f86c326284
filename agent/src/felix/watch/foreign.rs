//! That something was written which is not ours: what others keep may let accepted packets pass, or
//! not. Only that it happened; whoever wants to know what has to read.

use std::collections::BTreeSet;

use calico_datastore::model::Family;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::legacy::{Legacy, Why, present};
use super::nft::msg;
use super::socket::{Events, Overrun};
use crate::felix::iptables::names::owns_chain;
use crate::felix::iptables::save::Table;
use crate::felix::nftables::TABLE as OWN_TABLE;
use crate::netlink::{attribute, messages, text};

/// Size of `nfgenmsg`.
const NFGENMSG: usize = 4;
/// `NFTA_TABLE_NAME`, and the same of what lies in a table.
const TABLE: u16 = 1;

/// Listens to nf_tables, and polls legacy tables.
#[derive(Debug)]
pub(crate) struct Foreign {
    events: Option<Events>,
    /// A failure was said.
    deaf: bool,
    legacy: [(Legacy, BTreeSet<Table>); 2],
}

impl Foreign {
    /// Begins to listen in the network namespace of the calling thread.
    pub(crate) fn open() -> Self {
        let legacy = Family::ALL
            .map(|family| (Legacy::of(family, |chain| !owns_chain(chain)), BTreeSet::new()));
        let mut foreign = Self { events: None, deaf: false, legacy };
        foreign.listen();
        foreign
    }

    fn listen(&mut self) {
        match Events::open(netlink_sys::protocols::NETLINK_NETFILTER, &[super::nft::GROUP]) {
            Ok(events) => (self.events, self.deaf) = (Some(events), false),
            Err(error) if !self.deaf => {
                warn!(%error, "cannot hear what others do in nf_tables; trying again");
                self.deaf = true;
            }
            Err(_) => {}
        }
    }

    /// Waits for something to hear. Cancel-safe.
    pub(crate) async fn ready(&mut self) {
        match &mut self.events {
            Some(events) => events.ready().await,
            None => std::future::pending().await,
        }
    }

    /// True when somebody wrote what may concern accepted packets, since the last call.
    pub(crate) fn hear(&mut self) -> bool {
        let Some(events) = &mut self.events else { return false };
        let mut heard = false;
        match events.drain(|bytes| heard |= concerns(bytes)) {
            Ok(overrun) => heard || overrun == Overrun::Yes,
            Err(error) => {
                debug!(%error, "the socket for nf_tables broke");
                self.events = None;
                true
            }
        }
    }

    /// The same for legacy tables. A socket that broke is opened again.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        let mut changed = false;
        if self.events.is_none() {
            self.listen();
            // What happened in between is not known.
            changed = self.events.is_some();
        }
        for (family, (legacy, seen)) in Family::ALL.into_iter().zip(&mut self.legacy) {
            let tables = present(family).unwrap_or_default();
            changed |= tables != *seen;
            *seen = tables;
            changed |= legacy.poll(now, Why::Clock, &BTreeSet::new());
        }
        changed
    }
}

/// True when a datagram tells of a table, a chain, a rule or an element that is not ours, in a table
/// that may drop.
fn concerns(datagram: &[u8]) -> bool {
    messages(datagram).any(|(header, body)| {
        let Some(rest) = body.get(NFGENMSG..) else { return false };
        let name = |kind| attribute(rest, kind).and_then(text);
        let chain = match header.kind {
            msg::NEW_TABLE | msg::DEL_TABLE | msg::NEW_ELEMENT | msg::DEL_ELEMENT => None,
            msg::NEW_CHAIN | msg::DEL_CHAIN => name(super::nft::CHAIN_NAME),
            msg::NEW_RULE | msg::DEL_RULE => name(super::nft::RULE_CHAIN),
            _ => return false,
        };
        let table = name(TABLE).unwrap_or_default();
        // `nat` of iptables drops nothing, and Docker writes it for each container.
        let iptables = matches!(body.first(), Some(2 | 10));
        table != OWN_TABLE && !(iptables && table == "nat") && !chain.is_some_and(owns_chain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::request;

    #[test]
    fn what_is_ours_and_what_translates_wakes_nobody() {
        const INET: [u8; 4] = [1, 0, 0, 0];
        const IPV4: [u8; 4] = [2, 0, 0, 0];
        let rule = |family: [u8; 4], table: &[u8], chain: &[u8]| {
            concerns(&request(msg::NEW_RULE, 0, &family, &[(TABLE, table), (2, chain)]))
        };
        assert!(rule(INET, b"firewalld\0", b"filter_FORWARD\0"));
        assert!(rule(IPV4, b"filter\0", b"FORWARD\0"));
        assert!(rule(INET, b"nat\0", b"forward\0"));
        assert!(!rule(IPV4, b"filter\0", b"cali-FORWARD\0"));
        assert!(!rule(IPV4, b"nat\0", b"DOCKER\0"));
        assert!(!rule(INET, b"calico\0", b"filter-forward\0"));
        let element = |table: &[u8]| {
            concerns(&request(msg::NEW_ELEMENT, 0, &INET, &[(TABLE, table), (2, b"pods\0")]))
        };
        assert!(element(b"mine\0") && !element(b"calico\0"));
        assert!(!concerns(&request(msg::NEW_GENERATION, 0, &[0; 4], &[])));
        assert!(!concerns(b"nonsense"));
    }
}
