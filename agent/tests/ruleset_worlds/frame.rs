//! What is decided around policy: connections that are known, addresses and frames that are not an
//! endpoint's, packets for the host and from it, tunnels, discovery of neighbours, masquerading.
//!
//! [`probes`] makes the packets and says what has to become of them, by what the documentation says,
//! with the reference asked where policy decides.

use std::net::IpAddr;

use calico_agent::config::HostAction;
use calico_datastore::model::{Cidr, Family, WorkloadEndpointId};
use calico_reference::{Direction, Reference};
use calico_ruleset::{Host, Packet, State};
use calico_worlds::{Question, World};

use crate::kernel::{Outcome, Ruleset};
use crate::pods::allowed;
use crate::subject::{POOLS, Subject, UPLINK, settings, told};
use crate::{crafted, number};

/// A packet, the host that it comes to, and what has to become of it.
pub(crate) struct Probe {
    pub(crate) what: &'static str,
    pub(crate) packet: Packet,
    pub(crate) host: Host,
    pub(crate) passes: bool,
}

impl Probe {
    pub(crate) fn walk(&self, ruleset: &Ruleset) -> Outcome {
        ruleset.walk(&self.host, &self.packet).unwrap()
    }
}

const STATES: [State; 4] = [State::New, State::Established, State::Related, State::Invalid];
/// Messages that a host with IPv6 has to hear, and some others.
const TYPES: [u8; 10] = [128, 129, 130, 131, 132, 133, 134, 135, 136, 143];
const DISCOVERY: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

fn everyone(family: Family) -> &'static str {
    if family == Family::V4 { "0.0.0.0/0" } else { "::/0" }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" })
}

fn far(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "198.51.100.7" } else { "2001:db8:7::7" })
}

/// Everything to be asked about one endpoint, in one family, near a packet of its own.
pub(crate) fn probes(subject: &Subject, reference: &Reference, question: &Question) -> Vec<Probe> {
    let (id, end) = match subject.ends().get_key_value(&question.endpoint) {
        Some(found) => found,
        None => return Vec::new(),
    };
    let family = question.packet.family();
    let (on, settings) = (!subject.is_off(family), &subject.state.settings);
    let near = question.packet.near(question.direction);
    let mut out = Vec::new();
    let mut add = |what, packet: Packet, out_by: &str, passes: bool| {
        let mut host = Host::default();
        host.address(own(family)).route(everyone(family), out_by).unwrap();
        out.push(Probe { what, packet, host, passes });
    };
    let ask = |direction, packet: &Packet| {
        let Packet { source, destination, protocol, ports, icmp, .. } = *packet;
        let packet = calico_reference::Packet { source, destination, protocol, ports, icmp };
        allowed(reference, &Question { endpoint: id.clone(), direction, packet })
    };
    let has = reference.workloads().any(|(other, endpoint)| {
        other == id && endpoint.addresses.iter().any(|net| net.contains(near))
    });
    let model = told(&question.packet);
    let invalid = settings.allow_conntrack_invalid;
    // What becomes of a packet of a connection, if a new one of its kind is treated so.
    let known = |state: State, new: bool| match state {
        State::Established | State::Related => true,
        State::Invalid if !invalid => false,
        _ => new,
    };

    let mut kinds = vec![model.clone()];
    let base = Packet { ports: None, icmp: None, ..model };
    kinds.push(Packet { protocol: 17, ports: Some((40_000, 4789)), ..base.clone() });
    kinds.push(Packet { protocol: 17, ports: Some((4789, 53)), ..base.clone() });
    kinds.push(Packet { protocol: 4, ..base.clone() });
    kinds.push(Packet { protocol: 6, ports: Some((40_000, 18112)), ..base.clone() });
    // The same ports of another protocol mean nothing.
    kinds.push(Packet { protocol: 6, ports: Some((40_000, 4789)), ..base.clone() });
    kinds.push(Packet { protocol: 17, ports: Some((40_000, 18112)), ..base.clone() });
    if family == Family::V6 {
        kinds.extend(TYPES.map(|kind| Packet {
            protocol: 58,
            icmp: Some((kind, 0)),
            ..base.clone()
        }));
    }
    for kind in &kinds {
        let advertisement = family == Family::V6 && kind.icmp == Some((134, 0));
        let discovery =
            family == Family::V6 && kind.icmp.is_some_and(|(t, _)| DISCOVERY.contains(&t));
        for state in STATES {
            let kind = kind.clone().with_state(state);
            // From it to everywhere.
            let from = Packet { source: near, destination: far(family), ..kind.clone() };
            let mine = on && has && !advertisement;
            let forwarded = mine && known(state, ask(Direction::Egress, &from));
            add("from it", end.send(from.clone()), UPLINK, forwarded);
            // From it to another of the pools.
            let pool = ip(if family == Family::V4 { "10.65.0.14" } else { "fd18::7" });
            let within = Packet { destination: pool, ..from.clone() };
            let passes = mine && known(state, ask(Direction::Egress, &within));
            add("within the pools", end.send(within.clone()), UPLINK, passes);
            // Marks of others, in our bits too, say nothing.
            let marked = Packet { mark: u32::MAX, ..within };
            add("marked", end.send(marked), UPLINK, passes);
            // From it to its host.
            let to_host = Packet { destination: own(family), ..from.clone() };
            let metadata = settings.rkt_metadata_service
                && family == Family::V4
                && (to_host.protocol, to_host.ports.map(|(_, to)| to)) == (6, Some(18112));
            let host_takes = settings.endpoint_to_host != HostAction::Drop || metadata;
            let asked = ask(Direction::Egress, &to_host) && host_takes;
            let heard = mine && (discovery || known(state, asked));
            add("to the host", end.send(to_host.clone()), UPLINK, heard);
            // In a frame of somebody else.
            let other = end.send(to_host.clone()).with_mac([2, 9, 9, 9, 9, 9]);
            add("another frame", other, UPLINK, heard && !end.checked);
            // By an interface that nobody has.
            let stranger = to_host.clone().into_interface("cali-nobody");
            add("to the host by a strange interface", stranger, UPLINK, false);
            let stranger = from.clone().into_interface("cali-nobody");
            add("by a strange interface", stranger, UPLINK, false);
            let stranger = kind.clone().into_interface(UPLINK);
            add("to a strange interface", stranger, "cali-nobody", false);
            // With a source that it has no right to.
            let spoofed = if family == Family::V4 { "10.65.9.9" } else { "fd65::9:9" };
            let spoofed = Packet { source: ip(spoofed), ..from.clone() };
            add("another source", end.send(spoofed.clone()), UPLINK, false);
            let spoofed = Packet { destination: own(family), ..spoofed };
            add("another source to the host", end.send(spoofed), UPLINK, false);
            // Before it has an address.
            if family == Family::V6 {
                for source in ["fe80::1", "::"] {
                    let local = Packet { source: ip(source), ..to_host.clone() };
                    add("neighbours", end.send(local.clone()), UPLINK, on && discovery);
                    let local = Packet { destination: far(family), ..local };
                    add("neighbours far away", end.send(local), UPLINK, false);
                }
            }
            // To the loopback addresses of the host, or from them.
            if family == Family::V4 {
                let inner = Packet { destination: ip("127.0.0.9"), ..from.clone() };
                add("to loopback", end.send(inner), UPLINK, false);
                let inner = Packet { source: ip("127.0.0.9"), ..to_host };
                add("from loopback", end.send(inner), UPLINK, false);
            }
            // To it.
            let to = Packet { source: far(family), destination: near, ..kind.clone() };
            let taken = on && has && known(state, ask(Direction::Ingress, &to));
            add("to it", to.clone().into_interface(UPLINK), &end.interface, taken);
            let elsewhere = Packet {
                destination: ip(if family == Family::V4 { "10.65.9.9" } else { "fd65::9:9" }),
                ..to.clone()
            };
            add("to another address", elsewhere.into_interface(UPLINK), &end.interface, false);
            let marked = Packet { mark: u32::MAX, ..to.clone() };
            add("marked, to it", marked.into_interface(UPLINK), &end.interface, taken);
            // Of others, and of the host.
            add("past us", to.clone().into_interface(UPLINK), "eth1", true);
            add(
                "from the host",
                Packet { source: own(family), ..to.clone() },
                &end.interface,
                true,
            );
            let server = Packet { destination: own(family), ..to };
            add("to the host from outside", server.into_interface(UPLINK), UPLINK, true);
        }
    }
    out
}

