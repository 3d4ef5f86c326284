//! What `conntrack -L -o extended` prints, read strictly: the connections of tests, and what is held
//! against what we read ourselves.

use std::net::IpAddr;

use calico_datastore::model::Family;

use super::entry::{BadEntry, Connection, Tuple, Zones};

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
        let ports = self.source_port.zip(self.destination_port);
        let icmp = self.kind.zip(self.code);
        Tuple { source, destination, ports, icmp, also: None }.checked(protocol, family)
    }
}

fn set<T: std::str::FromStr>(place: &mut Option<T>, value: &str) -> Result<(), &'static str> {
    if place.is_some() {
        return Err("something is there twice");
    }
    *place = Some(value.parse().map_err(|_| "a value is not readable")?);
    Ok(())
}

/// Reads one line, in any spelling that the versions of the tool have. The connection has no number.
pub(in crate::felix) fn parse(line: &str) -> Result<Connection, BadEntry> {
    read(line).map_err(|what| BadEntry { what })
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
        id: None,
    })
}

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
}
