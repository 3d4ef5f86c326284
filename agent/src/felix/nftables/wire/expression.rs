//! Expressions as attributes, both ways.

use super::super::expr::{Data, Expr, Layer, MetaKey, NAT_OWN_FLAGS, NAT_PORTS, Op, Reg, SetRef};
use super::super::object::Verdict;
use super::attributes::Writer;
use crate::netlink::{attribute, attributes, be32, text};

/// `NFTA_LIST_ELEM`.
pub(in crate::felix::nftables) const LIST_ELEMENT: u16 = 1;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`, `NF_DROP`, `NF_ACCEPT`.
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
/// `NFT_LIMIT_PKTS`.
const PACKETS: u32 = 0;
/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;
/// `NFT_NAT_SNAT`, `NFT_NAT_DNAT`.
const SNAT: u32 = 0;
const DNAT: u32 = 1;
/// What the kernel calls a set until it has given it a number.
pub(in crate::felix::nftables) const ANONYMOUS: &str = "__set%d";

/// Writes bytes as `NFTA_DATA_VALUE` of an attribute.
pub(in crate::felix::nftables) fn data(w: &mut Writer<'_>, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.bytes(VALUE, bytes));
}

/// Writes a verdict as data.
pub(in crate::felix::nftables) fn verdict(w: &mut Writer<'_>, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (ACCEPT, None),
        Verdict::Drop => (DROP, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(chain) => (JUMP, Some(chain)),
        Verdict::Goto(chain) => (GOTO, Some(chain)),
    };
    w.nest(kind, |w| {
        w.nest(VERDICT, |w| {
            w.be32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                w.text(2, chain);
            }
        });
    });
}

/// Reads a verdict from data.
pub(in crate::felix::nftables) fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = attribute(data, VERDICT)?;
    let chain = || attribute(verdict, 2).and_then(text).map(Into::into);
    match attribute(verdict, 1).and_then(be32)?.cast_signed() {
        ACCEPT => Some(Verdict::Accept),
        DROP => Some(Verdict::Drop),
        RETURN => Some(Verdict::Return),
        JUMP => chain().map(Verdict::Jump),
        GOTO => chain().map(Verdict::Goto),
        _ => None,
    }
}

/// Writes one expression of a list. `anonymous` is the number in the batch of the set that it looks
/// into, where that has no name.
pub(in crate::felix::nftables) fn expression(w: &mut Writer<'_>, expr: &Expr, anonymous: u32) {
    w.nest(LIST_ELEMENT, |w| {
        w.text(1, name(expr));
        match expr {
            // The kernel takes it without data, and nft writes it so.
            Expr::Notrack => {}
            _ => w.nest(2, |w| body(w, expr, anonymous)),
        }
    });
}

fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::Payload { .. } => "payload",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Lookup { .. } => "lookup",
        Expr::Value { .. } | Expr::Verdict(_) => "immediate",
        Expr::Counter => "counter",
        Expr::Limit { .. } => "limit",
        Expr::Log { .. } | Expr::LogGroup { .. } => "log",
        Expr::Reject { .. } => "reject",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Notrack => "notrack",
        Expr::Other(name) => name,
    }
}

fn body(w: &mut Writer<'_>, expr: &Expr, anonymous: u32) {
    match expr {
        Expr::Meta { key, to } => {
            w.be32(2, key.0);
            w.be32(1, *to);
        }
        Expr::MetaSet { key, from } => {
            w.be32(2, key.0);
            w.be32(3, *from);
        }
        Expr::Ct { key, to } => {
            w.be32(2, *key);
            w.be32(1, *to);
        }
        Expr::Payload { layer, offset, len, to } => {
            w.be32(1, *to);
            w.be32(2, layer.0);
            w.be32(3, *offset);
            w.be32(4, *len);
        }
        Expr::Bitwise { from, to, mask, xor } => {
            w.be32(1, *from);
            w.be32(2, *to);
            w.be32(3, u32::try_from(mask.bytes().len()).unwrap_or(16));
            data(w, 4, mask.bytes());
            data(w, 5, xor.bytes());
        }
        Expr::Cmp { reg, op, data: value } => {
            w.be32(1, *reg);
            w.be32(2, op.0);
            data(w, 3, value.bytes());
        }
        Expr::Range { reg, op, first, last } => {
            w.be32(1, *reg);
            w.be32(2, op.0);
            data(w, 3, first.bytes());
            data(w, 4, last.bytes());
        }
        Expr::Lookup { set, reg, not, verdict } => {
            w.be32(2, *reg);
            if *verdict {
                w.be32(3, 0);
            }
            match set {
                SetRef::Named(name) => w.text(1, name),
                SetRef::Anonymous(_) => {
                    w.text(1, ANONYMOUS);
                    w.be32(4, anonymous);
                }
            }
            if *not {
                w.be32(5, INVERTED);
            }
        }
        Expr::Value { to, data: value } => {
            w.be32(1, *to);
            data(w, 2, value.bytes());
        }
        Expr::Verdict(value) => {
            w.be32(1, 0);
            verdict(w, 2, value);
        }
        Expr::Limit { rate, unit, burst } => {
            w.be64(1, *rate);
            w.be64(2, *unit);
            w.be32(3, *burst);
            w.be32(4, PACKETS);
            w.be32(5, 0);
        }
        Expr::Log { prefix, level } => {
            w.text(2, prefix);
            w.be32(5, *level);
        }
        Expr::LogGroup { prefix, group } => {
            w.text(2, prefix);
            w.be16(1, *group);
        }
        Expr::Reject { kind, code } => {
            w.be32(1, *kind);
            w.bytes(2, &[*code]);
        }
        Expr::Nat { destination, family, address, ports, flags } => {
            w.be32(1, if *destination { DNAT } else { SNAT });
            w.be32(2, u32::from(*family));
            w.be32(3, *address);
            port_registers(w, *ports, *flags, [5, 6, 7]);
        }
        Expr::Masquerade { ports, flags } => port_registers(w, *ports, *flags, [2, 3, 1]),
        Expr::Counter | Expr::Notrack | Expr::Other(_) => {}
    }
}

fn port_registers(w: &mut Writer<'_>, ports: Option<(Reg, Reg)>, flags: u32, kinds: [u16; 3]) {
    let mut flags = flags;
    if let Some((first, last)) = ports {
        w.be32(kinds[0], first);
        if last != first {
            w.be32(kinds[1], last);
        }
        flags |= NAT_PORTS;
    }
    if flags != 0 {
        w.be32(kinds[2], flags);
    }
}

/// Reads the expressions of a rule. Looking into a set without a name of ours, a rule is read with the
/// kernel's name of it.
pub(in crate::felix::nftables) fn read_expressions(list: &[u8]) -> Vec<Expr> {
    let elements = attributes(list).filter(|(kind, _)| *kind == LIST_ELEMENT);
    elements.map(|(_, element)| read_expression(element)).collect()
}

fn read_expression(element: &[u8]) -> Expr {
    let name = attribute(element, 1).and_then(text).unwrap_or_default();
    let body = attribute(element, 2).unwrap_or_default();
    read_body(name, body).unwrap_or_else(|| Expr::Other(name.to_owned()))
}

fn value(data: &[u8]) -> Option<Data> {
    attribute(data, VALUE).filter(|bytes| bytes.len() <= 16).map(Data::new)
}

fn read_body(name: &str, body: &[u8]) -> Option<Expr> {
    let number = |kind| attribute(body, kind).and_then(be32);
    let bytes = |kind| attribute(body, kind).and_then(value);
    let long = |kind| Some(u64::from_be_bytes(attribute(body, kind)?.try_into().ok()?));
    match name {
        "meta" => match number(3) {
            Some(from) => Some(Expr::MetaSet { key: MetaKey(number(2)?), from }),
            None => Some(Expr::Meta { key: MetaKey(number(2)?), to: number(1)? }),
        },
        // With a direction it is another property.
        "ct" if attribute(body, 3).is_none() => Some(Expr::Ct { key: number(2)?, to: number(1)? }),
        "payload" => Some(Expr::Payload {
            layer: Layer(number(2)?),
            offset: number(3)?,
            len: number(4)?,
            to: number(1)?,
        }),
        "bitwise" if number(6).unwrap_or(0) == 0 => Some(Expr::Bitwise {
            from: number(1)?,
            to: number(2)?,
            mask: bytes(4)?,
            xor: bytes(5)?,
        }),
        "cmp" => Some(Expr::Cmp { reg: number(1)?, op: Op(number(2)?), data: bytes(3)? }),
        "range" => Some(Expr::Range {
            reg: number(1)?,
            op: Op(number(2)?),
            first: bytes(3)?,
            last: bytes(4)?,
        }),
        "lookup" => Some(Expr::Lookup {
            set: SetRef::Named(attribute(body, 1).and_then(text)?.to_owned()),
            reg: number(2)?,
            not: number(5).unwrap_or(0) & INVERTED != 0,
            verdict: number(3) == Some(0),
        }),
        "immediate" if number(1)? == 0 => {
            Some(Expr::Verdict(attribute(body, 2).and_then(read_verdict)?))
        }
        "immediate" => Some(Expr::Value { to: number(1)?, data: bytes(2)? }),
        "counter" => Some(Expr::Counter),
        // Any other kind, or one that is inverted, is none of ours.
        "limit" if number(4).unwrap_or(0) == PACKETS && number(5).unwrap_or(0) == 0 => {
            Some(Expr::Limit { rate: long(1)?, unit: long(2)?, burst: number(3)? })
        }
        "log" => {
            let prefix = attribute(body, 2).and_then(text).unwrap_or_default().to_owned();
            let flags = number(6).unwrap_or(0);
            match attribute(body, 1) {
                _ if flags != 0 => None,
                Some(group) => {
                    let group = u16::from_be_bytes(group.try_into().ok()?);
                    Some(Expr::LogGroup { prefix, group })
                }
                None => Some(Expr::Log { prefix, level: number(5)? }),
            }
        }
        "reject" => {
            let code = attribute(body, 2).and_then(|code| code.first().copied()).unwrap_or(0);
            Some(Expr::Reject { kind: number(1)?, code })
        }
        "nat" => {
            let address = number(3)?;
            // A range of addresses is none of ours.
            if number(4).is_some_and(|last| last != address) {
                return None;
            }
            Some(Expr::Nat {
                destination: number(1)? == DNAT,
                family: u8::try_from(number(2)?).ok()?,
                address,
                ports: number(5).map(|first| (first, number(6).unwrap_or(first))),
                flags: number(7).unwrap_or(0) & NAT_OWN_FLAGS,
            })
        }
        "masq" => Some(Expr::Masquerade {
            ports: number(2).map(|first| (first, number(3).unwrap_or(first))),
            flags: number(1).unwrap_or(0) & NAT_OWN_FLAGS,
        }),
        "notrack" => Some(Expr::Notrack),
        _ => None,
    }
}
