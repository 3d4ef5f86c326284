//! The way of a packet through the hooks, and through the chains of each.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::host::{Hop, Host, is_broadcast};
use crate::net::{Family, number};
use crate::packet::{DCCP, ICMP, ICMPV6, Origin, Packet, SCTP, State, TCP, UDP, UDPLITE};
use crate::rule::{AddressType, Match, Side, Target, What};
use crate::tables::{Hook, RuleAt, Ruleset, Table};

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

/// A packet on its way.
struct Flight<'a> {
    packet: Cow<'a, Packet>,
    source: u128,
    destination: u128,
    input: &'a str,
    output: &'a str,
    state: State,
    tracked: bool,
    source_translated: bool,
    destination_translated: bool,
    masqueraded: bool,
    untracked: bool,
    by: By,
    matched: Vec<RuleAt>,
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

    fn chain(&self, host: &Host, table: Table, start: usize, flight: &mut Flight<'_>) -> End {
        let chains = &self.tables[table as usize].chains;
        // Where to go on: chain and rule.
        let mut back: Vec<(usize, usize)> = Vec::new();
        let (mut chain, mut at) = (start, 0);
        loop {
            let Some(rule) = chains[chain].rules.get(at) else {
                match back.pop() {
                    Some(place) => (chain, at) = place,
                    None => return End::Returned,
                }
                continue;
            };
            at += 1;
            if !rule.matches.iter().all(|one| self.matches(host, one, flight)) {
                continue;
            }
            // No table has as many chains or rules.
            let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let this = RuleAt { table, chain: place(chain), rule: place(at - 1) };
            flight.matched.push(this);
            match &rule.target {
                Target::None | Target::Note => {}
                Target::Accept => return End::Accepted,
                Target::Drop => {
                    flight.by = By::Rule(this);
                    return End::Dropped;
                }
                Target::Reject => {
                    flight.by = By::Rule(this);
                    return End::Rejected;
                }
                Target::Return => match back.pop() {
                    Some(place) => (chain, at) = place,
                    None => return End::Returned,
                },
                Target::Jump(to) => {
                    back.push((chain, at));
                    (chain, at) = (*to, 0);
                }
                Target::Goto(to) => (chain, at) = (*to, 0),
                Target::Mark { keep, flip } => {
                    let packet = flight.packet.to_mut();
                    packet.mark = (packet.mark & keep) ^ flip;
                }
                Target::NoTrack => {
                    // What is tracked already stays so.
                    if !flight.tracked {
                        flight.state = State::Untracked;
                        flight.untracked = true;
                    }
                }
                Target::DestinationNat { address, port } => {
                    flight.translate(*address, *port);
                    return End::Accepted;
                }
                Target::SourceNat { address } => {
                    flight.packet.to_mut().source = *address;
                    flight.source = number(*address);
                    flight.source_translated = true;
                    return End::Accepted;
                }
                Target::Masquerade => {
                    flight.masqueraded = true;
                    flight.source_translated = true;
                    return End::Accepted;
                }
            }
        }
    }

    fn matches(&self, host: &Host, one: &Match, flight: &Flight<'_>) -> bool {
        let packet = &flight.packet;
        let address = |side: Side| match side {
            Side::Source => flight.source,
            Side::Destination => flight.destination,
        };
        let plain = match &one.what {
            What::In(name, more) => named(name, *more, flight.input),
            What::Out(name, more) => named(name, *more, flight.output),
            What::Net(side, net) => net.contains(address(*side)),
            What::Protocol(number) => packet.protocol == *number,
            What::Ports(sides, ranges) => {
                let has = matches!(packet.protocol, TCP | UDP | SCTP | DCCP | UDPLITE);
                let Some((from, to)) = packet.ports.filter(|_| has) else { return false };
                sides.iter().any(|side| {
                    let port = if *side == Side::Source { from } else { to };
                    ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
                })
            }
            What::Icmp(kind, (first, last)) => {
                let own = if self.family == Family::V4 { ICMP } else { ICMPV6 };
                let Some((is, code)) = packet.icmp.filter(|_| packet.protocol == own) else {
                    return false;
                };
                *kind == 255 || *kind == is && (*first..=*last).contains(&code)
            }
            What::Set(at, sides) => self.in_set(*at, sides, flight),
            What::Mark(value, mask) => packet.mark & mask == *value,
            What::State(states) => {
                // Before connection tracking nothing is known of the packet.
                let state = match flight.state {
                    State::Untracked => State::Untracked,
                    _ if !flight.tracked => State::Invalid,
                    state => state,
                };
                states.states.contains(&state)
                    || states.source_translated && flight.source_translated
                    || states.destination_translated && flight.destination_translated
            }
            What::Mac(mac) => match packet.mac {
                Some(is) if !flight.input.is_empty() => is == *mac,
                _ => return false,
            },
            What::AddressType(side, kind) => {
                let address = match side {
                    Side::Source => packet.source,
                    Side::Destination => packet.destination,
                };
                match kind {
                    AddressType::Local => host.is_local(address),
                    AddressType::Multicast => address.is_multicast(),
                    AddressType::Broadcast => is_broadcast(address),
                }
            }
            What::Limit => host.within_limits(),
        };
        plain != one.not
    }

    fn in_set(&self, at: usize, sides: &[Side], flight: &Flight<'_>) -> bool {
        let (set, packet) = (&self.sets[at], &flight.packet);
        let address = |side: Side| match side {
            Side::Source => flight.source,
            Side::Destination => flight.destination,
        };
        match *sides {
            [side] => set.has_net(address(side)),
            [first, second] if set.kind == crate::set::Kind::IpPort => {
                let port = match packet.protocol {
                    TCP | UDP | SCTP | UDPLITE => {
                        let Some((from, to)) = packet.ports else { return false };
                        if second == Side::Source { from } else { to }
                    }
                    ICMP | ICMPV6 => match packet.icmp {
                        Some((kind, code)) => u16::from_be_bytes([kind, code]),
                        None => return false,
                    },
                    _ => 0,
                };
                set.has_port(address(first), packet.protocol, port)
            }
            [first, second] => {
                let name = if second == Side::Source { flight.input } else { flight.output };
                !name.is_empty() && set.has_iface(address(first), name)
            }
            _ => false,
        }
    }
}

/// Is it the interface, or one whose name begins so?
fn named(name: &str, more: bool, interface: &str) -> bool {
    if more { interface.starts_with(name) } else { interface == name }
}

impl Flight<'_> {
    /// Only the first packet of a connection is translated, once at each end.
    fn asks_nat(&self, hook: Hook) -> bool {
        let known = match hook {
            // Come back through the loopback interface.
            Hook::Prerouting | Hook::Input => {
                self.input == "lo" && self.packet.origin == Origin::Host
            }
            _ => false,
        };
        self.state == State::New && !known
    }

    fn translate(&mut self, address: Option<IpAddr>, port: Option<u16>) {
        let packet = self.packet.to_mut();
        if let Some(address) = address {
            packet.destination = address;
            self.destination = number(address);
        }
        if let (Some(port), Some(ports)) = (port, &mut packet.ports) {
            ports.1 = port;
        }
        self.destination_translated = true;
    }

    fn outcome(self, fate: Fate) -> Outcome {
        let by = if fate.passed() { By::Nothing } else { self.by };
        Outcome {
            fate,
            by,
            mark: self.packet.mark,
            source: self.packet.source,
            masqueraded: self.masqueraded,
            destination: self.packet.destination,
            ports: self.packet.ports,
            untracked: self.untracked,
            matched: self.matched,
        }
    }
}
