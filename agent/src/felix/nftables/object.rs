//! What our table holds, as values: chains of rules, sets with their elements.
//!
//! A rule says what an administrator reads in `nft list ruleset`: matches by name of what is matched,
//! not registers and offsets. All matches of a rule are AND-ed; what is OR-ed is several rules or a
//! set.

use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{Cidr, Family, InterfaceName, Mac, PortRange};

/// The name of a chain or a set: letters, digits, `_`, `.`, `-`, `/`; a letter first; at most 255
/// bytes (`NFT_NAME_MAXLEN`).
pub type Name = Arc<str>;

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come from, of a chain that the kernel calls. Its policy is always accept.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// How the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// `filter` or `nat`.
    pub kind: BaseKind,
    /// Where.
    pub hook: Hook,
    /// When, among the chains of the hook: lower is earlier (`filter` is 0, `raw` -300).
    pub priority: i32,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    /// Every packet.
    Filter,
    /// The first packet of each connection.
    Nat,
}

/// A netfilter hook (`NF_INET_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the host itself.
    Input,
    /// Through the host.
    Forward,
    /// From the host itself.
    Output,
    /// After routing.
    Postrouting,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of them have to match. The order is that of evaluation: cheap ones first.
    pub matches: Vec<Match>,
    /// What happens then, in order.
    pub statements: Vec<Statement>,
    /// What a reader is told; at most 128 bytes.
    pub comment: Option<Arc<str>>,
}

/// Which of the two ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// `saddr`, `sport`.
    Source,
    /// `daddr`, `dport`.
    Destination,
}

/// Which interface of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// `iifname`.
    In,
    /// `oifname`.
    Out,
}

/// One criterion. What names a family, in an address or a set, matches packets of that family only,
/// negated or not: a rule of one family never touches the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `meta nfproto`.
    Family(Family),
    /// `meta l4proto`: that number, or any other. IPv6 extension headers are skipped by the kernel.
    Protocol {
        /// IANA number.
        number: u8,
        /// Any but this one.
        not: bool,
    },
    /// `ip saddr 10.0.0.0/8`. A prefix of length 0 only asks the family; negated it never matches.
    Address {
        /// Which end.
        side: Side,
        /// The prefix.
        net: Cidr,
        /// Any address of the family but these.
        not: bool,
    },
    /// `ip saddr { 10.0.0.0/8, 192.0.2.1 }`: in one of several prefixes of one family, which may
    /// overlap; at least one.
    AddressAmong {
        /// Which end.
        side: Side,
        /// The prefixes, all of one family.
        nets: Vec<Cidr>,
        /// In none of them.
        not: bool,
    },
    /// `ip saddr @name`, with `mask` `ip saddr & 255.255.255.0 @name`. The set is a
    /// [`SetKind::Address`], or, without a mask, a [`SetKind::Interval`].
    AddressIn {
        /// Which end.
        side: Side,
        /// The family of the set.
        family: Family,
        /// The set.
        set: Name,
        /// How many leading bits are looked up; the others are 0 in the elements.
        mask: Option<u8>,
        /// Not in the set.
        not: bool,
    },
    /// `tcp dport { 80, 8000-8080 }` of whichever protocol the packet has: another match makes sure
    /// that it is one with ports. Ranges that do not overlap, at least one.
    Ports {
        /// Which end.
        side: Side,
        /// The ranges.
        ranges: Vec<PortRange>,
        /// None of them.
        not: bool,
    },
    /// `ip daddr . meta l4proto . th dport @name`, a [`SetKind::AddressPort`]. As for ports, another
    /// match asks for the protocol.
    AddressPortIn {
        /// Which end.
        side: Side,
        /// The family of the set.
        family: Family,
        /// The set.
        set: Name,
        /// Not in the set.
        not: bool,
    },
    /// `icmp type 8 code 0`. Another match asks for the protocol.
    Icmp {
        /// The type.
        icmp_type: u8,
        /// The code.
        code: Option<u8>,
        /// Any other.
        not: bool,
    },
    /// `icmpv6 type { … }`: one of these types. Another match asks for the protocol.
    IcmpAmong {
        /// The types; at least one.
        types: Vec<u8>,
    },
    /// `iifname "cali*"`.
    Interface {
        /// Which one.
        way: Way,
        /// Its name.
        name: InterfacePattern,
        /// Any other.
        not: bool,
    },
    /// `iifname . ip saddr @name`, a [`SetKind::InterfaceAddress`].
    InterfaceAddressIn {
        /// Which interface: of a packet that comes in with the source, that goes out with the
        /// destination.
        way: Way,
        /// The family of the set.
        family: Family,
        /// The set.
        set: Name,
        /// Not in the set.
        not: bool,
    },
    /// `iifname @name`, a [`SetKind::Interface`].
    InterfaceIn {
        /// Which one.
        way: Way,
        /// The set.
        set: Name,
        /// Not in the set.
        not: bool,
    },
    /// `iifname . ether saddr @name`, a [`SetKind::InterfaceMac`].
    SourceMacIn {
        /// The set.
        set: Name,
        /// Not in the set.
        not: bool,
    },
    /// `ct state established,related`: in one of these.
    CtState {
        /// The states.
        states: CtStates,
        /// In none of them.
        not: bool,
    },
    /// `ct status dnat`: its destination was translated.
    CtDnat,
    /// `meta mark & mask == value`.
    Mark {
        /// The bits that are looked at.
        mask: u32,
        /// What they are.
        value: u32,
    },
    /// `limit rate 10/second burst 10 packets`: goes on only so often.
    Limit {
        /// Packets a second.
        rate: u32,
        /// Packets at once.
        burst: u32,
    },
}

