//! Adds up what sets counted. A set that is made again counts from zero, and a member that goes takes
//! its number with it: what was known before stays, so no number gets smaller while the agent runs.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};

use calico_datastore::model::{Cidr, InterfaceName, WorkloadEndpointId};

use super::{Counts, EndpointCounters, Tallies, Traffic};

/// What a set counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// What an endpoint sent, and policy was asked about or needs not be.
    Sent,
    /// What was sent to it.
    Received,
    /// What of the first was denied.
    DeniedFrom,
    /// What of the second was denied.
    DeniedTo,
    /// What of the second its sender was denied to send.
    Unasked,
}

/// What the sets hold: by interface, by set and prefix.
pub(super) type Reading = BTreeMap<InterfaceName, BTreeMap<(What, Cidr), Counts>>;

/// What is known of every endpoint.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: BTreeMap<(WorkloadEndpointId, InterfaceName), Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// What the members counted that there are.
    seen: BTreeMap<(What, Cidr), Counts>,
    /// What members counted that are no more.
    gone: BTreeMap<What, Counts>,
    /// What was told the last time.
    told: EndpointCounters,
}

impl Book {
    /// What was said the last time.
    pub(super) fn told(&self) -> Tallies {
        self.accounts.iter().map(|((id, _), account)| (id.clone(), account.told)).collect()
    }

    /// Takes over what the sets hold now, and says what that makes in all.
    pub(super) fn update(
        &mut self,
        reading: &Reading,
        owners: &BTreeMap<InterfaceName, WorkloadEndpointId>,
    ) -> Tallies {
        let mut old = std::mem::take(&mut self.accounts);
        let nothing = BTreeMap::new();
        let mut tallies = Tallies::new();
        for (interface, id) in owners {
            let key = (id.clone(), interface.clone());
            let mut account = old.remove(&key).unwrap_or_default();
            account.update(reading.get(interface).unwrap_or(&nothing));
            if !account.seen.is_empty() || !account.gone.is_empty() {
                tallies.insert(id.clone(), account.told);
                self.accounts.insert(key, account);
            }
        }
        tallies
    }
}

impl Account {
    fn update(&mut self, now: &BTreeMap<(What, Cidr), Counts>) {
        for (key, before) in std::mem::take(&mut self.seen) {
            match now.get(&key) {
                Some(counts) if counts.packets >= before.packets => {}
                // It was made again, or is no more.
                _ => {
                    let gone = self.gone.entry(key.0).or_default();
                    *gone = *gone + before;
                }
            }
        }
        self.seen.clone_from(now);
        let sum = |what: What| {
            let seen = self.seen.iter().filter(|((of, _), _)| *of == what);
            let gone = self.gone.get(&what).copied().unwrap_or_default();
            seen.fold(gone, |sum, (_, counts)| sum + *counts)
        };
        let traffic = |all: Counts, denied: Counts, told: Traffic| Traffic {
            // The sets are read one after the other, what is denied last.
            allowed: most(all - denied, told.allowed),
            denied: most(denied, told.denied),
        };
        let received = sum(What::Received) - sum(What::Unasked);
        self.told = EndpointCounters {
            ingress: traffic(received, sum(What::DeniedTo), self.told.ingress),
            egress: traffic(sum(What::Sent), sum(What::DeniedFrom), self.told.egress),
        };
    }
}

