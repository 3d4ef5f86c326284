//! What others do to nf_tables: the kernel tells every transaction (`NFNLGRP_NFTABLES`), first
//! what it changed and then, with its generation, who made it.
//!
//! Transactions of our own programs and sockets wake nobody, and neither do those that touch neither
//! our own table nor, in the tables of iptables, a chain of ours or of the kernel's: kube-proxy may
//! write its own chains there all day.

use std::collections::BTreeSet;

use calico_datastore::model::Family;

use super::changes::{Changes, Touched};
use super::socket::{Events, Overrun};
use crate::exec::Children;
use crate::felix::iptables::names::owns_chain;
use crate::felix::iptables::save::Table;
use crate::felix::nftables::TABLE as OURS;
use crate::netlink::{attribute, be32, messages, text};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte of a message's type.
const SUBSYS: u16 = 10 << 8;
/// `NFNLGRP_NFTABLES`.
pub(super) const GROUP: u32 = 7;
/// Size of `nfgenmsg`.
const NFGENMSG: usize = 4;
/// `NFPROTO_INET`.
const INET: u8 = 1;

/// `NFT_MSG_…` (linux/netfilter/nf_tables.h).
pub(super) mod msg {
    pub(in crate::felix::watch) const NEW_TABLE: u16 = super::SUBSYS;
    pub(in crate::felix::watch) const DEL_TABLE: u16 = super::SUBSYS | 2;
    pub(in crate::felix::watch) const NEW_CHAIN: u16 = super::SUBSYS | 3;
    pub(in crate::felix::watch) const DEL_CHAIN: u16 = super::SUBSYS | 5;
    pub(in crate::felix::watch) const NEW_RULE: u16 = super::SUBSYS | 6;
    pub(in crate::felix::watch) const DEL_RULE: u16 = super::SUBSYS | 8;
    pub(in crate::felix::watch) const NEW_SET: u16 = super::SUBSYS | 9;
    /// `NFT_MSG_NEWSETELEM`.
    pub(in crate::felix::watch) const NEW_ELEMENT: u16 = super::SUBSYS | 12;
    /// `NFT_MSG_DELSETELEM`.
    pub(in crate::felix::watch) const DEL_ELEMENT: u16 = super::SUBSYS | 14;
    pub(in crate::felix::watch) const NEW_GENERATION: u16 = super::SUBSYS | 15;
    pub(in crate::felix::watch) const DEL_FLOWTABLE: u16 = super::SUBSYS | 24;
}

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`…: the same in all.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
pub(super) const CHAIN_NAME: u16 = 3;
/// `NFTA_RULE_CHAIN`.
pub(super) const RULE_CHAIN: u16 = 2;
/// `NFTA_GEN_PROC_PID`, in the first pid namespace.
const GEN_PID: u16 = 2;
/// `NFTA_GEN_PROC_NAME`.
const GEN_NAME: u16 = 3;

/// True for chains whose rules are ours, or may be: our own, and the kernel's hooks.
pub(super) fn concerns(chain: &str) -> bool {
    matches!(chain, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
        || owns_chain(chain)
}

/// Who made a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Author {
    /// Its process; 0 when the kernel does not tell.
    pub(super) pid: u32,
    /// The port of its socket: mostly its process as its own pid namespace knows it.
    pub(super) port: u32,
    name: String,
}

impl Author {
    fn describe(&self) -> Option<String> {
        (self.pid != 0).then(|| format!("{} (process {})", self.name, self.pid))
    }
}

/// Collects what the transactions touched.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Of the transaction whose author is not known yet.
    families: BTreeSet<Family>,
    /// It touched our own table.
    table: bool,
    /// It deleted chains of ours in tables of iptables, or such a table.
    torn: bool,
}

impl Decoder {
    /// Reads a datagram; adds what others touched to `touched`.
    pub(super) fn read(
        &mut self,
        datagram: &[u8],
        own: impl Fn(&Author) -> bool,
        touched: &mut Touched,
    ) {
        for (header, body) in messages(datagram) {
            let (Some(family), Some(rest)) = (body.first(), body.get(NFGENMSG..)) else { continue };
            let name = |kind| attribute(rest, kind).and_then(text);
            let concerned = match header.kind {
                msg::NEW_TABLE | msg::DEL_TABLE => true,
                msg::NEW_CHAIN | msg::DEL_CHAIN => name(CHAIN_NAME).is_none_or(concerns),
                msg::NEW_RULE | msg::DEL_RULE => name(RULE_CHAIN).is_none_or(concerns),
                msg::NEW_GENERATION => {
                    let author = Author {
                        pid: attribute(rest, GEN_PID).and_then(be32).unwrap_or(0),
                        port: header.port,
                        name: name(GEN_NAME).unwrap_or("somebody").to_owned(),
                    };
                    let Self { families: tables, table, torn } = std::mem::take(self);
                    if (table || !tables.is_empty()) && !own(&author) {
                        let by = author.describe();
                        touched.merge(Touched { tables, table, torn, by, ..Touched::default() });
                    }
                    continue;
                }
                msg::NEW_SET..=msg::DEL_FLOWTABLE => false,
                _ => continue,
            };
            if *family == INET {
                self.table |= name(TABLE) == Some(OURS);
                continue;
            }
            // NFPROTO_IPV4 and NFPROTO_IPV6; `bridge` holds nothing of iptables.
            let family = match family {
                2 => Family::V4,
                10 => Family::V6,
                _ => continue,
            };
            let ours = |table: &str| Table::ALL.iter().any(|one| one.name() == table);
            if concerned && name(TABLE).is_some_and(ours) {
                self.families.insert(family);
                self.torn |= match header.kind {
                    msg::DEL_TABLE => true,
                    msg::DEL_CHAIN => name(CHAIN_NAME).is_some_and(owns_chain),
                    _ => false,
                };
            }
        }
    }
}

/// Listens to transactions.
#[derive(Debug)]
pub(super) struct Nft {
    events: Events,
    decoder: Decoder,
    children: Children,
    changes: Changes,
    /// We are in the first pid namespace, whose numbers the kernel tells.
    first_pids: bool,
}

impl Nft {
    /// Begins to listen in the network namespace of the calling thread.
    pub(super) fn open(children: Children, changes: Changes) -> std::io::Result<Self> {
        let events = Events::open(netlink_sys::protocols::NETLINK_NETFILTER, &[GROUP])?;
        let decoder = Decoder::default();
        Ok(Self { events, decoder, children, changes, first_pids: first_pids() })
    }

    /// Waits for something to read. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        self.events.ready().await;
    }

    /// Reads all that has come. An overrun touches everything.
    pub(super) fn drain(&mut self) -> std::io::Result<Touched> {
        // What has ended by now has told everything, and it is in the queue: its number may be
        // somebody else's from then on.
        let ended = self.children.ended();
        let mut touched = Touched::default();
        let (decoder, children, first) = (&mut self.decoder, &self.children, self.first_pids);
        let changes = &self.changes;
        let own = |author: &Author| {
            let number = if first && author.pid != 0 { author.pid } else { author.port };
            changes.is_ours(author.port) || children.contains(number)
        };
        let overrun = self.events.drain(|bytes| decoder.read(bytes, own, &mut touched))?;
        self.children.forget(&ended);
        if overrun == Overrun::Yes {
            self.decoder = Decoder::default();
            touched.tables.extend(Family::ALL);
            touched.table = true;
        }
        Ok(touched)
    }
}

/// True in the first pid namespace (`PROC_PID_INIT_INO`).
fn first_pids() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::request;
    use proptest::prelude::*;

    const IPV4: [u8; 4] = [2, 0, 0, 0];
    const IPV6: [u8; 4] = [10, 0, 0, 0];
    const INET4: [u8; 4] = [1, 0, 0, 0];

    fn rule(family: [u8; 4], table: &[u8], chain: &[u8]) -> Vec<u8> {
        request(msg::NEW_RULE, 0, &family, &[(TABLE, table), (RULE_CHAIN, chain)])
    }

    fn generation(pid: u32) -> Vec<u8> {
        let pid = pid.to_be_bytes();
        let all: [(u16, &[u8]); 3] = [(1, &[0, 0, 0, 4]), (GEN_PID, &pid), (GEN_NAME, b"nft\0")];
        request(msg::NEW_GENERATION, 0, &[0; 4], &all)
    }

    /// What a transaction of process 7 touches; 9 is our own.
    fn read(messages: &[Vec<u8>]) -> Touched {
        let (mut decoder, mut touched) = (Decoder::default(), Touched::default());
        for message in messages {
            decoder.read(message, |author| author.pid == 9, &mut touched);
        }
        touched
    }

    #[test]
    fn a_foreign_transaction_on_our_chains_names_its_author() {
        let touched = read(&[rule(IPV4, b"filter\0", b"cali-FORWARD\0"), generation(7)]);
        assert_eq!(touched.tables, BTreeSet::from([Family::V4]));
        assert_eq!(touched.by.as_deref(), Some("nft (process 7)"));
        assert!(!touched.torn);
        let table = request(msg::DEL_TABLE, 0, &IPV6, &[(TABLE, b"raw\0")]);
        let touched = read(&[[table, generation(7)].concat()]);
        assert_eq!(touched.tables, BTreeSet::from([Family::V6]));
        assert!(touched.torn);
        for (chain, torn) in [(&b"cali-FORWARD\0"[..], true), (b"FORWARD\0", false)] {
            let names = [(TABLE, &b"filter\0"[..]), (CHAIN_NAME, chain)];
            let gone = request(msg::DEL_CHAIN, 0, &IPV4, &names);
            assert_eq!(read(&[gone, generation(7)]).torn, torn);
        }
        let jump = rule(IPV4, b"nat\0", b"POSTROUTING\0");
        assert!(!read(&[jump, generation(7)]).is_empty());
    }

    #[test]
    fn whatever_happens_to_our_own_table_concerns_us() {
        let element =
            |family: [u8; 4], table: &[u8]| request(SUBSYS | 14, 0, &family, &[(TABLE, table)]);
        for one in [
            request(msg::DEL_TABLE, 0, &INET4, &[(TABLE, b"calico\0")]),
            rule(INET4, b"calico\0", b"forward\0"),
            request(msg::NEW_SET, 0, &INET4, &[(TABLE, b"calico\0")]),
            element(INET4, b"calico\0"),
        ] {
            let touched = read(&[one.clone(), generation(7)]);
            assert!(touched.table && touched.tables.is_empty());
            assert_eq!(touched.by.as_deref(), Some("nft (process 7)"));
            assert!(read(&[one, generation(9)]).is_empty(), "our own work");
        }
        assert!(read(&[element(INET4, b"firewalld\0"), generation(7)]).is_empty());
        assert!(read(&[element(IPV4, b"calico\0"), generation(7)]).is_empty());
    }

    #[test]
    fn what_does_not_concern_us_wakes_nobody() {
        let ours = rule(IPV4, b"filter\0", b"cali-FORWARD\0");
        assert!(read(&[ours.clone(), generation(9)]).is_empty());
        // Not before it is known whose it is.
        assert!(read(std::slice::from_ref(&ours)).is_empty());
        for (family, table, chain) in [
            (IPV4, &b"filter\0"[..], &b"KUBE-SERVICES\0"[..]),
            (IPV4, b"foreign\0", b"FORWARD\0"),
            (INET4, b"filter\0", b"FORWARD\0"),
        ] {
            assert!(read(&[rule(family, table, chain), generation(7)]).is_empty());
        }
        // A transaction of ours does not leave anything behind for the next.
        let foreign = rule(IPV4, b"filter\0", b"DOCKER\0");
        assert!(read(&[ours, generation(9), foreign, generation(7)]).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut touched = Touched::default();
            Decoder::default().read(&bytes, |_| false, &mut touched);
        }
    }
}
