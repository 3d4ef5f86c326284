//! Kernel parameters that somebody else sets. For some of them (forwarding, `rp_filter`,
//! `proxy_arp`, `proxy_ndp`) the kernel tells (`RTNLGRP_IPV4_NETCONF`, `RTNLGRP_IPV6_NETCONF`); the
//! others are read in turn, a bounded number each second.
//!
//! What is read is compared with what should be, so own writes touch nothing.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use netlink_sys::protocols::NETLINK_ROUTE;
use tracing::debug;

use super::changes::{Kept, Touched};
use super::socket::{Events, Overrun};
use crate::felix::sysctl::{Sysctls, Which};
use crate::netlink::{attribute, messages, u32_at};

/// `RTM_NEWNETCONF` (linux/rtnetlink.h).
const NEW: u16 = 80;
/// `RTNLGRP_IPV4_NETCONF`, `RTNLGRP_IPV6_NETCONF`.
const GROUPS: [u32; 2] = [24, 25];
/// `NETCONFA_IFINDEX`.
const INDEX: u16 = 1;
/// `struct netconfmsg`, padded.
const NETCONFMSG: usize = 4;
/// How many interfaces are read in one round, beside those that the kernel tells of. A round is a
/// second: up to twice as many interfaces are read within two. Opening a file is what costs: of 500 pods
/// that are read as a whole, 32 a second took a quarter of a percent of a core.
const ROUND: usize = 16;
/// How many of those that the kernel told of are read at once: some milliseconds. A start tells of all.
/// The others have their turn soon ([`Parameters::has_more`]).
const LOOK: usize = 128;

/// The indexes that a datagram is about. `NETCONFA_IFINDEX_ALL` (-1) and `_DEFAULT` (-2) are
/// among them.
fn told(datagram: &[u8]) -> impl Iterator<Item = u32> {
    messages(datagram)
        .filter(|(header, _)| header.kind == NEW)
        .filter_map(|(_, body)| u32_at(attribute(body.get(NETCONFMSG..)?, INDEX)?, 0))
}

/// Looks at parameters.
#[derive(Debug)]
pub(super) struct Parameters {
    sysctls: Sysctls,
    events: Option<Events>,
    /// The kernel told of these since the last look.
    told: BTreeSet<u32>,
    /// The last of those that was looked at: whoever sets the same ones again and again keeps no others
    /// waiting.
    looked_at: u32,
    /// The last interface that was read in turn.
    last: u32,
    /// Something that the kernel told was missed, since the last look.
    overrun: bool,
    /// So many interfaces of the next rounds are read as a whole, for that.
    missed: usize,
}

impl Parameters {
    /// Begins to listen in the network namespace of the calling thread.
    pub(super) fn open(sysctls: Sysctls) -> Self {
        let events = Events::open(NETLINK_ROUTE, &GROUPS);
        let events = events.inspect_err(|error| {
            // Reading in turn finds the same, later.
            debug!(%error, "the kernel does not tell of changed parameters");
        });
        Self {
            sysctls,
            events: events.ok(),
            told: BTreeSet::new(),
            looked_at: 0,
            last: 0,
            overrun: false,
            missed: 0,
        }
    }

