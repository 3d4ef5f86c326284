//! A rule as the kernel's expressions, written the way nft writes them: what `nft list ruleset` then
//! shows is plain syntax, and means the same when it is loaded again.
//!
//! nft leaves out of a listing what the syntax implies: `tcp dport 80` is a comparison of the
//! protocol and one of the port. So what a match needs is loaded once and before it, here as there.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};

use super::expr::{
    Anonymous, CT_STATE, CT_STATUS, Data, Expr, KeyType, Layer, MetaKey, NAT_RANDOM_FULLY, Op, Reg,
    SetRef,
};
use super::object::{DispatchKey, InterfacePattern, Match, Name, Rule, Side, Statement, Way};
use super::ranges::{self, mask};

/// IPPROTO_ICMP.
const ICMP: u8 = 1;
/// IPS_DST_NAT of `ct status`.
const STATUS_DNAT: u32 = 1 << 5;
/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
/// NFT_REJECT_ICMPX_UNREACH: whichever ICMP the packet's family has.
const REJECT_ICMPX: u32 = 2;
/// NFT_REJECT_ICMPX_PORT_UNREACH.
const PORT_UNREACHABLE: u8 = 1;
/// LOGLEVEL_NOTICE.
const NOTICE: u32 = 5;
/// NFTNL_UDATA_COMMENT_MAXLEN.
const COMMENT_MAX: usize = 128;
/// NF_LOG_PREFIXLEN without its NUL.
const PREFIX_MAX: usize = 127;
/// Where the rule's values are: sixteen bytes each.
const FIRST: Reg = 1;
const SECOND: Reg = 2;
const THIRD: Reg = 3;
/// The first piece of four bytes: where `FIRST` begins.
const PIECES: Reg = 8;

/// The expressions of a rule.
pub(super) fn lower(rule: &Rule) -> Vec<Expr> {
    let mut lowering = Lowering {
        out: Vec::with_capacity(4 * rule.matches.len() + 2),
        family: None,
        protocol: None,
    };
    rule.matches.iter().for_each(|one| lowering.one(one));
    rule.statements.iter().for_each(|one| lowering.statement(one));
    lowering.out
}

/// What a comment becomes: nft's syntax has no way to write a quotation mark within one.
pub(super) fn comment(text: &str) -> String {
    quotable(text, COMMENT_MAX)
}

fn quotable(text: &str, max: usize) -> String {
    let printable = |c: char| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    let mut out: String = text.chars().map(printable).collect();
    while out.len() > max {
        out.pop();
    }
    out
}

/// NFPROTO_IPV4, NFPROTO_IPV6.
pub(super) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The type of an address in a set.
pub(super) fn address_type(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::IPV4,
        Family::V6 => KeyType::IPV6,
    }
}

/// Offset and length of an address in its header.
fn address_place(family: Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    }
}

/// What interface names are compared with: sixteen bytes, NULs at the end.
pub(super) fn interface(name: &str) -> Data {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    Data::new(&bytes)
}

struct Lowering {
    out: Vec<Expr>,
    /// Which family was asked for so far.
    family: Option<Family>,
    /// Which protocol was.
    protocol: Option<u8>,
}

