//! A packet, and who is asked about it.

use std::fmt;
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
    /// `ingress n1 cni default/p1 eth0: 6 10.0.0.1 40000 > 10.0.0.2 80`. It reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkloadEndpointId { node, orchestrator, workload, endpoint } = &self.endpoint;
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let packet = crate::packet::Text(&self.packet);
        write!(f, "{direction} {node} {orchestrator} {workload} {endpoint}: {packet}")
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
    let packet = crate::packet::read(packet)?;
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