    /// Waits for something to read. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        match &mut self.events {
            Some(events) => events.ready().await,
            None => std::future::pending().await,
        }
    }

    /// Hears what the kernel tells, and keeps it for the next look.
    pub(super) fn drain(&mut self) {
        if let Some(events) = &mut self.events {
            match events.drain(|bytes| self.told.extend(told(bytes))) {
                Ok(Overrun::No) => {}
                Ok(Overrun::Yes) => {
                    debug!("the kernel dropped events of parameters");
                    self.overrun = true;
                }
                Err(error) => {
                    debug!(%error, "the socket for parameters broke");
                    self.events = None;
                }
            }
        }
    }

    /// Looks at what the kernel told of. What is not kept is nobody's: so `kept` is of the time when the reconciler
    /// was not at work and all was heard that is looked at, or what somebody set behind it would be lost.
    pub(super) fn look_at_told(&mut self, kept: &Kept) -> Touched {
        if std::mem::take(&mut self.overrun) {
            self.missed = kept.interfaces.len();
        }
        let after = self.told.range((Excluded(self.looked_at), Unbounded));
        let before = self.told.range(..=self.looked_at);
        let now: Vec<u32> = after.chain(before).copied().take(LOOK).collect();
        let Some(last) = now.last() else { return Touched::default() };
        self.looked_at = *last;
        for index in &now {
            self.told.remove(index);
        }
        self.look(now.into_iter(), Which::All, kept)
    }

    /// True when the kernel told of more than one look takes.
    pub(super) fn has_more(&self) -> bool {
        !self.told.is_empty()
    }

    /// Looks at the next interfaces in turn.
    pub(super) fn round(&mut self, kept: &Kept) -> Touched {
        let after = kept.interfaces.range(self.last.saturating_add(1)..).map(|(index, _)| *index);
        let before = kept.interfaces.range(..=self.last).map(|(index, _)| *index);
        let next: Vec<u32> = after.chain(before).take(ROUND).collect();
        self.last = next.last().copied().unwrap_or(0);
        let is_told = self.events.is_some() && self.missed == 0;
        self.missed = self.missed.saturating_sub(next.len());
        self.look(next.into_iter(), if is_told { Which::Silent } else { Which::All }, kept)
    }

    fn look(&self, indexes: impl Iterator<Item = u32>, which: Which, kept: &Kept) -> Touched {
        let mut touched = Touched::default();
        for name in indexes.filter_map(|index| kept.interfaces.get(&index)) {
            let lenient = kept.lenient.contains(name);
            if self.sysctls.interface_differs(name, &kept.families, lenient, which) {
                touched.sysctls.insert(name.clone());
            }
        }
        touched.forwarding = kept.forwarding && self.sysctls.forwarding_differs(&kept.families);
        touched
    }

    /// As when the kernel told of these, and tells of nothing else from now on.
    #[cfg(test)]
    pub(super) fn hear_only(&mut self, told: impl Iterator<Item = u32>) {
        self.events = None;
        self.told.extend(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::counters::Counters;
    use crate::netlink::request;
    use calico_datastore::model::{Family, InterfaceName};

    #[test]
    fn the_kernel_tells_by_index() {
        let all = [7_u32, u32::MAX].map(|index| {
            request(NEW, 0, &[2, 0, 0, 0], &[(INDEX, &index.to_ne_bytes()), (3, &[0; 4])])
        });
        assert_eq!(told(&all.concat()).collect::<Vec<_>>(), [7, u32::MAX]);
        assert_eq!(told(&request(16, 0, &[2, 0, 0, 0], &[(INDEX, &[7, 0, 0, 0])])).count(), 0);
        assert_eq!(told(&[255; 64]).count(), 0);
    }

    #[tokio::test]
    async fn what_the_kernel_told_is_looked_at_once_and_not_all_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::new(root.path().to_owned(), Counters::default());
        let mut parameters = Parameters::open(sysctls);
        let last = u32::try_from(2 * LOOK).unwrap();
        let name: InterfaceName = "cali1".parse().unwrap();
        let folder = root.path().join("net/ipv4/conf/cali1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("rp_filter"), "2\n").unwrap();
        let interfaces = [(last, name.clone())].into_iter().collect();
        let kept = Kept { interfaces, families: vec![Family::V4], ..Kept::default() };
        parameters.told = (1..=last).collect();
        parameters.overrun = true;
        let mut looks = || [(); 3].map(|()| parameters.look_at_told(&kept).sysctls.contains(&name));
        assert_eq!(looks(), [false, true, false]);
        assert_eq!((parameters.told.len(), parameters.missed), (0, 1));
        // Who sets many again before each look, as our own repairs do, keeps no others waiting.
        let many = 1..=u32::try_from(LOOK).unwrap();
        parameters.told = (1..=last).chain([u32::MAX]).collect();
        let mut looks = || {
            [(); 4].map(|()| {
                let found = parameters.look_at_told(&kept).sysctls.contains(&name);
                parameters.told.extend(many.clone());
                found
            })
        };
        // u32::MAX and 1..127, 128..255, 256 and so on.
        assert_eq!(looks(), [false, false, true, false]);
        assert!(!parameters.told.contains(&u32::MAX));
    }

    #[tokio::test]
    async fn every_interface_has_its_turn() {
        let root = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::new(root.path().to_owned(), Counters::default());
        let mut parameters = Parameters::open(sysctls);
        let name = |index: u32| format!("cali{index}").parse().unwrap();
        let interfaces = (1..=50).map(|index| (index, name(index))).collect();
        let kept = Kept { interfaces, families: vec![Family::V4], ..Kept::default() };
        let folder = root.path().join("net/ipv4/conf/cali37");
        std::fs::create_dir_all(&folder).unwrap();
        let mut rounds = || [(); 8].map(|()| parameters.round(&kept).sysctls.contains(&name(37)));
        // 1..16, 17..32, 33..48, 49..14 and so on.
        let turns = [false, false, true, false, false, true, false, false];
        std::fs::write(folder.join("route_localnet"), "0\n").unwrap();
        assert_eq!(rounds(), turns);
        std::fs::write(folder.join("route_localnet"), "1\n").unwrap();
        assert_eq!(rounds(), [false; 8]);

        // Of this one the kernel would tell; where it cannot, or was not heard, all are read.
        std::fs::write(folder.join("proxy_arp"), "0\n").unwrap();
        assert_eq!(rounds(), [false; 8]);
        parameters.missed = 50;
        let found = [(); 8].map(|()| parameters.round(&kept).sysctls.contains(&name(37)));
        assert!(found[..4].contains(&true) && !found[4..].contains(&true), "{found:?}");
        parameters.events = None;
        let found = [(); 8].map(|()| parameters.round(&kept).sysctls.contains(&name(37)));
        assert!(found.iter().filter(|found| **found).count() >= 2, "{found:?}");
    }
}
