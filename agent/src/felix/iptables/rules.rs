//! One neutral rule as the rules of an iptables chain.
//!
//! iptables takes one source and one destination prefix per rule, and a port list of 15 slots. A
//! rule that needs more becomes *blocks*: each block asks one list and keeps what it found in a
//! scratch bit of the mark, and the last rule asks the bit together with everything that fits.

use std::borrow::Cow;
use std::fmt::Write as _;

use calico_datastore::model::{Action, Family, IcmpMatch, PortRange, Protocol};

use super::marks::{self, Marks};
use super::names;
use super::save::Table;
use crate::desired::SideMatch;
use crate::felix::ruleset::deny::DenyPoint;
use crate::felix::ruleset::{Direction, Rule};

/// How many slots a port list has; a range takes two.
const PORT_SLOTS: usize = 15;

/// What rules of one family have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    /// The family.
    pub family: Family,
    /// Our bits of the mark.
    pub marks: Marks,
    /// The target of a denied packet.
    pub deny: Cow<'static, str>,
    /// Whether denied packets are reported, and how.
    pub report: Option<Report>,
    /// Packets of pods are counted where they are dropped.
    pub counted: bool,
    /// What a logged packet's line begins with, at most 29 characters.
    pub log_prefix: String,
}

/// How denied packets are reported to who reads the kernel's packet log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The NFLOG group.
    pub group: u16,
    /// How many a second, and at once, of each place that drops.
    pub rate: u32,
}

impl Style {
    /// The target of a denied packet in a table: only `filter` knows how to reject.
    pub fn deny_in(&self, table: Table) -> Cow<'static, str> {
        if table == Table::Filter { self.deny.clone() } else { Cow::Borrowed("--jump DROP") }
    }

    /// The target of a packet that is denied in one direction, where it is of no matter by what: with
    /// [`Style::of`] of the table.
    pub fn denies(&self, direction: Direction) -> Cow<'static, str> {
        if !self.counted {
            return self.deny.clone();
        }
        let rejects = self.deny.ends_with(" REJECT");
        format!("--goto {}", names::count_denied(direction, rejects)).into()
    }

    /// The same for what is dropped, whatever a denied packet gets.
    pub fn drops(&self, direction: Direction) -> Cow<'static, str> {
        match self.counted {
            true => format!("--goto {}", names::count_denied(direction, false)).into(),
            false => "--jump DROP".into(),
        }
    }

    /// The same in a table. A place ([`Style::at`]) comes after it.
    pub fn of(&self, table: Table) -> Self {
        // What others drop or let pass, `filter` never sees.
        let counted = self.counted && table == Table::Filter;
        Self { deny: self.deny_in(table), counted, ..self.clone() }
    }

    /// The style of rules that drop at a certain place.
    pub fn at(&self, point: &DenyPoint) -> Self {
        let mut style = self.clone();
        style.deny = match self.report {
            Some(_) => format!("--goto {}", names::deny(point)).into(),
            None => self.denies(point.direction),
        };
        style
    }
}

/// The two sides of a packet as iptables spells them.
#[derive(Clone, Copy)]
enum Way {
    Source,
    Destination,
}

impl Way {
    fn net(self) -> &'static str {
        match self {
            Self::Source => "--source",
            Self::Destination => "--destination",
        }
    }

    fn ports(self) -> &'static str {
        match self {
            Self::Source => "--source-ports",
            Self::Destination => "--destination-ports",
        }
    }

    fn set(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
        }
    }
}

/// The rules that carry out `rule`, without chain and comment.
pub fn lines(rule: &Rule, style: &Style) -> Vec<String> {
    let marks = style.marks;
    let mut blocks = Blocks { marks, lines: Vec::new(), started: false, scratch1_used: false };
    let protocol = protocol_match(rule.protocol, rule.not_protocol);
    let mut rest = protocol.clone();
    let sides = [(Way::Source, &rule.source), (Way::Destination, &rule.destination)];

    // Positive lists first: the bit starts at zero only when one of them can set it.
    for (way, side) in sides {
        match side.nets.as_slice() {
            [] => {}
            [net] => push(&mut rest, &format!("{} {net}", way.net())),
            nets => blocks.any(nets.iter().map(|net| format!("{} {net}", way.net()))),
        }
    }
    for (way, side) in sides {
        let mut ports: Vec<String> = split_ports(&side.ports)
            .into_iter()
            .map(|group| format!("-m multiport {} {}", way.ports(), port_list(group)))
            .collect();
        ports.extend(side.named_ports.iter().map(|id| {
            format!("-m set --match-set {} {d},{d}", names::set(style.family, id), d = way.set())
        }));
        match ports.as_slice() {
            [] => {}
            [one] => push(&mut rest, one),
            many => blocks.any(many.iter().map(|ports| {
                let mut line = protocol.clone();
                push(&mut line, ports);
                line
            })),
        }
    }
    for (way, side) in sides {
        match side.not_nets.as_slice() {
            [] => {}
            // iptables takes `--source A` or `! --source B`, not both.
            [net] if side.nets.len() != 1 => push(&mut rest, &format!("! {} {net}", way.net())),
            nets => blocks.none(nets.iter().map(|net| format!("{} {net}", way.net()))),
        }
        push(&mut rest, &side_matches(way, side, style.family));
    }
    if let Some(icmp) = rule.icmp {
        push(&mut rest, &icmp_match("", icmp, style.family));
    }
    if let Some(icmp) = rule.not_icmp {
        push(&mut rest, &icmp_match("! ", icmp, style.family));
    }
    if blocks.started {
        push(&mut rest, &marks::has(marks.scratch0));
    }

    let mut lines = blocks.lines;
    match rule.action {
        Action::Allow => {
            lines.push(joined(&rest, &marks::put(marks.accept)));
            lines.push(joined(&marks::has(marks.accept), "--jump RETURN"));
        }
        Action::Pass => {
            lines.push(joined(&rest, &marks::put(marks.pass)));
            lines.push(joined(&marks::has(marks.pass), "--jump RETURN"));
        }
        Action::Deny => lines.push(joined(&rest, &style.deny)),
        Action::Log => {
            let log = format!("--jump LOG --log-prefix \"{}\" --log-level 5", style.log_prefix);
            lines.push(joined(&rest, &log));
        }
    }
    lines
}

