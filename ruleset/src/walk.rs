//! The way of a packet through the hooks, and through the chains of each.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::flight::Flight;
use crate::hook::{Hook, Table};
use crate::host::{Hop, Host};
use crate::net::{Family, number};
use crate::packet::{Origin, Packet};
use crate::tables::{RuleAt, Ruleset};

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A process of this host gets it.
    Delivered,
    /// It left through an interface.
    Sent(String),
    /// Dropped without a word.
    Dropped,
    /// Dropped, and its sender is told.
    Rejected,
    /// There is no way to its destination.
    NoRoute,
}

impl Fate {
    /// Delivered or sent.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Delivered | Self::Sent(_))
    }
}

/// What made the fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A rule dropped it.
    Rule(RuleAt),
    /// The policy of a chain of the kernel dropped it.
    Policy(Table, Hook),
    /// Nothing dropped it.
    Nothing,
}

/// What a ruleset did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What became of it.
    pub fate: Fate,
    /// What dropped it.
    pub by: By,
    /// The rules that matched, in order.
    pub matched: Vec<RuleAt>,
    /// Its mark in the end.
    pub mark: u32,
    /// Its source in the end.
    pub source: IpAddr,
    /// Its source will be an address of the interface that it leaves through.
    pub masqueraded: bool,
    /// Its destination in the end.
    pub destination: IpAddr,
    /// Its ports in the end, but for what the translation of the source does to them.
    pub ports: Option<(u16, u16)>,
    /// Rules of the table raw took it out of connection tracking.
    pub untracked: bool,
}

impl Outcome {
    /// What dropped it, for people.
    pub fn decided(&self, ruleset: &Ruleset) -> String {
        match self.by {
            By::Rule(at) => ruleset.text(at),
            By::Policy(table, hook) => format!("policy of {table} {}", hook.name()),
            By::Nothing => "nothing".to_owned(),
        }
    }

    /// The rules that matched, for people: one line for each.
    pub fn trace(&self, ruleset: &Ruleset) -> String {
        self.matched.iter().map(|at| ruleset.text(*at) + "\n").collect()
    }
}

/// How a packet leaves a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its end, or by RETURN.
    Returned,
    /// Accepted.
    Accepted,
    /// Dropped.
    Dropped,
    /// Dropped, and its sender is told.
    Rejected,
}

/// A packet cannot be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// Its addresses are of two families, or not of the ruleset's.
    #[error("the packet is not of the ruleset's family")]
    Family,
    /// There is no chain of that name.
    #[error("no such chain")]
    Chain,
}

impl Ruleset {
    /// Sends a packet through the host.
    ///
    /// # Errors
    /// When the packet is not of the ruleset's family.
    pub fn walk(&self, host: &Host, packet: &Packet) -> Result<Outcome, WalkError> {
        let mut flight = self.flight(packet)?;
        let fate = match &packet.origin {
            Origin::Interface(name) => {
                flight.input = name;
                self.arrive(host, &mut flight)
            }
            Origin::Host => self.leave(host, &mut flight),
        };
        Ok(flight.outcome(fate))
    }

    /// Sends a packet through one chain only.
    ///
    /// # Errors
    /// When the packet is not of the ruleset's family, or there is no such chain.
    pub fn ask(
        &self,
        host: &Host,
        table: Table,
        chain: &str,
        packet: &Packet,
    ) -> Result<(End, u32), WalkError> {
        let chain = self.chain_named(table, chain).ok_or(WalkError::Chain)?;
        let mut flight = self.flight(packet)?;
        if let Origin::Interface(name) = &packet.origin {
            flight.input = name;
        }
        flight.tracked = true;
        let end = self.chain(host, table, chain, &mut flight);
        Ok((end, flight.packet.mark))
    }

    fn flight<'a>(&self, packet: &'a Packet) -> Result<Flight<'a>, WalkError> {
        if [packet.source, packet.destination].map(Family::of) != [self.family; 2] {
            return Err(WalkError::Family);
        }
        Ok(Flight {
            source: number(packet.source),
            destination: number(packet.destination),
            state: packet.state,
            packet: Cow::Borrowed(packet),
            input: "",
            output: "",
            tracked: false,
            source_translated: false,
            destination_translated: false,
            masqueraded: false,
            untracked: false,
            by: By::Nothing,
            matched: Vec::new(),
        })
    }

    /// In through an interface.
    fn arrive<'a>(&self, host: &'a Host, flight: &mut Flight<'a>) -> Fate {
        if let Some(fate) = self.hook(host, Hook::Prerouting, flight) {
            return fate;
        }
        match host.hop(flight.packet.destination) {
            Hop::Local => self.hook(host, Hook::Input, flight).unwrap_or(Fate::Delivered),
            Hop::None => Fate::NoRoute,
            Hop::Out(interface) => {
                flight.output = interface;
                self.hook(host, Hook::Forward, flight)
                    .or_else(|| self.hook(host, Hook::Postrouting, flight))
                    .unwrap_or_else(|| Fate::Sent(interface.to_owned()))
            }
        }
    }

    /// From a process of this host.
    fn leave<'a>(&self, host: &'a Host, flight: &mut Flight<'a>) -> Fate {
        match host.hop(flight.packet.destination) {
            Hop::Local => flight.output = "lo",
            Hop::Out(interface) => flight.output = interface,
            Hop::None => return Fate::NoRoute,
        }
        // What is translated here is routed again, but the hook goes on with the way of before.
        if let Some(fate) = self.hook(host, Hook::Output, flight) {
            return fate;
        }
        let hop = host.hop(flight.packet.destination);
        match hop {
            Hop::Local => flight.output = "lo",
            Hop::Out(interface) => flight.output = interface,
            Hop::None => return Fate::NoRoute,
        }
        if let Some(fate) = self.hook(host, Hook::Postrouting, flight) {
            return fate;
        }
        match hop {
            Hop::Out(interface) => Fate::Sent(interface.to_owned()),
            // Back in through the loopback interface, with its mark, its connection known.
            _ => {
                (flight.input, flight.output) = ("lo", "");
                self.hook(host, Hook::Prerouting, flight)
                    .or_else(|| self.hook(host, Hook::Input, flight))
                    .unwrap_or(Fate::Delivered)
            }
        }
    }

    /// Every table at a hook, unless one of them drops the packet.
    fn hook(&self, host: &Host, hook: Hook, flight: &mut Flight<'_>) -> Option<Fate> {
        use Table::{Filter, Mangle, Nat, Raw};
        // Sources are translated behind all that is asked, destinations before.
        let order = if hook == Hook::Input { [Raw, Mangle, Filter, Nat] } else { Table::ALL };
        for table in order {
            if table == Mangle {
                flight.tracked = true;
            }
            let chains = &self.tables[table as usize];
            let Some(chain) = chains.hooks[hook as usize] else { continue };
            if table == Nat && !flight.asks_nat(hook) {
                continue;
            }
            let end = match self.chain(host, table, chain, flight) {
                End::Returned if chains.chains[chain].drops => {
                    flight.by = By::Policy(table, hook);
                    End::Dropped
                }
                end => end,
            };
            match end {
                End::Accepted | End::Returned => {}
                End::Dropped => return Some(Fate::Dropped),
                End::Rejected => return Some(Fate::Rejected),
            }
        }
        None
    }
}
