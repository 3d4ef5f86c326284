//! A packet, and who is asked about it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use calico_datastore::model::{Name, WorkloadEndpointId};
use calico_reference::{Direction, Packet};

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The endpoint.
    pub endpoint: WorkloadEndpointId,
    /// To it or from it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
}

impl fmt::Display for Question {
    /// `ingress n1 cni default/p1 eth0: 6 10.0.0.1 40000 > 10.0.0.2 80`, with `type.code` in place of
    /// ports for ICMP and `-` where there are neither. It reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkloadEndpointId { node, orchestrator, workload, endpoint } = &self.endpoint;
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let Packet { source, destination, protocol, ports, icmp } = self.packet;
        write!(f, "{direction} {node} {orchestrator} {workload} {endpoint}: {protocol} ")?;
        match (ports, icmp) {
            (Some((from, to)), _) => write!(f, "{source} {from} > {destination} {to}"),
            (None, Some((kind, code))) => write!(f, "{source} {kind}.{code} > {destination}"),
            (None, None) => write!(f, "{source} - > {destination}"),
        }
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text).ok_or_else(|| format!("{text:?} is no question"))
    }
}

fn read(text: &str) -> Option<Question> {
    let (subject, packet) = text.split_once(": ")?;
    let mut words = subject.split(' ');
    let direction = match words.next()? {
        "ingress" => Direction::Ingress,
        "egress" => Direction::Egress,
        _ => return None,
    };
    let mut name = || words.next().map(Name::from);
    let endpoint = WorkloadEndpointId {
        node: name()?,
        orchestrator: name()?,
        workload: name()?,
        endpoint: name()?,
    };
    let mut words = packet.split(' ');
    let protocol = words.next()?.parse().ok()?;
    let source: IpAddr = words.next()?.parse().ok()?;
    let what = words.next()?;
    words.next().filter(|arrow| *arrow == ">")?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let (mut ports, mut icmp) = (None, None);
    match (words.next(), what.split_once('.')) {
        (Some(to), _) => ports = Some((what.parse().ok()?, to.parse().ok()?)),
        (None, Some((kind, code))) => icmp = Some((kind.parse().ok()?, code.parse().ok()?)),
        (None, None) if what == "-" => {}
        (None, None) => return None,
    }
    let packet = Packet { source, destination, protocol, ports, icmp };
    Some(Question { endpoint, direction, packet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back() {
        for text in [
            "ingress n1 cni default/p1 eth0: 6 10.0.0.1 40000 > 10.0.0.2 80",
            "egress n1 cni shop/p2 eth0: 58 fd00::1 128.0 > fd00::2",
            "egress n1 cni shop/p2 eth0: 47 10.0.0.1 - > 10.0.0.2",
        ] {
            assert_eq!(text.parse::<Question>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "ingress",
            "sideways n c w e: 6 10.0.0.1 1 > 10.0.0.2 2",
            "egress n c w e: 6 x 1 > y 2",
        ] {
            assert!(text.parse::<Question>().is_err(), "{text}");
        }
    }
}