impl Lowering {
    fn one(&mut self, one: &Match) {
        match one {
            Match::Family(family) => self.family(*family),
            Match::Protocol { number, not } => {
                self.meta(MetaKey::L4PROTO);
                self.compare(Op::is(*not), Data::new(&[*number]));
                if !not {
                    self.protocol = Some(*number);
                }
            }
            Match::Address { side, net, not } => self.address(*side, net, *not),
            Match::AddressAmong { side, nets, not } => self.address_among(*side, nets, *not),
            Match::AddressIn { side, family, set, mask: bits, not } => {
                self.family(*family);
                let len = self.load_address(*family, *side, FIRST);
                if let Some(bits) = bits.filter(|bits| *bits < family.host_len()) {
                    self.and(mask(len, bits));
                }
                self.lookup(set, *not);
            }
            Match::Ports { side, ranges, not } => {
                self.load_port(*side, FIRST);
                self.among(KeyType::SERVICE, ranges::of_ports(ranges), *not);
            }
            Match::AddressPortIn { side, family, set, not } => {
                self.family(*family);
                let len = self.load_address(*family, *side, FIRST);
                let next = if len == 4 { PIECES + 1 } else { SECOND };
                self.out.push(Expr::Meta { key: MetaKey::L4PROTO, to: next });
                let port = if len == 4 { PIECES + 2 } else { PIECES + 5 };
                self.load_port(*side, port);
                self.lookup(set, *not);
            }
            Match::Icmp { icmp_type, code, not } => self.icmp(*icmp_type, *code, *not),
            Match::IcmpAmong { types } => {
                let key = if self.protocol == Some(ICMP) {
                    KeyType::ICMP_TYPE
                } else {
                    KeyType::ICMPV6_TYPE
                };
                self.payload(Layer::TRANSPORT, 0, 1, FIRST);
                let mut types: Vec<_> = types.iter().map(|one| Data::new(&[*one])).collect();
                types.sort_unstable();
                types.dedup();
                self.among(key, types.into_iter().map(|one| (one, one)).collect(), false);
            }
            Match::Interface { way, name, not } => {
                self.meta(interface_key(*way));
                let data = match name {
                    InterfacePattern::Is(name) => interface(name.as_str()),
                    InterfacePattern::Begins(start) => {
                        Data::new(&start.as_bytes()[..start.len().min(15)])
                    }
                };
                self.compare(Op::is(*not), data);
            }
            Match::InterfaceAddressIn { way, family, set, not } => {
                let side = match way {
                    Way::In => Side::Source,
                    Way::Out => Side::Destination,
                };
                self.family(*family);
                self.meta(interface_key(*way));
                self.load_address(*family, side, SECOND);
                self.lookup(set, *not);
            }
            Match::InterfaceIn { way, set, not } => {
                self.meta(interface_key(*way));
                self.lookup(set, *not);
            }
            Match::SourceMacIn { set, not } => {
                self.meta(MetaKey::IIFTYPE);
                self.compare(Op::EQ, Data::new(&ETHERNET.to_ne_bytes()));
                self.meta(MetaKey::IIFNAME);
                self.payload(Layer::LINK, 6, 6, SECOND);
                self.lookup(set, *not);
            }
            Match::CtState { states, not } => {
                self.out.push(Expr::Ct { key: CT_STATE, to: FIRST });
                self.and(Data::native(states.0));
                self.compare(Op::is(!not), Data::native(0));
            }
            Match::CtDnat => {
                self.out.push(Expr::Ct { key: CT_STATUS, to: FIRST });
                self.and(Data::native(STATUS_DNAT));
                self.compare(Op::NEQ, Data::native(0));
            }
            Match::Mark { mask, value } => {
                self.meta(MetaKey::MARK);
                if *mask != u32::MAX {
                    self.and(Data::native(*mask));
                }
                self.compare(Op::EQ, Data::native(*value));
            }
            Match::Limit { rate, burst } => {
                let rate = u64::from(*rate);
                self.out.push(Expr::Limit { rate, unit: 1, burst: *burst });
            }
        }
    }