/// Would what leaves be masqueraded?
fn leaves_the_pools(packet: &Packet) -> bool {
    let within = |address: IpAddr, wanted: fn(bool) -> bool| {
        POOLS
            .iter()
            .any(|(pool, nat)| wanted(*nat) && pool.parse::<Cidr>().unwrap().contains(address))
    };
    within(packet.source, |nat| nat) && !within(packet.destination, |_| true)
}

/// Two packets of each endpoint of the node, one of each family where it has both.
pub(crate) fn models(world: &World, seed: u64) -> Vec<Question> {
    let mut seen: Vec<(WorkloadEndpointId, Family)> = Vec::new();
    let mut questions = world.questions(seed, 24);
    questions.retain(|question| {
        let key = (question.endpoint.clone(), question.packet.family());
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    questions
}

#[test]
fn what_is_around_policy_is_as_documented() {
    let (worlds, first) = (number("CALICO_FRAMES", 60), number("CALICO_SEED", 1));
    let (mut counts, mut masqueraded) = ([0, 0], [0, 0]);
    let random = (first..first + worlds).map(|seed| (seed, World::random(seed)));
    for (seed, world) in (1..).zip(crafted::worlds()).chain(random) {
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let subject = Subject::new(&world.node, updates, settings(seed));
        for question in models(&world, seed) {
            let ruleset = subject.ruleset(question.packet.family());
            for probe in probes(&subject, &reference, &question) {
                let outcome = probe.walk(ruleset);
                assert_eq!(
                    outcome.fate.passed(),
                    probe.passes,
                    "seed {seed}, {}: {:?}\n{:?} by {}\n{}",
                    probe.what,
                    probe.packet,
                    outcome.fate,
                    outcome.decided(ruleset),
                    outcome.trace(ruleset)
                );
                counts[usize::from(probe.passes)] += 1;
                // Only what goes away from the host, and only a new connection.
                let sent = matches!(outcome.fate, calico_ruleset::Fate::Sent(_));
                let packet = &probe.packet;
                let expected = sent
                    && packet.state == State::New
                    && !subject.is_off(question.packet.family())
                    && leaves_the_pools(packet);
                assert_eq!(outcome.masqueraded, expected, "{}: {packet:?}", probe.what);
                masqueraded[usize::from(expected)] += 1;
            }
        }
    }
    println!("dropped and passed: {counts:?}, as they were and masqueraded: {masqueraded:?}");
    assert!(
        counts.iter().all(|n| *n > 1000) && masqueraded.iter().all(|n| *n > 100),
        "{counts:?} {masqueraded:?}"
    );
}
