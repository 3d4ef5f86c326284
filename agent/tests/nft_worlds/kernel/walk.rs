//! The way of a packet through the hooks, and through the chains of each.

use std::convert::Infallible;
use std::net::IpAddr;

use calico_agent::felix::nftables::object::{
    BaseKind, DispatchKey, Element, Hook, Name, SetKind, Statement, Verdict, Way,
};
use calico_datastore::model::InterfaceName;
use calico_ruleset::{Fate, Hop, Host, Origin, Packet, State};

use super::look::Flight;
use super::{Outcome, Ruleset};

/// How a packet leaves a chain.
enum End {
    /// At its end, or by return.
    Returned,
    Accepted,
    Dropped,
    Rejected,
}

impl Ruleset {
    /// Sends a packet through the host.
    pub(crate) fn walk(&self, host: &Host, packet: &Packet) -> Result<Outcome, Infallible> {
        let mut flight = Flight {
            packet: packet.clone(),
            input: String::new(),
            output: String::new(),
            tracked: false,
            destination_translated: false,
            source_translated: false,
            masqueraded: false,
            untracked: false,
            matched: Vec::new(),
            by: None,
        };
        let fate = match &packet.origin {
            Origin::Interface(name) => {
                flight.input.clone_from(name);
                self.arrive(host, &mut flight)
            }
            Origin::Host => self.leave(host, &mut flight),
        };
        let Flight { packet, masqueraded, untracked, matched, by, .. } = flight;
        let by = by.filter(|_| !fate.passed());
        let Packet { source, destination, .. } = packet;
        Ok(Outcome { fate, by, matched, source, destination, masqueraded, untracked })
    }

    fn arrive(&self, host: &Host, flight: &mut Flight) -> Fate {
        if let Some(fate) = self.hook(Hook::Prerouting, flight) {
            return fate;
        }
        match host.hop(flight.packet.destination) {
            Hop::Local => self.hook(Hook::Input, flight).unwrap_or(Fate::Delivered),
            Hop::None => Fate::NoRoute,
            Hop::Out(interface) => {
                interface.clone_into(&mut flight.output);
                self.hook(Hook::Forward, flight)
                    .or_else(|| self.hook(Hook::Postrouting, flight))
                    .unwrap_or_else(|| Fate::Sent(interface.to_owned()))
            }
        }
    }

    fn leave(&self, host: &Host, flight: &mut Flight) -> Fate {
        let route = |flight: &mut Flight| {
            let hop = host.hop(flight.packet.destination);
            match hop {
                Hop::Local => "lo".clone_into(&mut flight.output),
                Hop::Out(interface) => interface.clone_into(&mut flight.output),
                Hop::None => {}
            }
            hop
        };
        if route(flight) == Hop::None {
            return Fate::NoRoute;
        }
        // What is translated here is routed again, but the hook goes on with the way of before.
        if let Some(fate) = self.hook(Hook::Output, flight) {
            return fate;
        }
        let hop = route(flight);
        if hop == Hop::None {
            return Fate::NoRoute;
        }
        if let Some(fate) = self.hook(Hook::Postrouting, flight) {
            return fate;
        }
        match hop {
            Hop::Out(interface) => Fate::Sent(interface.to_owned()),
            // Back in through the loopback interface, with its mark, its connection known.
            _ => {
                "lo".clone_into(&mut flight.input);
                flight.output.clear();
                self.hook(Hook::Prerouting, flight)
                    .or_else(|| self.hook(Hook::Input, flight))
                    .unwrap_or(Fate::Delivered)
            }
        }
    }

    /// Every base chain of a hook, unless one of them drops the packet.
    fn hook(&self, hook: Hook, flight: &mut Flight) -> Option<Fate> {
        let mut translated = !matches!(hook, Hook::Prerouting | Hook::Output);
        let first = matches!(hook, Hook::Prerouting | Hook::Output);
        for (_, priority, kind, name) in self.base.iter().filter(|(of, ..)| *of == hook) {
            flight.tracked |= !first || *priority > -200;
            if *priority > -100 && !translated {
                self.translate_by_others(hook, flight);
                translated = true;
            }
            if *kind == BaseKind::Nat && !Self::asks_nat(hook, flight) {
                continue;
            }
            match self.run(name, flight) {
                End::Returned | End::Accepted => {}
                End::Dropped => return Some(Fate::Dropped),
                End::Rejected => return Some(Fate::Rejected),
            }
        }
        flight.tracked = true;
        if !translated {
            self.translate_by_others(hook, flight);
        }
        None
    }

