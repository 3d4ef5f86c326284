//! What endpoints may do beside policy, in random worlds: the rendered ruleset lets them send from what
//! they list, and leads packets for external addresses, as the reference says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::config::Settings;
use calico_datastore::model::{Family, WorkloadEndpointId};
use calico_reference::{Direction, Owner, Packet, Reference};
use calico_ruleset::Fate;
use calico_worlds::{Question, World, shrink};

use crate::kernel::Outcome;
use crate::number;
use crate::pods::allowed;
use crate::subject::{End, Subject, UPLINK, settings, through, told};

/// Questions about each world.
const QUESTIONS: usize = 24;

type Tally = BTreeMap<&'static str, usize>;

/// A world with what it is held against.
struct Held<'a> {
    reference: Reference,
    subject: Subject,
    externals: BTreeMap<IpAddr, Owner>,
    tally: &'a mut Tally,
}

impl<'a> Held<'a> {
    fn new(world: &World, seed: u64, tally: &'a mut Tally) -> Self {
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let settings = Settings {
            source_spoofing: reference.lets_spoof(&world.node),
            floating_ips: reference.lets_float(&world.node),
            ..Settings::clone(&settings(seed))
        };
        let subject = Subject::new(&world.node, updates, Arc::new(settings));
        let externals = reference.externals(&world.node);
        Self { reference, subject, externals, tally }
    }

