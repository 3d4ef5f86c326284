//! The MTU of pods: what the CNI plugin gives an interface when the network's conf names none.
//!
//! It is the lowest MTU among the interfaces by which other hosts are reached (`MTUIfacePattern`,
//! else those with default routes), less what the overlays of pools add to a packet. This agent
//! programs no overlays yet, but the packets of such a pool are wrapped by other hosts, and by a
//! later agent on this one: a pod keeps for life the MTU that it started with.
//!
//! The choice here is pure; [`task`] keeps the file `mtu` in the state directory, where the
//! original has it and in its form: decimal digits and nothing else.

pub mod task;

use std::collections::BTreeSet;

use calico_datastore::model::{Cidr, Family, InterfaceName};
use imbl::OrdMap;

use crate::config::Settings;
use crate::desired::Overlay;
use crate::routes::monitor::{Link, Links};

/// The least with which IPv4 works; less is no MTU.
const LEAST: u32 = 68;
/// The longest packet of IPv4, and the most that a pod's interface takes.
const MOST: u32 = 65535;

/// The host's interface that bounds the MTU of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowest {
    /// Its name; of several the first.
    pub interface: InterfaceName,
    /// Its MTU in bytes, above zero.
    pub mtu: u32,
}

/// The narrowest interface that the pattern of the settings matches. `None`: it matches none.
pub fn matching(links: &Links, settings: &Settings) -> Option<Narrowest> {
    let pattern = settings.mtu_interfaces.as_ref()?;
    narrowest(links, settings, |name, _| pattern.matches(name.as_str()))
}

/// The narrowest of the interfaces with these indexes.
pub fn among(links: &Links, settings: &Settings, indexes: &BTreeSet<u32>) -> Option<Narrowest> {
    narrowest(links, settings, |_, link| indexes.contains(&link.index))
}

/// Whether an interface is down does not count: it may come up, and pods keep their MTU.
fn narrowest(
    links: &Links,
    settings: &Settings,
    keep: impl Fn(&InterfaceName, &Link) -> bool,
) -> Option<Narrowest> {
    links
        .iter()
        .filter(|(name, link)| link.mtu > 0 && !is_pods(name, settings) && keep(name, link))
        .min_by_key(|(_, link)| link.mtu)
        .map(|(name, link)| Narrowest { interface: name.clone(), mtu: link.mtu })
}

/// An interface of a pod follows from the choice. If it counted, by a pattern that matches all, the
/// MTU would sink with each pod.
fn is_pods(name: &InterfaceName, settings: &Settings) -> bool {
    settings.interface_prefixes.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()))
}

/// The MTU of pods where that of the host is `host`, bytes. `None`: nothing is left of it.
pub fn for_pods(host: u32, overlays: &OrdMap<Cidr, Overlay>) -> Option<u32> {
    let overhead = overlays.iter().map(|(pool, overlay)| overhead(pool.family(), *overlay)).max();
    let mtu = host.checked_sub(overhead.unwrap_or(0))?.min(MOST);
    (mtu >= LEAST).then_some(mtu)
}

/// What an overlay puts before a packet, bytes.
fn overhead(family: Family, overlay: Overlay) -> u32 {
    match (overlay, family) {
        // An IPv4 header.
        (Overlay::IpInIp, _) => 20,
        // IP (20 or 40), UDP (8) and VXLAN (8) headers, and the Ethernet header (14) of the packet.
        (Overlay::Vxlan, Family::V4) => 50,
        (Overlay::Vxlan, Family::V6) => 70,
    }
}

#[cfg(test)]
mod tests {
    use super::Overlay::{IpInIp, Vxlan};
    use super::*;

    fn links(all: &[(&str, u32)]) -> Links {
        let link = |(index, (name, mtu)): (usize, &(&str, u32))| {
            let index = u32::try_from(index).unwrap() + 1;
            (
                name.parse().unwrap(),
                Link { index, up: index % 2 == 0, mac: None, mtu: *mtu, ..Link::default() },
            )
        };
        all.iter().enumerate().map(link).collect()
    }