    /// Only the first packet of a connection is translated, once at each end.
    fn asks_nat(hook: Hook, flight: &Flight) -> bool {
        let again = hook == Hook::Prerouting && flight.input == "lo";
        let done = match hook {
            Hook::Postrouting | Hook::Input => flight.source_translated,
            _ => flight.destination_translated,
        };
        flight.packet.state == State::New && !flight.untracked && !again && !done
    }

    fn translate_by_others(&self, hook: Hook, flight: &mut Flight) {
        if !Self::asks_nat(hook, flight) {
            return;
        }
        let destination = flight.packet.destination;
        let here = |one: &&super::Translation| one.everywhere || hook == Hook::Output;
        let found = self.others.iter().filter(here).find(|one| one.from == destination);
        if let Some(one) = found {
            flight.packet.destination = one.to;
            flight.destination_translated = true;
        }
    }

    fn run(&self, name: &Name, flight: &mut Flight) -> End {
        let chain = self.chain(name);
        for (number, rule) in chain.rules.iter().enumerate() {
            if !rule.matches.iter().all(|one| self.matches(one, flight)) {
                continue;
            }
            let at = (Name::clone(name), number);
            if matches!(rule.statements.last(), Some(Statement::Dispatch { .. })) {
                flight.by = Some(at.clone());
            }
            flight.matched.push(at.clone());
            for statement in &rule.statements {
                let verdict = match statement {
                    Statement::Counter | Statement::Log { .. } | Statement::LogGroup { .. } => None,
                    Statement::SetMark { mask, value } => {
                        flight.packet.mark = flight.packet.mark & !mask | value;
                        None
                    }
                    Statement::Notrack => {
                        // What comes back through the loopback interface is tracked, or not, already.
                        let again = flight.input == "lo";
                        assert!(!flight.tracked || again, "too late not to track it");
                        flight.untracked |= !again;
                        None
                    }
                    Statement::Dispatch { key, map } => self.verdict(*key, map, flight),
                    Statement::Dnat { to, port } => {
                        flight.translate(*to, *port);
                        Some(Verdict::Accept)
                    }
                    Statement::Snat { to, .. } => {
                        flight.source_translated = true;
                        match to {
                            Some(to) => flight.packet.source = *to,
                            None => flight.masqueraded = true,
                        }
                        Some(Verdict::Accept)
                    }
                    Statement::Reject => {
                        flight.by = Some(at);
                        return End::Rejected;
                    }
                    Statement::Verdict(verdict) => Some(verdict.clone()),
                };
                match verdict {
                    None => {}
                    Some(Verdict::Accept) => return End::Accepted,
                    Some(Verdict::Drop) => {
                        flight.by = Some(at);
                        return End::Dropped;
                    }
                    Some(Verdict::Return) => return End::Returned,
                    Some(Verdict::Goto(to)) => return self.run(&to, flight),
                    Some(Verdict::Jump(to)) => match self.run(&to, flight) {
                        End::Returned => {}
                        end => return end,
                    },
                }
            }
        }
        End::Returned
    }

    fn verdict(&self, key: DispatchKey, map: &Name, flight: &Flight) -> Option<Verdict> {
        let set = self.contents.sets.get(map).unwrap_or_else(|| panic!("no map {map}"));
        let (way, kind) = match key {
            DispatchKey::InGroup => (Way::In, SetKind::VerdictsByGroup),
            DispatchKey::OutGroup => (Way::Out, SetKind::VerdictsByGroup),
            DispatchKey::InName => (Way::In, SetKind::VerdictsByName),
            DispatchKey::OutName => (Way::Out, SetKind::VerdictsByName),
        };
        assert_eq!(set.spec.kind, kind, "{map}");
        let name: &str = flight.interface(way);
        let group = self.groups.get(name).copied().unwrap_or(0);
        set.elements.iter().find_map(|element| match element {
            Element::Group(of, verdict) => (of == group).then_some(verdict),
            Element::Named(of, verdict) => (InterfaceName::as_str(&of) == name).then_some(verdict),
            other => panic!("{other:?}"),
        })
    }
}

impl Flight {
    fn translate(&mut self, to: IpAddr, port: Option<u16>) {
        self.packet.destination = to;
        if let (Some(port), Some(ports)) = (port, &mut self.packet.ports) {
            ports.1 = port;
        }
        self.destination_translated = true;
    }
}