    fn count(&mut self, what: [&'static str; 2], passes: bool) {
        *self.tally.entry(what[usize::from(passes)]).or_default() += 1;
    }

    fn says(&self, id: &WorkloadEndpointId, direction: Direction, packet: Packet) -> bool {
        let question = Question { endpoint: id.clone(), direction, packet };
        !self.subject.is_off(packet.family()) && allowed(&self.reference, &question)
    }

    fn wrong(&self, what: &str, packet: Packet, expected: bool, outcome: &Outcome) -> String {
        let ruleset = self.subject.ruleset(packet.family());
        format!(
            "{what}: {packet:?}, expected {expected}: {outcome:?} by {}\n{}",
            outcome.decided(ruleset),
            outcome.trace(ruleset)
        )
    }

    /// From what an endpoint lists, or from beside that.
    fn spoofed(&mut self, question: &Question) -> Result<(), String> {
        let Question { endpoint, direction, packet } = question;
        let expected = self.says(endpoint, *direction, *packet);
        if let Some(outcome) = self.subject.ask(question) {
            if outcome.fate.passed() != expected {
                return Err(self.wrong("spoofed", *packet, expected, &outcome));
            }
            self.count(["spoofed and dropped", "spoofed and sent"], expected);
        }
        // Such an address leads to nobody, but the one who has it.
        let (source, destination) = (packet.destination, packet.source);
        let back = Packet { source, destination, ..*packet };
        let taken = self.says(endpoint, Direction::Ingress, back);
        let by = self.subject.ends()[endpoint].interface.clone();
        let ruleset = self.subject.ruleset(packet.family());
        let outcome = through(ruleset, &told(&back).into_interface(UPLINK), &by);
        if let Some(outcome) = outcome.filter(|_| !self.externals.contains_key(&destination)) {
            if outcome.fate.passed() != taken {
                return Err(self.wrong("to what is listed", back, taken, &outcome));
            }
            self.count(["to what is listed: dropped", "to an own address"], taken);
        }
        Ok(())
    }

    /// As whom somebody comes to an address behind external ones: who meets himself as the lowest of
    /// these.
    fn seen(&self, source: IpAddr, internal: IpAddr) -> IpAddr {
        let mut of_it = self.externals.iter().filter(|(_, (_, own))| *own == internal);
        match of_it.next() {
            Some((lowest, _)) if source == internal => *lowest,
            _ => source,
        }
    }

    /// From outside to an external address.
    fn asked_from_outside(&mut self, external: IpAddr, packet: Packet) -> Result<(), String> {
        let Some((id, internal)) = self.externals.get(&external).cloned() else { return Ok(()) };
        let led = Packet { destination: internal, ..packet };
        let expected = self.says(&id, Direction::Ingress, led);
        let by = self.subject.ends()[&id].interface.clone();
        let sent = Packet { destination: external, ..packet };
        let ruleset = self.subject.ruleset(packet.family());
        let outcome = through(ruleset, &told(&sent).into_interface(UPLINK), &by);
        let own = through(ruleset, &told(&sent), &by);
        let Some(outcome) = outcome else { return Ok(()) };
        let right = outcome.fate.passed() == expected
            && (!expected || outcome.destination == internal)
            && (!expected || outcome.source == self.seen(packet.source, internal));
        if !right {
            return Err(self.wrong("from outside", sent, expected, &outcome));
        }
        self.count(["external and dropped", "external and let in"], expected);
        // From the host itself it comes without a question.
        let on = !self.subject.is_off(packet.family());
        if let Some(outcome) = own.filter(|_| on) {
            if !outcome.fate.passed() || outcome.destination != internal {
                return Err(self.wrong("from the host", sent, true, &outcome));
            }
            self.count(["", "external, from the host"], true);
        }
        Ok(())
    }

    /// From an endpoint of the host, which may be the one behind it.
    fn asked_from_inside(
        &mut self,
        from: &WorkloadEndpointId,
        external: IpAddr,
        packet: Packet,
    ) -> Result<(), String> {
        let Some((id, internal)) = self.externals.get(&external).cloned() else { return Ok(()) };
        let led = Packet { destination: internal, ..packet };
        let expected =
            self.says(from, Direction::Egress, led) && self.says(&id, Direction::Ingress, led);
        let by = self.subject.ends()[&id].interface.clone();
        let sent = Packet { destination: external, ..packet };
        let end: &End = &self.subject.ends()[from];
        let ruleset = self.subject.ruleset(packet.family());
        let Some(outcome) = through(ruleset, &end.send(told(&sent)), &by) else { return Ok(()) };
        let (hairpin, seen) = (packet.source == internal, self.seen(packet.source, internal));
        let right = outcome.fate.passed() == expected
            && (!expected || (outcome.destination == internal && outcome.source == seen));
        if !right {
            return Err(self.wrong("from inside", sent, expected, &outcome));
        }
        match hairpin {
            true => self.count(["to itself and dropped", "to itself"], expected),
            false => self.count(["from inside and dropped", "from inside"], expected),
        }
        Ok(())
    }

    /// What is asked for and nobody has.
    fn nobodys(&mut self, packet: Packet) -> Result<(), String> {
        let state = Arc::clone(&self.subject.state);
        for endpoint in state.endpoints.values() {
            let asked = endpoint.nat.iter().map(|(_, external)| *external);
            let own = |one: &IpAddr| {
                state.endpoints.values().any(|e| e.addresses.iter().any(|net| net.contains(*one)))
            };
            let family = packet.family();
            let vain = asked.filter(|one| {
                Family::of(*one) == family && !self.externals.contains_key(one) && !own(one)
            });
            for destination in vain.collect::<Vec<_>>() {
                let sent = Packet { destination, ..packet };
                let by = endpoint.interface.to_string();
                let ruleset = self.subject.ruleset(family);
                let outcome = through(ruleset, &told(&sent).into_interface(UPLINK), &by);
                let Some(outcome) = outcome else { continue };
                if !matches!(outcome.fate, Fate::Dropped | Fate::Rejected) {
                    return Err(self.wrong("nobody's", sent, false, &outcome));
                }
                self.count(["nobody's external address", ""], false);
            }
        }
        Ok(())
    }
}

fn difference(world: &World, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let updates = world.updates();
    let mut held = Held::new(world, seed, tally);
    for question in world.spoofed_questions(&updates, seed, QUESTIONS) {
        held.spoofed(&question)?;
    }
    let owners: Vec<(IpAddr, Owner)> =
        held.externals.iter().map(|(external, owner)| (*external, owner.clone())).collect();
    for question in world.questions_of(&updates, seed, QUESTIONS) {
        let packet = question.packet;
        held.nobodys(packet)?;
        for (external, (owner, internal)) in &owners {
            if Family::of(*external) != packet.family() {
                continue;
            }
            match question.direction {
                // Only a question about the endpoint itself has ports that it may be about.
                Direction::Ingress if *owner == question.endpoint => {
                    held.asked_from_outside(*external, packet)?;
                    let itself = Packet { source: *internal, ..packet };
                    held.asked_from_inside(owner, *external, itself)?;
                }
                Direction::Ingress => {}
                Direction::Egress => {
                    held.asked_from_inside(&question.endpoint, *external, packet)?
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_ruleset_does_what_is_beside_policy() {
    let worlds = number("CALICO_RULESET_WORLDS", 2000).div_ceil(4);
    let first = number("CALICO_SEED", 1);
    let mut tally = Tally::new();
    for seed in first..first + worlds {
        let world = World::with_extras(seed);
        if let Err(said) = difference(&world, seed, &mut tally) {
            let quiet = &mut Tally::new();
            let small = shrink(&world, |world| difference(world, seed, quiet).is_err());
            let small_said = difference(&small, seed, quiet).unwrap_err();
            panic!("CALICO_SEED={seed}: {said}\nsmall: {small_said}\n{:#?}", small.objects);
        }
    }
    println!("{worlds} worlds from {first}: {tally:#?}");
    for (what, least) in [
        ("spoofed and sent", 100),
        ("spoofed and dropped", 400),
        ("to what is listed: dropped", 300),
        ("external and let in", 50),
        ("external and dropped", 100),
        ("external, from the host", 150),
        ("from inside", 20),
        ("from inside and dropped", 100),
        ("to itself", 10),
        ("to itself and dropped", 50),
        ("nobody's external address", 200),
    ] {
        // Of a hundred worlds.
        let count = tally.get(what).copied().unwrap_or(0) as u64;
        assert!(worlds < 100 || count * 100 >= least * worlds, "{what}: {tally:#?}");
    }
}
