//! What `explain` answers is what the reference says, in every part: the outcome and why, each side with
//! its endpoint and its verdict, the tiers, policies, profiles and rules that were asked on the way, and the
//! host endpoints between the sides, on both hosts.
//!
//! It is asked as the command is with `--offline`, but for the process.

mod expected;
mod lines;
mod mutants;
mod strays;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;

use calico_agent::calculation::Layers;
use calico_agent::config::Settings;
use calico_agent::explain::document::Answer;
use calico_agent::explain::offline::{Changes, Read};
use calico_agent::explain::{self, Question};
use calico_datastore::backend::Batch;
use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{Family, Name, Protocol, Update};
use calico_reference::{Packet, Reference};
use calico_worlds::{Chance, World, features};

use expected::Expected;
use lines::{Lines, of_answer};

/// Packets of each world.
const PACKETS: usize = 8;
/// The hosts, with addresses that a host endpoint may expect.
const NODES: [(&str, [&str; 2]); 2] =
    [("near", ["172.18.18.100", "fd18::100"]), ("far", ["172.18.18.101", "fd18::101"])];
/// Interfaces that packets pass: two that host endpoints name, and one that none does.
const INTERFACES: [&str; 3] = ["eth0", "eth1", "eth7"];

fn addresses(of: &[&str]) -> Vec<IpAddr> {
    of.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// The objects of the hosts themselves, which random worlds do not draw.
fn hosts() -> Vec<Update> {
    let node = |(name, [v4, v6]): (&str, [&str; 2])| {
        let key = format!("/calico/resources/v3/projectcalico.org/nodes/{name}");
        let bgp = format!(r#"{{"ipv4Address":"{v4}/24","ipv6Address":"{v6}/64"}}"#);
        let value = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"bgp":{bgp}}}}}"#);
        match v3::decode(&key, value.as_bytes()) {
            Decoded::Object(update) => update,
            other => panic!("{other:?}"),
        }
    };
    NODES.map(node).to_vec()
}

/// A world as the command sees it.
struct Explained(explain::World);