fn most(a: Counts, b: Counts) -> Counts {
    Counts { packets: a.packets.max(b.packets), bytes: a.bytes.max(b.bytes) }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    /// Never less than nothing.
    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(other.packets),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_datastore::model::Name;

    use super::*;

    fn id(n: u32) -> WorkloadEndpointId {
        WorkloadEndpointId {
            node: Name::from("host"),
            orchestrator: Name::from("cni"),
            workload: Name::from(format!("default/pod{n}")),
            endpoint: Name::from("eth0"),
        }
    }

    /// Owners of `cali1`, `cali2`, …
    fn owners(ids: &[u32]) -> BTreeMap<InterfaceName, WorkloadEndpointId> {
        ids.iter().map(|n| (format!("cali{n}").parse().unwrap(), id(*n))).collect()
    }

    fn reading(all: &[(&str, What, &str, u64)]) -> Reading {
        let mut out = Reading::new();
        for (interface, what, net, packets) in all {
            let counts = Counts { packets: *packets, bytes: packets * 100 };
            let of = out.entry(interface.parse().unwrap()).or_default();
            of.insert((*what, net.parse().unwrap()), counts);
        }
        out
    }

    /// Packets: in allowed, in denied, out allowed, out denied.
    fn packets(tallies: &Tallies, n: u32) -> Option<[u64; 4]> {
        let EndpointCounters { ingress, egress } = tallies.get(&id(n))?;
        let all = [ingress.allowed, ingress.denied, egress.allowed, egress.denied];
        assert!(all.iter().all(|counts| counts.bytes == counts.packets * 100), "{all:?}");
        Some(all.map(|counts| counts.packets))
    }

    use What::{DeniedFrom, DeniedTo, Received, Sent, Unasked};

    #[test]
    fn what_was_allowed_is_what_is_left() {
        let read = reading(&[
            ("cali1", Received, "10.0.0.1/32", 10),
            ("cali1", Received, "fd00::1/128", 5),
            ("cali1", DeniedTo, "10.0.0.1/32", 3),
            ("cali1", Unasked, "fd00::1/128", 2),
            ("cali1", Sent, "10.0.0.1/32", 7),
            ("cali1", Sent, "192.0.2.0/24", 4),
            ("cali1", DeniedFrom, "192.0.2.0/24", 1),
            ("cali2", Received, "10.0.0.2/32", 0),
            ("cali9", Received, "10.0.0.9/32", 9),
        ]);
        let tallies = Book::default().update(&read, &owners(&[1, 2, 3]));
        assert_eq!(packets(&tallies, 1), Some([10, 3, 10, 1]));
        assert_eq!(packets(&tallies, 2), Some([0; 4]));
        assert_eq!(packets(&tallies, 3), None, "it is in no set");
        assert_eq!(tallies.len(), 2, "nobody owns cali9");
    }

    #[test]
    fn no_number_gets_smaller() {
        let mut book = Book::default();
        let mut ask = |all: &[(&str, What, &str, u64)]| {
            packets(&book.update(&reading(all), &owners(&[1])), 1)
        };
        let (sent, denied) = (("cali1", Sent, "10.0.0.1/32"), ("cali1", DeniedFrom, "10.0.0.1/32"));
        let with = |(interface, what, net), packets| (interface, what, net, packets);
        assert_eq!(ask(&[with(sent, 10), with(denied, 4)]), Some([0, 0, 6, 4]));
        // Denied meanwhile, between the reading of one set and of the other.
        assert_eq!(ask(&[with(sent, 10), with(denied, 5)]), Some([0, 0, 6, 5]));
        assert_eq!(ask(&[with(sent, 12), with(denied, 5)]), Some([0, 0, 7, 5]));
        // Both sets are made again.
        assert_eq!(ask(&[with(sent, 2), with(denied, 1)]), Some([0, 0, 8, 6]));
        // An address that goes, and one that comes.
        assert_eq!(ask(&[("cali1", Sent, "10.0.0.9/32", 5)]), Some([0, 0, 13, 6]));
        // For a moment nothing is there.
        assert_eq!(ask(&[]), Some([0, 0, 13, 6]));
        assert_eq!(ask(&[("cali1", Sent, "10.0.0.9/32", 1)]), Some([0, 0, 14, 6]));
    }

    #[test]
    fn another_endpoint_begins_at_nothing() {
        let mut book = Book::default();
        let read = reading(&[("cali1", Sent, "10.0.0.1/32", 10)]);
        assert_eq!(packets(&book.update(&read, &owners(&[1])), 1), Some([0, 0, 10, 0]));
        assert_eq!(book.update(&read, &BTreeMap::new()), Tallies::new());
        let read = reading(&[("cali1", Sent, "10.0.0.1/32", 2)]);
        assert_eq!(packets(&book.update(&read, &owners(&[1])), 1), Some([0, 0, 2, 0]));
        let other = [("cali1".parse().unwrap(), id(7))].into();
        let tallies = book.update(&read, &other);
        assert_eq!(book.told(), tallies);
        assert_eq!((packets(&tallies, 1), packets(&tallies, 7)), (None, Some([0, 0, 2, 0])));
    }
}