/// States of a connection, as bits (`NF_CT_STATE_BIT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CtStates(pub u32);

impl CtStates {
    /// Belongs to nothing that can be.
    pub const INVALID: Self = Self(1);
    /// The packets of a connection that had an answer.
    pub const ESTABLISHED: Self = Self(1 << 1);
    /// Of a connection that belongs to another one.
    pub const RELATED: Self = Self(1 << 2);
    /// The first packets.
    pub const NEW: Self = Self(1 << 3);
    /// Not tracked (`NF_CT_STATE_UNTRACKED_BIT`).
    pub const UNTRACKED: Self = Self(1 << 6);

    /// Either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A name of an interface, or what it begins with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfacePattern {
    /// That one.
    Is(InterfaceName),
    /// Every one whose name begins so; at most 15 bytes, not empty.
    Begins(Arc<str>),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `counter`: from zero.
    Counter,
    /// `log prefix "…" level notice`, to the kernel's log.
    Log {
        /// What the line begins with; at most 127 bytes (`NF_LOG_PREFIXLEN`).
        prefix: Arc<str>,
    },
    /// `log group 3 prefix "…"`, to who reads that group.
    LogGroup {
        /// The group.
        group: u16,
        /// What is told with the packet.
        prefix: Arc<str>,
    },
    /// `meta mark set meta mark & ~mask | value`.
    SetMark {
        /// The bits that change.
        mask: u32,
        /// What they become.
        value: u32,
    },
    /// `notrack`.
    Notrack,
    /// `iifgroup vmap @name`: what the map says for the key, if it says anything. A
    /// [`SetKind::VerdictsByGroup`] or [`SetKind::VerdictsByName`].
    Dispatch {
        /// What is looked up.
        key: DispatchKey,
        /// The map.
        map: Name,
    },
    /// `dnat ip to 10.0.0.1`, `dnat ip to 10.0.0.1:80`.
    Dnat {
        /// Where to.
        to: IpAddr,
        /// And to which port; only of a protocol with ports.
        port: Option<u16>,
    },
    /// `snat ip to …`, `masquerade`; the ports only of a protocol with ports.
    Snat {
        /// The source that it gets; `None` = that of the interface it leaves by.
        to: Option<IpAddr>,
        /// One of these ports.
        ports: Option<PortRange>,
        /// `fully-random`.
        random_fully: bool,
    },
    /// `reject`: an ICMP error, for either family.
    Reject,
    /// The last word.
    Verdict(Verdict),
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// On to the next base chain.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the rule behind the last `jump`, or to the end of the base chain.
    Return,
    /// Through that chain, and back.
    Jump(Name),
    /// Through that chain, and not back here.
    Goto(Name),
}

/// What a verdict map is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DispatchKey {
    /// `iifgroup`.
    InGroup,
    /// `oifgroup`.
    OutGroup,
    /// `iifname`.
    InName,
    /// `oifname`.
    OutName,
}

/// What a set is, apart from its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// What its elements are.
    pub kind: SetKind,
    /// Each element counts the packets that it is found for.
    pub counters: bool,
}

/// What the elements of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetKind {
    /// Addresses, or prefixes of one length that is asked for with a mask: a hash.
    Address(Family),
    /// Ranges of addresses that do not overlap: `flags interval`.
    Interval(Family),
    /// Address, protocol, port.
    AddressPort(Family),
    /// Interface and address.
    InterfaceAddress(Family),
    /// Interface and prefixes, of any length: `flags interval`. What is asked is the same.
    InterfaceNet(Family),
    /// Interface.
    Interface,
    /// Interface and MAC.
    InterfaceMac,
    /// A map from the group of an interface to a verdict.
    VerdictsByGroup,
    /// A map from the name of an interface to a verdict.
    VerdictsByName,
}

/// An element, of the kind of its set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// Of [`SetKind::Address`].
    Address(IpAddr),
    /// Of [`SetKind::Interval`]: first and last address.
    Range(IpAddr, IpAddr),
    /// Of [`SetKind::AddressPort`]: address, protocol number, port.
    AddressPort(IpAddr, u8, u16),
    /// Of [`SetKind::InterfaceAddress`].
    InterfaceAddress(InterfaceName, IpAddr),
    /// Of [`SetKind::InterfaceNet`].
    InterfaceNet(InterfaceName, Cidr),
    /// Of [`SetKind::Interface`].
    Interface(InterfaceName),
    /// Of [`SetKind::InterfaceMac`].
    InterfaceMac(InterfaceName, Mac),
    /// Of [`SetKind::VerdictsByGroup`].
    Group(u32, Verdict),
    /// Of [`SetKind::VerdictsByName`].
    Named(InterfaceName, Verdict),
}

/// One change of the table. A list of them is one transaction: packets see all of it or nothing, and
/// the order of the list does not matter. An object may be named once as what comes or changes and
/// once as what goes: it is replaced then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The chain is there and holds these rules, whatever it was before.
    PutChain(Name, Arc<Chain>),
    /// The chain is gone.
    DeleteChain(Name),
    /// A new set, without elements.
    CreateSet(Name, SetSpec),
    /// The set is gone.
    DeleteSet(Name),
    /// An element comes. Of a map: what the key led to before is gone.
    Add(Name, Element),
    /// An element goes, which is there.
    Delete(Name, Element),
}