    fn settings(pattern: &str) -> Settings {
        let mtu_interfaces = Some(pattern.parse().unwrap());
        Settings { mtu_interfaces, ..Settings::default() }
    }

    fn found(narrowest: Option<Narrowest>) -> Option<(String, u32)> {
        narrowest.map(|found| (found.interface.to_string(), found.mtu))
    }

    #[test]
    fn the_narrowest_match_bounds_it_up_or_down() {
        let host = [("lo", 65536), ("eth0", 9000), ("eth1", 1400), ("eth2", 1400), ("tunl0", 1300)];
        for (all, pattern, expected) in [
            (&host[..], None, Some(("eth1", 1400))),
            (&host[..2], None, Some(("eth0", 9000))),
            (&host[..1], None, None),
            (&[], None, None),
            (&[("eth0", 0)], None, None),
            (&[("eth0", 0), ("eth1", 1500)], None, Some(("eth1", 1500))),
            (&host, Some("^lo$"), Some(("lo", 65536))),
            (&host, Some("^eth0$|^tun"), Some(("tunl0", 1300))),
            (&host, Some("bond"), None),
            // Everything but what follows from it.
            (&[("eth0", 1500), ("cali1", 1450)], Some(""), Some(("eth0", 1500))),
            (&[("cali1", 1450)], Some("cali"), None),
        ] {
            let settings = pattern.map_or_else(Settings::default, settings);
            let found = found(matching(&links(all), &settings));
            let expected = expected.map(|(name, mtu)| (name.to_owned(), mtu));
            assert_eq!(found, expected, "{all:?} {pattern:?}");
        }
        let none = Settings { mtu_interfaces: None, ..Settings::default() };
        assert_eq!(matching(&links(&host), &none), None);
    }

    #[test]
    fn of_those_with_default_routes_the_narrowest_counts() {
        let links = links(&[("bond0", 9000), ("ppp0", 1492), ("ppp1", 1480), ("cali1", 1400)]);
        for (indexes, expected) in [
            (&[1][..], Some(("bond0", 9000))),
            (&[1, 2], Some(("ppp0", 1492))),
            (&[2, 4], Some(("ppp0", 1492))),
            (&[9], None),
            (&[], None),
        ] {
            let indexes = indexes.iter().copied().collect();
            let found = found(among(&links, &Settings::default(), &indexes));
            assert_eq!(found, expected.map(|(name, mtu)| (name.to_owned(), mtu)), "{indexes:?}");
        }
    }

    #[test]
    fn the_widest_overlay_is_left_room_for() {
        let (v4, other, v6) = ("10.0.0.0/16", "10.1.0.0/16", "fd00::/64");
        for (host, pools, expected) in [
            (1500, &[][..], Some(1500)),
            (1400, &[(v4, IpInIp)], Some(1380)),
            (1500, &[(v4, Vxlan)], Some(1450)),
            (1500, &[(v6, Vxlan)], Some(1430)),
            (1500, &[(v4, IpInIp), (other, Vxlan)], Some(1450)),
            (1500, &[(v4, Vxlan), (other, IpInIp), (v6, Vxlan)], Some(1430)),
            (65536, &[], Some(65535)),
            (65536, &[(v4, IpInIp)], Some(65516)),
            (68, &[], Some(68)),
            (67, &[], None),
            (88, &[(v4, IpInIp)], Some(68)),
            (87, &[(v4, IpInIp)], None),
            (40, &[(v4, Vxlan)], None),
        ] {
            let overlays = pools.iter().map(|(pool, kind)| (pool.parse::<Cidr>().unwrap(), *kind));
            assert_eq!(for_pods(host, &overlays.collect()), expected, "{host} {pools:?}");
        }
    }
}
