//! What `conntrack -L -o extended` prints, read strictly: a line that is not understood as a whole
//! where it matters is an error, never a guess.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use calico_datastore::model::{Family, Protocol};

use crate::desired::verdict::Flow;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// Ports of source and destination, where the protocol has them.
    pub ports: Option<(u16, u16)>,
    /// Type and code of ICMP.
    pub icmp: Option<(u8, u8)>,
}

/// The zone of a connection, or of one direction of it; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zones {
    /// Of both.
    pub both: u16,
    /// Of the original direction alone.
    pub original: u16,
    /// Of the reply alone.
    pub reply: u16,
}

/// A connection as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The protocol's number.
    pub protocol: u8,
    /// Its first packet, as it came in.
    pub original: Tuple,
    /// The answer, as it comes in: behind address translation it comes from the real destination.
    pub reply: Tuple,
    /// Its zones.
    pub zones: Zones,
    /// Something came back.
    pub replied: bool,
}

impl Connection {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.original.source)
    }

    /// Its first packet as policy saw it: its destination was translated already, and its source
    /// not yet.
    pub fn flow(&self) -> Flow {
        let ports = self.original.ports.zip(self.reply.ports);
        Flow {
            source: self.original.source,
            destination: self.reply.source,
            protocol: Protocol::from_number(self.protocol),
            ports: ports.map(|((from, _), (to, _))| (from, to)),
            icmp: self.original.icmp,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow = self.flow();
        match flow.protocol {
            Some(protocol) => write!(f, "{protocol} ")?,
            None => f.write_str("protocol 0 ")?,
        }
        match flow.ports {
            Some((from, to)) => {
                let ends =
                    (SocketAddr::new(flow.source, from), SocketAddr::new(flow.destination, to));
                write!(f, "{} → {}", ends.0, ends.1)
            }
            None => write!(f, "{} → {}", flow.source, flow.destination),
        }
    }
}

/// A line is no connection that we understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the connection {line:?}: {what}")]
pub struct BadEntry {
    /// The line, or its beginning.
    pub line: String,
    /// What is wrong with it.
    pub what: &'static str,
}

/// The protocols whose connections have ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// ICMP and ICMPv6.
const ICMP: [u8; 2] = [1, 58];

#[derive(Default)]
struct Half {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    kind: Option<u8>,
    code: Option<u8>,
}

impl Half {
    fn tuple(&self, protocol: u8, family: Family) -> Result<Tuple, &'static str> {
        let (Some(source), Some(destination)) = (self.source, self.destination) else {
            return Err("an address is missing");
        };
        if [source, destination].iter().any(|address| Family::of(*address) != family) {
            return Err("an address is of another family");
        }
        let ports = self.source_port.zip(self.destination_port);
        let icmp = self.kind.zip(self.code);
        if WITH_PORTS.contains(&protocol) && ports.is_none() {
            return Err("a port is missing");
        }
        if ICMP.contains(&protocol) && icmp.is_none() {
            return Err("type or code is missing");
        }
        Ok(Tuple { source, destination, ports, icmp })
    }
}

fn set<T: std::str::FromStr>(place: &mut Option<T>, value: &str) -> Result<(), &'static str> {
    if place.is_some() {
        return Err("something is there twice");
    }
    *place = Some(value.parse().map_err(|_| "a value is not readable")?);
    Ok(())
}

/// Reads one line, in any spelling that the versions of the tool have.
///
/// # Errors
/// When it is not a connection, or not completely told.
pub fn parse(line: &str) -> Result<Connection, BadEntry> {
    read(line).map_err(|what| BadEntry { line: line.chars().take(200).collect(), what })
}

fn read(line: &str) -> Result<Connection, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let family = match words.next() {
        Some("ipv4") => Family::V4,
        Some("ipv6") => Family::V6,
        _ => return Err("no family"),
    };
    let (_number, _name) = (words.next(), words.next());
    let protocol: u8 =
        words.next().and_then(|word| word.parse().ok()).ok_or("no protocol number")?;
    let mut halves = [Half::default(), Half::default()];
    let mut at = None;
    let mut zones = Zones::default();
    let mut replied = true;
    for word in words {
        replied &= word != "[UNREPLIED]";
        // Other flags, the state of TCP, the time that is left, a security context.
        let Some((key, value)) = word.split_once('=') else { continue };
        let zone = || value.parse::<u16>().map_err(|_| "a zone is not readable");
        match key {
            "zone" => zones.both = zone()?,
            "zone-orig" => zones.original = zone()?,
            "zone-reply" => zones.reply = zone()?,
            "src" => {
                let next = at.map_or(0, |at: usize| at + 1);
                at = Some(next);
                set(&mut halves.get_mut(next).ok_or("more than two directions")?.source, value)?;
            }
            _ => {
                let half = at.and_then(|at| halves.get_mut(at));
                let known = matches!(key, "dst" | "sport" | "dport" | "type" | "code");
                let half = match half {
                    Some(half) if known => half,
                    None if known => return Err("not in order"),
                    // Counters, marks, labels, keys of GRE: nothing that policy asks for.
                    _ => continue,
                };
                match key {
                    "dst" => set(&mut half.destination, value)?,
                    "sport" => set(&mut half.source_port, value)?,
                    "dport" => set(&mut half.destination_port, value)?,
                    "type" => set(&mut half.kind, value)?,
                    _ => set(&mut half.code, value)?,
                }
            }
        }
    }
    let [original, reply] = &halves;
    Ok(Connection {
        protocol,
        original: original.tuple(protocol, family)?,
        reply: reply.tuple(protocol, family)?,
        zones,
        replied,
    })
}

