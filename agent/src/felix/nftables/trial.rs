//! What a kernel has to know for our table: each thing written by itself. For `check`, in a network
//! namespace that is thrown away; at a start in transactions that leave nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calico_datastore::model::{Cidr, Family, InterfaceName};

use super::groups::Groups;
use super::object::{
    Base, BaseKind, Chain, Change, CtStates, DispatchKey, Element, Hook, Match, Name, Rule,
    SetKind, SetSpec, Side, Statement, Verdict,
};
use super::render::groups::BASE;
use super::table::Table;
use crate::felix::counters::Counters;
use crate::telemetry::chain;

/// The loopback interface, which every namespace has under this index.
const LOOPBACK: u32 = 1;
/// A group of ours.
const GROUP: u32 = BASE + 1;
/// A table that nobody else has.
const TABLE: &str = "calico-check";

/// One thing.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What.
    pub what: &'static str,
    /// What of ours needs it; `None`: everything.
    pub needed_for: Option<&'static str>,
    /// What was said when it does not work.
    pub result: Result<(), String>,
}

/// Tries everything in the network namespace of the calling thread.
pub fn trials() -> Vec<Trial> {
    let mut out = Vec::new();
    let mut add = |what, needed_for, result: Result<(), String>| {
        out.push(Trial { what, needed_for, result });
    };
    for (what, needed_for, changes) in things() {
        add(what, needed_for, try_one(&changes));
    }
    let moved = Groups::open().and_then(|mut groups| groups.set(LOOPBACK, GROUP));
    add("groups of interfaces", None, moved.map(drop).map_err(|error| error.to_string()));
    out
}

/// What this kernel lacks of what everything needs, without touching what is there: the first such thing, and what
/// the kernel says. Costs some milliseconds.
pub fn lack() -> Option<String> {
    first_lack(things().into_iter().filter(|(_, needed_for, _)| needed_for.is_none()))
}

fn first_lack(things: impl IntoIterator<Item = Thing>) -> Option<String> {
    let mut table = match Table::open(TABLE, Counters::default()) {
        Ok(table) => table,
        Err(error) => return Some(chain(&error)),
    };
    things.into_iter().find_map(|(what, _, changes)| {
        let error = table.rehearse(&changes).err()?;
        Some(format!("this kernel does not take {what}: {}", chain(&error)))
    })
}

fn try_one(changes: &[Change]) -> Result<(), String> {
    let mut table = Table::open(TABLE, Counters::default()).map_err(|error| chain(&error))?;
    let written = table.write(changes).map(drop).map_err(|error| chain(&error));
    // What was refused left nothing.
    let removed = table.remove().map(drop).map_err(|error| chain(&error));
    written.and(removed)
}

type Thing = (&'static str, Option<&'static str>, Vec<Change>);

fn things() -> Vec<Thing> {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let lo = || "lo".parse::<InterfaceName>().ok();
    let set = |kind, element: Option<Element>| {
        let name = Name::from("set");
        let spec = SetSpec { kind, counters: false };
        let create = Change::CreateSet(name.clone(), spec);
        [create].into_iter().chain(element.map(|one| Change::Add(name, one))).collect()
    };
    let base = |kind, hook, statements: Vec<Statement>, matches: Vec<Match>| {
        let base = Some(Base { kind, hook, priority: 0 });
        let rules = vec![Rule { matches, statements, comment: None }];
        vec![Change::PutChain(Name::from("chain"), Arc::new(Chain { base, rules }))]
    };
    let forward = |statements, matches| base(BaseKind::Filter, Hook::Forward, statements, matches);
    let dropped = || vec![Statement::Counter, Statement::Verdict(Verdict::Drop)];
    let states = Match::CtState { states: CtStates::ESTABLISHED, not: false };
    let mut dispatch = forward(
        vec![Statement::Dispatch { key: DispatchKey::InGroup, map: Name::from("set") }],
        Vec::new(),
    );
    dispatch.extend(set(SetKind::VerdictsByGroup, Some(Element::Group(GROUP, Verdict::Drop))));
    let counted = SetSpec { kind: SetKind::InterfaceAddress(Family::V4), counters: true };
    let known = |name| Element::InterfaceAddress(name, address);
    let nets = |name| Element::InterfaceNet(name, Cidr::host(address));
    let masquerade = Statement::Snat { to: None, ports: None, random_fully: true };
    let reported = Statement::LogGroup { group: 5, prefix: "calico".into() };
    vec![
        ("chains and rules", None, forward(dropped(), Vec::new())),
        (
            "sets of interfaces and addresses",
            None,
            set(SetKind::InterfaceAddress(Family::V4), lo().map(known)),
        ),
        (
            "sets of interfaces and prefixes",
            None,
            set(SetKind::InterfaceNet(Family::V4), lo().map(nets)),
        ),
        (
            "sets of ranges",
            None,
            set(SetKind::Interval(Family::V4), Some(Element::Range(address, address))),
        ),
        ("verdicts by group", None, dispatch),
        ("conntrack", None, forward(dropped(), vec![states])),
        (
            "sets that count",
            Some("EndpointCounters"),
            vec![Change::CreateSet(Name::from("set"), counted)],
        ),
        (
            "masquerade",
            Some("natOutgoing"),
            base(BaseKind::Nat, Hook::Postrouting, vec![masquerade], Vec::new()),
        ),
        (
            "dnat",
            Some("FloatingIPs"),
            base(
                BaseKind::Nat,
                Hook::Prerouting,
                vec![Statement::Dnat { to: address, port: None }],
                vec![Match::Address {
                    side: Side::Destination,
                    net: Cidr::host(address),
                    not: false,
                }],
            ),
        ),
        (
            "notrack",
            Some("doNotTrack"),
            base(BaseKind::Filter, Hook::Prerouting, vec![Statement::Notrack], Vec::new()),
        ),
        (
            "reject",
            Some("IptablesFilterDenyAction Reject"),
            forward(vec![Statement::Reject], vec![]),
        ),
        (
            "log",
            Some("rules with the action Log"),
            forward(vec![Statement::Log { prefix: "calico".into() }], vec![]),
        ),
        (
            "log group and limit",
            Some("DeniedLog"),
            forward(vec![reported], vec![Match::Limit { rate: 10, burst: 10 }]),
        ),
    ]
}