    /// Asks for the family unless that was done already.
    fn family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.meta(MetaKey::NFPROTO);
            self.compare(Op::EQ, Data::new(&[nfproto(family)]));
            self.family = Some(family);
        }
    }

    fn meta(&mut self, key: MetaKey) {
        self.out.push(Expr::Meta { key, to: FIRST });
    }

    fn payload(&mut self, layer: Layer, offset: u32, len: u32, to: Reg) {
        self.out.push(Expr::Payload { layer, offset, len, to });
    }

    /// Loads an address and says how many bytes it has.
    fn load_address(&mut self, family: Family, side: Side, to: Reg) -> usize {
        let (offset, len) = address_place(family, side);
        self.payload(Layer::NETWORK, offset, len, to);
        if len == 4 { 4 } else { 16 }
    }

    fn load_port(&mut self, side: Side, to: Reg) {
        let offset = match side {
            Side::Source => 0,
            Side::Destination => 2,
        };
        self.payload(Layer::TRANSPORT, offset, 2, to);
    }

    fn and(&mut self, mask: Data) {
        let xor = Data::new(&[0; 16][..mask.bytes().len()]);
        self.out.push(Expr::Bitwise { from: FIRST, to: FIRST, mask, xor });
    }

    fn compare(&mut self, op: Op, data: Data) {
        self.out.push(Expr::Cmp { reg: FIRST, op, data });
    }

    fn lookup(&mut self, set: &Name, not: bool) {
        let set = SetRef::Named(set.to_string());
        self.out.push(Expr::Lookup { set, reg: FIRST, not, verdict: false });
    }

    fn address(&mut self, side: Side, net: &Cidr, not: bool) {
        let family = net.family();
        self.family(family);
        if net.prefix_len() == 0 && !not {
            return;
        }
        let (offset, len) = address_place(family, side);
        let bits = net.prefix_len();
        let data = ranges::address(net.address());
        // Whole bytes are loaded, and nothing else; only part of a byte needs a mask.
        let whole = usize::from(bits / 8);
        if bits > 0 && bits.is_multiple_of(8) {
            self.payload(Layer::NETWORK, offset, u32::from(bits / 8), FIRST);
            self.compare(Op::is(not), Data::new(&data.bytes()[..whole]));
        } else {
            self.payload(Layer::NETWORK, offset, len, FIRST);
            self.and(mask(data.bytes().len(), bits));
            self.compare(Op::is(not), data);
        }
    }

    fn address_among(&mut self, side: Side, nets: &[Cidr], not: bool) {
        let Some(one) = nets.first() else { return };
        let family = one.family();
        let ranges = ranges::of_nets(nets);
        // All of them together may be one prefix, which each of them tells.
        if let [(first, last)] = ranges[..]
            && let Some(bits) = ranges::prefix_len(first, last)
            && let Ok(net) = Cidr::new(one.address(), bits)
        {
            return self.address(side, &net, not);
        }
        self.family(family);
        self.load_address(family, side, FIRST);
        self.among(address_type(family), ranges, not);
    }

    /// What was loaded is in one of these ranges: one is compared with, several are a set.
    fn among(&mut self, key: KeyType, ranges: Vec<(Data, Data)>, not: bool) {
        match ranges[..] {
            [(first, last)] if first == last => self.compare(Op::is(not), first),
            [(first, last)] if not => {
                self.out.push(Expr::Range { reg: FIRST, op: Op::NEQ, first, last });
            }
            [(first, last)] => {
                self.compare(Op::GTE, first);
                self.compare(Op::LTE, last);
            }
            _ => self.among_set(Anonymous { key, ranges }, not),
        }
    }

    fn among_set(&mut self, set: Anonymous, not: bool) {
        let set = SetRef::Anonymous(set);
        self.out.push(Expr::Lookup { set, reg: FIRST, not, verdict: false });
    }

    fn icmp(&mut self, icmp_type: u8, code: Option<u8>, not: bool) {
        let Some(code) = code else {
            self.payload(Layer::TRANSPORT, 0, 1, FIRST);
            return self.compare(Op::is(not), Data::new(&[icmp_type]));
        };
        if !not {
            self.payload(Layer::TRANSPORT, 0, 2, FIRST);
            return self.compare(Op::EQ, Data::new(&[icmp_type, code]));
        }
        // A listing splits two bytes into type and code, and "neither" is not "not both".
        self.payload(Layer::TRANSPORT, 0, 1, FIRST);
        self.payload(Layer::TRANSPORT, 1, 1, PIECES + 1);
        let key = if self.protocol == Some(ICMP) {
            KeyType::ICMP_TYPE.then(KeyType::ICMP_CODE)
        } else {
            KeyType::ICMPV6_TYPE.then(KeyType::ICMPV6_CODE)
        };
        let both = Data::new(&[icmp_type, 0, 0, 0, code, 0, 0, 0]);
        self.among_set(Anonymous { key, ranges: vec![(both, both)] }, true);
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Counter => self.out.push(Expr::Counter),
            Statement::Log { prefix } => {
                let prefix = quotable(prefix, PREFIX_MAX);
                self.out.push(Expr::Log { prefix, level: NOTICE });
            }
            Statement::LogGroup { group, prefix } => {
                let prefix = quotable(prefix, PREFIX_MAX);
                self.out.push(Expr::LogGroup { prefix, group: *group });
            }
            Statement::SetMark { mask, value } => self.set_mark(*mask, *value),
            Statement::Notrack => self.out.push(Expr::Notrack),
            Statement::Dispatch { key, map } => {
                self.meta(match key {
                    DispatchKey::InGroup => MetaKey::IIFGROUP,
                    DispatchKey::OutGroup => MetaKey::OIFGROUP,
                    DispatchKey::InName => MetaKey::IIFNAME,
                    DispatchKey::OutName => MetaKey::OIFNAME,
                });
                let set = SetRef::Named(map.to_string());
                self.out.push(Expr::Lookup { set, reg: FIRST, not: false, verdict: true });
            }
            Statement::Dnat { to, port } => {
                self.nat(true, *to, port.map(|port| (port, port)), 0);
            }
            Statement::Snat { to, ports, random_fully } => {
                let flags = if *random_fully { NAT_RANDOM_FULLY } else { 0 };
                let ports = ports.map(|ports| (ports.first(), ports.last()));
                match to {
                    Some(to) => self.nat(false, *to, ports, flags),
                    None => {
                        let ports = self.ports(ports, FIRST);
                        self.out.push(Expr::Masquerade { ports, flags });
                    }
                }
            }
            Statement::Reject => {
                self.out.push(Expr::Reject { kind: REJECT_ICMPX, code: PORT_UNREACHABLE });
            }
            Statement::Verdict(verdict) => self.out.push(Expr::Verdict(verdict.clone())),
        }
    }

    fn set_mark(&mut self, mask: u32, value: u32) {
        match mask {
            0 => return,
            u32::MAX => self.out.push(Expr::Value { to: FIRST, data: Data::native(value) }),
            _ => {
                self.meta(MetaKey::MARK);
                let (mask, xor) = (Data::native(!mask), Data::native(value & mask));
                self.out.push(Expr::Bitwise { from: FIRST, to: FIRST, mask, xor });
            }
        }
        self.out.push(Expr::MetaSet { key: MetaKey::MARK, from: FIRST });
    }

    fn nat(&mut self, destination: bool, to: IpAddr, ports: Option<(u16, u16)>, flags: u32) {
        self.out.push(Expr::Value { to: FIRST, data: ranges::address(to) });
        let ports = self.ports(ports, SECOND);
        let family = nfproto(Family::of(to));
        self.out.push(Expr::Nat { destination, family, address: FIRST, ports, flags });
    }

    /// Loads ports; one port needs one register.
    fn ports(&mut self, ports: Option<(u16, u16)>, to: Reg) -> Option<(Reg, Reg)> {
        let (first, last) = ports?;
        self.out.push(Expr::Value { to, data: Data::port(first) });
        if first == last {
            return Some((to, to));
        }
        let next = if to == FIRST { SECOND } else { THIRD };
        self.out.push(Expr::Value { to: next, data: Data::port(last) });
        Some((to, next))
    }
}

fn interface_key(way: Way) -> MetaKey {
    match way {
        Way::In => MetaKey::IIFNAME,
        Way::Out => MetaKey::OIFNAME,
    }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