/// What deletes connections: all with these criteria, of which the port of the opener is none.
/// Policy hardly ever asks for that one, so one order is enough for all connections of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    source_port: Option<u16>,
    port: Option<u16>,
    icmp: Option<(u8, u8)>,
    zones: Zones,
}

impl Order {
    /// The order for exactly this connection.
    pub fn exact(one: &Connection) -> Self {
        let Tuple { source, destination, ports, icmp } = one.original;
        Self {
            protocol: one.protocol,
            source,
            destination,
            source_port: ports.map(|(from, _)| from),
            port: ports.map(|(_, to)| to),
            icmp,
            zones: one.zones,
        }
    }

    /// The order for it and all that differ only in the port of the opener.
    pub fn any_source_port(one: &Connection) -> Self {
        Self { source_port: None, ..Self::exact(one) }
    }

    /// As the tool takes it.
    pub fn args(&self) -> Vec<String> {
        let name = match self.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            33 => "dccp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            136 => "udplite".to_owned(),
            number => number.to_string(),
        };
        let (family, icmp) = match Family::of(self.source) {
            Family::V4 => ("ipv4", "icmp"),
            Family::V6 => ("ipv6", "icmpv6"),
        };
        let mut args = vec!["-D".to_owned()];
        let mut put = |option: &str, value: String| args.extend([option.to_owned(), value]);
        put("-f", family.to_owned());
        // The protocol comes before the options that only it has.
        put("-p", name);
        put("--orig-src", self.source.to_string());
        put("--orig-dst", self.destination.to_string());
        for (option, value) in [("--sport", self.source_port), ("--dport", self.port)] {
            if let Some(value) = value {
                put(option, value.to_string());
            }
        }
        if let (Some((kind, code)), true) = (self.icmp, ICMP.contains(&self.protocol)) {
            put(&format!("--{icmp}-type"), kind.to_string());
            put(&format!("--{icmp}-code"), code.to_string());
        }
        let Zones { both, original, reply } = self.zones;
        for (option, zone) in [("--zone", both), ("--orig-zone", original), ("--reply-zone", reply)]
        {
            if zone != 0 {
                put(option, zone.to_string());
            }
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let one = parse(line).unwrap();
        let flow = one.flow();
        let protocol = flow.protocol.map_or("-".to_owned(), |p| p.to_string());
        let (from, to) = (flow.source, flow.destination);
        let what = match (flow.ports, flow.icmp) {
            (Some((from, to)), _) => format!("{from}→{to}"),
            (_, Some((kind, code))) => format!("type {kind} code {code}"),
            _ => "-".to_owned(),
        };
        format!("{protocol} {from} → {to} {what}")
    }