impl Explained {
    fn new(updates: &[Update]) -> Self {
        let layers = Layers::default();
        let updates = updates.iter().cloned().chain(hosts()).collect();
        let batch = Batch { revision: 1, updates, ..Batch::default() };
        let read = Read::of(batch, "a world".to_owned(), None, layers, &Changes::default());
        let nodes = NODES.iter().map(|(name, _)| Name::from(*name)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self(runtime.block_on(read.unwrap().world(nodes)))
    }

    /// `None`: the command cannot be asked that.
    fn ask(&self, packet: &Packet, interface: &str) -> Option<Answer> {
        let question = question(packet, interface)?;
        let mut explanation = explain::explain(&question, &self.0).unwrap();
        assert_eq!(explanation.answers.len(), 1, "{question:?}");
        explanation.answers.pop()
    }
}

/// What somebody would type.
fn question(packet: &Packet, interface: &str) -> Option<Question> {
    let protocol = Protocol::from_number(packet.protocol)?;
    let icmp = match Family::of(packet.source) {
        Family::V4 => Protocol::ICMP,
        Family::V6 => Protocol::ICMPV6,
    };
    let is_icmp = [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
    // Always with what the protocol has, never with what it has not.
    let fits = packet.ports.is_some() == protocol.has_ports()
        && packet.icmp.is_some() == is_icmp
        && (!is_icmp || protocol == icmp);
    fits.then(|| Question {
        from: packet.source.to_string(),
        to: packet.destination.to_string(),
        protocol: Some(protocol.to_string()),
        port: packet.ports.map(|(_, to)| to.to_string()),
        source_port: packet.ports.map(|(from, _)| from),
        icmp_type: packet.icmp.map(|(kind, _)| kind),
        icmp_code: packet.icmp.map(|(_, code)| code),
        interface: Some(interface.to_owned()),
    })
}

/// Packets between endpoints and everything else, some of them from or to a host itself.
fn packets(world: &World, seed: u64) -> Vec<(Packet, &'static str)> {
    let mut chance = Chance::new(!seed);
    let mut all = Vec::new();
    let asked = world.questions(seed, PACKETS / 2).into_iter().map(|question| question.packet);
    for mut packet in asked.chain(world.packets(seed, PACKETS / 2)) {
        let (_, own) = chance.one(&NODES);
        let own = addresses(own)[usize::from(packet.source.is_ipv6())];
        match chance.below(8) {
            0 => packet.source = own,
            1 | 2 => packet.destination = own,
            _ => {}
        }
        if packet.source != packet.destination {
            all.push((packet, *chance.one(&INTERFACES[..])));
        }
    }
    all
}

/// Where the two differ about a packet; both answers.
fn difference(
    reference: &Reference,
    packet: &Packet,
    interface: &str,
    answer: &Answer,
) -> Option<(Lines, Lines)> {
    let settings = Settings::default();
    let nodes: BTreeMap<Name, Vec<IpAddr>> =
        NODES.iter().map(|(name, all)| (Name::from(*name), addresses(all))).collect();
    let interface = interface.parse().unwrap();
    let expected = Expected { reference, settings: &settings, nodes: &nodes, interface };
    let (should, passes) = expected.answer(packet);
    let said = of_answer(answer);
    let passed = said.outcome != explain::document::Outcome::Denied;
    (should != said || passes.is_some_and(|passes| passes != passed)).then_some((should, said))
}

/// What one thread saw.
#[derive(Default)]
struct Seen {
    asked: usize,
    /// By what is worth a count.
    counts: BTreeMap<String, usize>,
    differences: Vec<String>,
}

fn note(seen: &mut Seen, answer: &Answer) {
    let mut count = |what: &str| *seen.counts.entry(what.to_owned()).or_default() += 1;
    count(&format!("{:?}", answer.outcome));
    let nodes: Vec<_> = answer.sides.iter().filter_map(|side| side.node.as_deref()).collect();
    if nodes.contains(&"near") && nodes.contains(&"far") {
        count("both hosts");
    }
    for side in &answer.sides {
        let whose = side.hook.as_deref().unwrap_or("pod");
        let by = ["policy", "no policy of tier", "profile", "it is a fail-safe port"];
        let by = by.into_iter().find(|by| side.reason.starts_with(by)).unwrap_or("something else");
        count(&format!("{whose}, {}, by {by}", side.side));
        let policies = side.tiers.iter().flat_map(|tier| &tier.policies).chain(&side.profiles);
        if policies.map(|asked| asked.rules.len()).sum::<usize>() > 1 {
            count("rules passed on the way");
        }
    }
}

fn play(seeds: impl Iterator<Item = u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let world = World::random(seed);
        let updates = world.updates();
        let (reference, explained) = (Reference::new(&updates), Explained::new(&updates));
        for (packet, interface) in packets(&world, seed) {
            let Some(answer) = explained.ask(&packet, interface) else { continue };
            seen.asked += 1;
            note(&mut seen, &answer);
            if let Some((should, said)) = difference(&reference, &packet, interface, &answer) {
                seen.differences.push(format!(
                    "CALICO_SEED={seed} CALICO_WORLDS=1: {packet:?} by {interface}\n\
                     reference: {should:#?}\nexplained: {said:#?}"
                ));
            }
        }
        if seen.differences.len() > 2 {
            break;
        }
    }
    seen
}

#[test]
fn what_is_explained_is_what_the_reference_says_in_every_part() {
    // One costs as much as several that only the judge is asked about.
    let worlds = super::number("CALICO_WORLDS").unwrap_or(3000).div_ceil(3) * 2;
    let first = super::number("CALICO_SEED").unwrap_or(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Seen::default();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let seeds = (first..first + worlds).skip(part).step_by(threads);
                scope.spawn(move || play(seeds))
            })
            .collect();
        for part in parts {
            let part = part.join().unwrap();
            all.asked += part.asked;
            all.differences.extend(part.differences);
            for (what, count) in part.counts {
                *all.counts.entry(what).or_default() += count;
            }
        }
    });
    println!("seeds {first}.., {worlds} worlds, {} explanations", all.asked);
    all.counts.iter().for_each(|(what, count)| println!("{count:>8}  {what}"));
    assert!(all.differences.is_empty(), "{}", all.differences.join("\n"));
    if first != 0 || worlds < 2000 {
        return;
    }
    for (what, least) in [
        ("Allowed", 1500),
        ("Denied", 6000),
        ("Unpoliced", 1000),
        ("both hosts", 2000),
        ("rules passed on the way", 6000),
        ("pod, egress, by policy", 1200),
        ("pod, ingress, by no policy of tier", 1500),
        ("pod, ingress, by profile", 1100),
        ("host, ingress, by policy", 60),
        ("host, ingress, by it is a fail-safe port", 12),
        ("host, egress, by profile", 70),
        ("applyOnForward, ingress, by policy", 40),
        ("applyOnForward, egress, by no policy of tier", 100),
        ("doNotTrack, ingress, by policy", 35),
        ("preDNAT, ingress, by policy", 35),
    ] {
        let count = all.counts.get(what).copied().unwrap_or(0);
        assert!(count >= least, "{what}: {count} of {least}");
    }
}
