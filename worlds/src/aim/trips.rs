//! Packets on their way through a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::Family;
use calico_reference::{Failsafe, Host, Known, Packet, Passage, Place};

use super::Aim;
use crate::chance::Chance;
use crate::trip::Trip;

/// From where to where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Host,
    Outside,
    Pod,
}

use End::{Outside, Pod};

/// What is asked, as often as it is here.
const WAYS: [(End, End); 20] = [
    (Outside, End::Host),
    (Outside, End::Host),
    (Outside, End::Host),
    (Outside, End::Host),
    (Outside, End::Host),
    (End::Host, Outside),
    (End::Host, Outside),
    (End::Host, Outside),
    (End::Host, Outside),
    (Outside, Outside),
    (Outside, Outside),
    (Outside, Outside),
    (Outside, Pod),
    (Outside, Pod),
    (Outside, Pod),
    (Pod, Outside),
    (Pod, Outside),
    (Pod, Outside),
    (Pod, End::Host),
    (End::Host, Pod),
];

impl Aim {
    pub(crate) fn trips(&self, host: &Host, c: &mut Chance, count: usize) -> Vec<Trip> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(self.trip(host, c));
        }
        all
    }

    fn trip(&self, host: &Host, c: &mut Chance) -> Option<Trip> {
        let (from, to) = *c.one(&WAYS);
        let pods: Vec<_> = self.workloads.iter().filter(|(id, _)| id.node == host.node).collect();
        if pods.is_empty() && (from == Pod || to == Pod) {
            return None;
        }
        let (id, pod) = match pods[..] {
            [] => (None, None),
            _ => {
                let (id, pod) = c.one(&pods);
                (Some(id), Some(pod))
            }
        };
        let family = match (from, to, pod) {
            (Pod, _, Some(pod)) | (_, Pod, Some(pod)) => {
                Family::of(c.one(&pod.addresses).address())
            }
            _ => *c.one(&Family::ALL),
        };
        // It leaves by another interface than it comes in by.
        let mut interfaces = host.interfaces.iter().collect::<Vec<_>>();
        if c.percent(50) {
            interfaces.reverse();
        }
        let mut interfaces = interfaces.into_iter();
        let mut end = |end: End, c: &mut Chance| -> Option<(Place, IpAddr)> {
            Some(match end {
                End::Host => {
                    let all = host.interfaces.iter().flat_map(|one| &one.addresses);
                    let all: Vec<_> = all.filter(|ip| Family::of(**ip) == family).collect();
                    (Place::Local, **c.one(&all))
                }
                Outside => {
                    let address = self.address(c, Some(family));
                    let of_host =
                        |one: &&calico_reference::Interface| one.addresses.contains(&address);
                    if host.interfaces.iter().any(|one| of_host(&one)) {
                        return None;
                    }
                    (Place::Interface(interfaces.next()?.name.clone()), address)
                }
                Pod => {
                    let all = pod?.addresses.iter().map(calico_datastore::model::Cidr::address);
                    let all: Vec<_> = all.filter(|ip| Family::of(*ip) == family).collect();
                    (Place::Workload(id?.clone()), *c.one(&all))
                }
            })
        };
        let (from, source) = end(from, c)?;
        let (to, destination) = end(to, c)?;
        let mut packet = self.between(c, source, destination);
        if c.percent(15) {
            near_failsafe(&mut packet, host, &from, &to, c);
        }
        let known = match c.below(20) {
            0..=13 => Known::New,
            14..=17 => Known::Answered,
            _ => Known::Nothing,
        };
        let mut translated = None;
        // What the host sends to its own pods it does not send through an interface of its own.
        let within = matches!((&from, &to), (Place::Local, Place::Workload(_)));
        if known == Known::New && !within && c.percent(12) {
            translated = Some(packet.destination);
            packet.destination = before_translation(packet.destination);
        }
        Some(Trip(Passage { from, to, known, packet, translated }))
    }
}

/// The address of nobody that is translated to this one.
fn before_translation(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let [.., c, d] = ip.octets();
            Ipv4Addr::new(100, 64, c, d).into()
        }
        IpAddr::V6(ip) => {
            let [a, b, .., c, d] = ip.segments();
            Ipv6Addr::new(0x2001, 0xdb8, 0x7777, a, b, 0, c, d).into()
        }
    }
}

/// Gives a packet the port of a fail-safe one, at either end, and mostly its peer.
fn near_failsafe(packet: &mut Packet, host: &Host, from: &Place, to: &Place, c: &mut Chance) {
    let all: Vec<&Failsafe> = host.failsafe_in.iter().chain(&host.failsafe_out).collect();
    if all.is_empty() {
        return;
    }
    let one = c.one(&all);
    packet.protocol = one.protocol.number();
    packet.icmp = None;
    let other = *c.one(&super::PORTS);
    packet.ports = Some(if c.percent(70) { (other, one.port) } else { (one.port, other) });
    let family = Family::of(packet.source);
    let peer = one.net.filter(|net| net.family() == family && c.percent(70));
    match (peer.and_then(|net| net.nth(1)), from, to) {
        (Some(peer), Place::Interface(_), _) => packet.source = peer,
        (Some(peer), Place::Local, Place::Interface(_)) => packet.destination = peer,
        _ => {}
    }
}