    #[test]
    fn lines_of_the_tool() {
        for (line, flow) in [
            (
                "ipv4     2 tcp      6 431999 ESTABLISHED src=10.65.0.1 dst=10.65.0.2 sport=54736 dport=80 src=10.65.0.2 dst=10.65.0.1 sport=80 dport=54736 [ASSURED] mark=0 use=1",
                "tcp 10.65.0.1 → 10.65.0.2 54736→80",
            ),
            (
                "ipv4     2 udp      17 29 src=10.65.0.1 dst=198.51.100.2 sport=35555 dport=98 [UNREPLIED] src=198.51.100.2 dst=198.51.100.1 sport=98 dport=61234 mark=0 zone=3 use=1",
                "udp 10.65.0.1 → 198.51.100.2 35555→98",
            ),
            (
                "ipv4     2 tcp      6 86390 ESTABLISHED src=203.0.113.9 dst=192.0.2.1 sport=40000 dport=30080 packets=4 bytes=216 src=10.65.0.2 dst=203.0.113.9 sport=80 dport=40000 packets=3 bytes=164 [ASSURED] mark=16777216 secctx=system_u:object_r:unlabeled_t:s0 delta-time=4 use=2",
                "tcp 203.0.113.9 → 10.65.0.2 40000→80",
            ),
            (
                "ipv4     2 icmp     1 29 src=10.65.0.1 dst=10.65.0.2 type=8 code=0 id=77 src=10.65.0.2 dst=10.65.0.1 type=0 code=0 id=77 mark=0 use=1",
                "icmp 10.65.0.1 → 10.65.0.2 type 8 code 0",
            ),
            (
                "ipv6     10 icmpv6   58 28 src=fd65::1 dst=fd65::2 type=128 code=0 id=9 src=fd65::2 dst=fd65::1 type=129 code=0 id=9 mark=0 use=1",
                "icmpv6 fd65::1 → fd65::2 type 128 code 0",
            ),
            (
                "ipv6     10 sctp     132 431998 ESTABLISHED src=fd65::1 dst=fd65::2 sport=5000 dport=3868 src=fd65::2 dst=fd65::1 sport=3868 dport=5000 [ASSURED] mark=0 use=1",
                "sctp fd65::1 → fd65::2 5000→3868",
            ),
            (
                "ipv4     2 gre      47 29 src=10.65.0.1 dst=10.65.0.2 srckey=0x0 dstkey=0x0 [UNREPLIED] src=10.65.0.2 dst=10.65.0.1 srckey=0x0 dstkey=0x0 mark=0 use=1",
                "47 10.65.0.1 → 10.65.0.2 -",
            ),
            (
                "ipv4     2 unknown  2 583 src=10.65.0.1 dst=10.65.0.2 [UNREPLIED] src=10.65.0.2 dst=10.65.0.1 mark=0 use=1",
                "2 10.65.0.1 → 10.65.0.2 -",
            ),
            (
                "ipv4     2 tcp      6 src=10.65.0.1 dst=10.65.0.2 sport=1 dport=80 src=10.65.0.2 dst=10.65.0.1 sport=80 dport=1 [OFFLOAD] mark=0 use=2",
                "tcp 10.65.0.1 → 10.65.0.2 1→80",
            ),
        ] {
            assert_eq!(told(line), flow, "{line}");
            // Whatever is cut off, nothing is invented.
            for end in 0..line.len() {
                if let Ok(short) = parse(&line[..end]) {
                    assert_eq!(short.original, parse(line).unwrap().original, "{}", &line[..end]);
                }
            }
        }
    }

    #[test]
    fn who_was_answered() {
        for (flag, replied) in [("[UNREPLIED] ", false), ("[ASSURED] ", true), ("", true)] {
            let line = format!(
                "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 {flag}src=10.0.0.2 \
                 dst=10.0.0.1 sport=2 dport=1 use=1"
            );
            assert_eq!(parse(&line).unwrap().replied, replied, "{line}");
        }
    }

    #[test]
    fn what_is_not_told_completely_is_refused() {
        let good = "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 use=1";
        parse(good).unwrap();
        for (from, to) in [
            ("ipv4", "ipv5"),
            (" 17 ", " x "),
            (" 17 ", " 256 "),
            ("dport=2", ""),
            ("sport=1", "sport=65536"),
            ("dst=10.0.0.2 sport", "sport"),
            ("dst=10.0.0.2 sport", "dst=fd65::1 sport"),
            ("sport=1", "sport=1 sport=1"),
            (" use", " src=10.0.0.9 use"),
            (" use", " zone=x use"),
            ("29 src", "29 dst=10.0.0.1 src"),
            ("udp 17", "icmp 1"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert!(parse(&bad).is_err(), "{bad}");
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn an_order_says_all_that_is_known() {
        let line = "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.7 dst=10.0.0.1 sport=3 dport=1 zone=4 use=1";
        let one = parse(line).unwrap();
        assert_eq!(
            Order::exact(&one).args().join(" "),
            "-D -f ipv4 -p udp --orig-src 10.0.0.1 --orig-dst 10.0.0.2 --sport 1 --dport 2 --zone 4"
        );
        assert_eq!(
            Order::any_source_port(&one).args().join(" "),
            "-D -f ipv4 -p udp --orig-src 10.0.0.1 --orig-dst 10.0.0.2 --dport 2 --zone 4"
        );
        let line = "ipv6 10 icmpv6 58 28 src=fd65::1 dst=fd65::2 type=128 code=0 id=9 src=fd65::2 dst=fd65::1 type=129 code=0 id=9 use=1";
        assert_eq!(
            Order::exact(&parse(line).unwrap()).args().join(" "),
            "-D -f ipv6 -p icmpv6 --orig-src fd65::1 --orig-dst fd65::2 --icmpv6-type 128 --icmpv6-code 0"
        );
    }
}