/// Matches that AND by themselves: sets, and negated ports, of which a rule takes any number.
fn side_matches(way: Way, side: &SideMatch, family: Family) -> String {
    let mut out = String::new();
    let dir = way.set();
    for id in &side.sets {
        push(&mut out, &format!("-m set --match-set {} {dir}", names::set(family, id)));
    }
    for id in &side.not_sets {
        push(&mut out, &format!("-m set ! --match-set {} {dir}", names::set(family, id)));
    }
    for group in split_ports(&side.not_ports) {
        push(&mut out, &format!("-m multiport ! {} {}", way.ports(), port_list(group)));
    }
    for id in &side.not_named_ports {
        push(&mut out, &format!("-m set ! --match-set {} {dir},{dir}", names::set(family, id)));
    }
    out
}

fn protocol_match(protocol: Option<Protocol>, not: Option<Protocol>) -> String {
    match (protocol, not) {
        (Some(protocol), _) => format!("-p {protocol}"),
        (None, Some(protocol)) => format!("! -p {protocol}"),
        (None, None) => String::new(),
    }
}

fn icmp_match(not: &str, icmp: IcmpMatch, family: Family) -> String {
    let mut out = match family {
        Family::V4 => format!("-m icmp {not}--icmp-type {}", icmp.icmp_type),
        Family::V6 => format!("-m icmp6 {not}--icmpv6-type {}", icmp.icmp_type),
    };
    if let Some(code) = icmp.code {
        let _ = write!(out, "/{code}");
    }
    out
}

/// Ports in groups that fit one rule each, in their order.
pub fn split_ports(ports: &[PortRange]) -> Vec<&[PortRange]> {
    let mut groups = Vec::new();
    let (mut start, mut slots) = (0, 0);
    for (i, range) in ports.iter().enumerate() {
        let needs = if range.first() == range.last() { 1 } else { 2 };
        if slots + needs > PORT_SLOTS {
            groups.push(&ports[start..i]);
            (start, slots) = (i, 0);
        }
        slots += needs;
    }
    if start < ports.len() {
        groups.push(&ports[start..]);
    }
    groups
}

fn port_list(ports: &[PortRange]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn push(line: &mut String, part: &str) {
    if !line.is_empty() && !part.is_empty() {
        line.push(' ');
    }
    line.push_str(part);
}

pub(super) fn joined(matches: &str, target: &str) -> String {
    let mut line = matches.to_owned();
    push(&mut line, target);
    line
}

/// Lists that do not fit one rule. `scratch0` = every block so far matched.
struct Blocks {
    marks: Marks,
    lines: Vec<String>,
    started: bool,
    scratch1_used: bool,
}

impl Blocks {
    fn start(&mut self, matched: bool) {
        let Marks { scratch0, scratch1, .. } = self.marks;
        let value = if matched { scratch0 } else { 0 };
        self.lines.push(format!("--jump MARK --set-mark {value:#x}/{:#x}", scratch0 | scratch1));
        self.started = true;
    }

    /// One of `matches` must match.
    fn any(&mut self, matches: impl Iterator<Item = String>) {
        let Marks { scratch0, scratch1, .. } = self.marks;
        // The first list needs no bit of its own.
        let bit = if self.started { scratch1 } else { scratch0 };
        if !self.started {
            self.start(false);
        } else if self.scratch1_used {
            self.lines.push(marks::clear(scratch1));
        }
        self.lines.extend(matches.map(|m| joined(&m, &marks::put(bit))));
        if bit == scratch1 {
            self.scratch1_used = true;
            self.lines.push(joined(&marks::lacks(scratch1), &marks::clear(scratch0)));
        }
    }

    /// None of `matches` may match.
    fn none(&mut self, matches: impl Iterator<Item = String>) {
        if !self.started {
            self.start(true);
        }
        let clear = marks::clear(self.marks.scratch0);
        self.lines.extend(matches.map(|m| joined(&m, &clear)));
    }
}
