//! The values that options take.

use std::net::IpAddr;

use crate::net::{Family, Net};
use crate::packet::{DCCP, ICMP, ICMPV6, SCTP, State, TCP, UDP, UDPLITE};
use crate::rule::{Side, States};

/// A name, and whether longer names match too.
pub(crate) fn interface(text: &str) -> (String, bool) {
    match text.strip_suffix('+') {
        Some(prefix) => (prefix.to_owned(), true),
        None => (text.to_owned(), false),
    }
}

pub(crate) fn net(text: &str, family: Family) -> Result<Net, String> {
    match Net::parse(text) {
        Ok(net) if net.family == family => Ok(net),
        _ => Err(format!("no prefix of the family: {text}")),
    }
}

/// A protocol by name or number; 0 is all.
pub(crate) fn protocol_number(text: &str) -> Option<u8> {
    Some(match text {
        "all" => 0,
        "icmp" => ICMP,
        "igmp" => 2,
        "ipencap" | "ipip" | "ipv4" => 4,
        "tcp" => TCP,
        "egp" => 8,
        "udp" => UDP,
        "dccp" => DCCP,
        "ipv6" => 41,
        "gre" => 47,
        "esp" | "ipv6-crypt" => 50,
        "ah" | "ipv6-auth" => 51,
        "icmpv6" | "ipv6-icmp" | "icmp6" => ICMPV6,
        "ospf" | "ospfigp" => 89,
        "vrrp" => 112,
        "l2tp" => 115,
        "sctp" => SCTP,
        "udplite" => UDPLITE,
        _ => return text.parse().ok(),
    })
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("no port: {text}"))
}

/// `80`, `80:90`, `:90`, `80:`.
pub(crate) fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = match text.split_once(':') {
        None => {
            let one = port(text)?;
            (one, one)
        }
        Some((first, last)) => (
            if first.is_empty() { 0 } else { port(first)? },
            if last.is_empty() { u16::MAX } else { port(last)? },
        ),
    };
    if first > last { Err(format!("no range: {text}")) } else { Ok((first, last)) }
}

/// A list for `-m multiport`: 15 slots, of which a range takes two.
pub(crate) fn ranges(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let slots: usize = text.split(',').map(|one| if one.contains(':') { 2 } else { 1 }).sum();
    if slots > 15 {
        return Err(format!("more than 15 ports: {text}"));
    }
    text.split(',').map(range).collect()
}

/// `8`, `8/0`, `any`.
pub(crate) fn icmp(text: &str) -> Result<(u8, (u8, u8)), String> {
    let byte = |text: &str| text.parse().map_err(|_| format!("no ICMP type: {text}"));
    Ok(match text.split_once('/') {
        _ if text == "any" => (255, (0, 255)),
        None => (byte(text)?, (0, 255)),
        Some((kind, code)) => {
            let code = byte(code)?;
            (byte(kind)?, (code, code))
        }
    })
}

/// `src`, `dst,dst`, …
pub(crate) fn sides(text: &str) -> Result<Vec<Side>, String> {
    text.split(',')
        .map(|one| match one {
            "src" => Ok(Side::Source),
            "dst" => Ok(Side::Destination),
            _ => Err(format!("neither src nor dst: {text}")),
        })
        .collect()
}

/// `0x1/0xff`, `7`.
pub(crate) fn value_mask(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map_err(|_| format!("no mark: {text}"))
    };
    match text.split_once('/') {
        Some((value, mask)) => Ok((number(value)?, number(mask)?)),
        None => Ok((number(text)?, u32::MAX)),
    }
}

pub(crate) fn states(text: &str) -> Result<States, String> {
    let mut out = States::default();
    for word in text.split(',') {
        match word {
            "NEW" => out.states.push(State::New),
            "ESTABLISHED" => out.states.push(State::Established),
            "RELATED" => out.states.push(State::Related),
            "INVALID" => out.states.push(State::Invalid),
            "UNTRACKED" => out.states.push(State::Untracked),
            "SNAT" => out.source_translated = true,
            "DNAT" => out.destination_translated = true,
            _ => return Err(format!("state {word}")),
        }
    }
    Ok(out)
}

pub(crate) fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("no MAC address: {text}"))
}

/// What a translation makes: an address, and the first and last of the ports.
type Translated = (Option<IpAddr>, Option<(u16, u16)>);

/// `10.0.0.1`, `10.0.0.1:80-90`, `[fd00::1]:80`, `:80`.
pub(crate) fn address_ports(text: &str, family: Family) -> Result<Translated, String> {
    let bad = || format!("no address: {text}");
    let (address, ports) = match (text.strip_prefix('['), family) {
        (Some(rest), _) => {
            let (address, ports) = rest.split_once(']').ok_or_else(bad)?;
            (address, ports.strip_prefix(':'))
        }
        (None, Family::V6) => (text, None),
        (None, Family::V4) => match text.split_once(':') {
            Some((address, ports)) => (address, Some(ports)),
            None => (text, None),
        },
    };
    let address = match address {
        "" => None,
        address => {
            let address: IpAddr = address.parse().map_err(|_| bad())?;
            Some(address).filter(|address| Family::of(*address) == family)
        }
    };
    let ports = ports.map(|ports| range(&ports.replace('-', ":"))).transpose()?;
    if address.is_none() && (ports.is_none() || !text.starts_with(':')) {
        return Err(bad());
    }
    Ok((address, ports))
}
