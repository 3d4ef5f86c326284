//! A packet on its way, and what has been done to it.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::hook::Hook;
use crate::net::number;
use crate::packet::{Origin, Packet, State};
use crate::tables::RuleAt;
use crate::walk::{By, Fate, Outcome};

/// A packet on its way.
pub(crate) struct Flight<'a> {
    pub(crate) packet: Cow<'a, Packet>,
    pub(crate) source: u128,
    pub(crate) destination: u128,
    pub(crate) input: &'a str,
    pub(crate) output: &'a str,
    pub(crate) state: State,
    pub(crate) tracked: bool,
    pub(crate) source_translated: bool,
    pub(crate) destination_translated: bool,
    pub(crate) masqueraded: bool,
    pub(crate) untracked: bool,
    pub(crate) by: By,
    pub(crate) matched: Vec<RuleAt>,
}

impl Flight<'_> {
    /// Only the first packet of a connection is translated, once at each end.
    pub(crate) fn asks_nat(&self, hook: Hook) -> bool {
        let known = match hook {
            // Come back through the loopback interface.
            Hook::Prerouting | Hook::Input => {
                self.input == "lo" && self.packet.origin == Origin::Host
            }
            _ => false,
        };
        self.state == State::New && !known
    }

    pub(crate) fn translate(&mut self, address: Option<IpAddr>, port: Option<u16>) {
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

    pub(crate) fn outcome(self, fate: Fate) -> Outcome {
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
