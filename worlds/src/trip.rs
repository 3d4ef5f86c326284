//! A packet on its way through a host, as text.

use std::fmt;
use std::str::FromStr;

use calico_datastore::model::{Name, WorkloadEndpointId};
use calico_reference::{Known, Passage, Place};

use crate::packet::{self, Text};

/// What a host is asked to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip(pub Passage);

const KNOWN: [(&str, Known); 3] =
    [("new", Known::New), ("answered", Known::Answered), ("of nothing", Known::Nothing)];

impl fmt::Display for Trip {
    /// `from eth0 to host, new: 6 10.0.0.1 40000 > 10.0.0.2 80`; pods are `pod n1 cni default/p1 eth0`,
    /// `, new, for 10.0.0.3` says a translated destination. It reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Passage { from, to, known, packet, translated } = &self.0;
        let known = KNOWN.iter().find(|(_, one)| one == known).map_or("", |(text, _)| text);
        write!(f, "from {} to {}, {known}", name(from), name(to))?;
        if let Some(translated) = translated {
            write!(f, ", for {translated}")?;
        }
        write!(f, ": {}", Text(packet))
    }
}

fn name(place: &Place) -> String {
    match place {
        Place::Local => "host".to_owned(),
        Place::Interface(name) => name.to_string(),
        Place::Workload(id) => {
            let WorkloadEndpointId { node, orchestrator, workload, endpoint } = id;
            format!("pod {node} {orchestrator} {workload} {endpoint}")
        }
    }
}

impl FromStr for Trip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text).ok_or_else(|| format!("{text:?} is no trip"))
    }
}

fn read(text: &str) -> Option<Trip> {
    let (way, packet) = text.split_once(": ")?;
    let mut parts = way.split(", ");
    let (from, to) = parts.next()?.strip_prefix("from ")?.split_once(" to ")?;
    let known = parts.next()?;
    let (_, known) = KNOWN.into_iter().find(|(text, _)| *text == known)?;
    let translated = match parts.next() {
        None => None,
        Some(part) => Some(part.strip_prefix("for ")?.parse().ok()?),
    };
    let (from, to, packet) = (place(from)?, place(to)?, packet::read(packet)?);
    Some(Trip(Passage { from, to, known, packet, translated }))
}

fn place(text: &str) -> Option<Place> {
    let Some(pod) = text.strip_prefix("pod ") else {
        return match text {
            "host" => Some(Place::Local),
            name => Some(Place::Interface(name.parse().ok()?)),
        };
    };
    let mut words = pod.split(' ').map(Name::from);
    Some(Place::Workload(WorkloadEndpointId {
        node: words.next()?,
        orchestrator: words.next()?,
        workload: words.next()?,
        endpoint: words.next()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back() {
        for text in [
            "from eth0 to host, new: 6 10.0.0.1 40000 > 10.0.0.2 80",
            "from pod n1 cni default/p1 eth0 to eth1, answered: 58 fd00::1 128.0 > fd00::2",
            "from eth0 to pod n1 cni shop/p2 eth0, new, for 10.0.0.3: 47 10.0.0.1 - > 10.0.0.2",
            "from host to eth0, of nothing: 17 10.0.0.1 53 > 10.0.0.2 53",
        ] {
            assert_eq!(text.parse::<Trip>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "from eth0 to host: 6 10.0.0.1 1 > 10.0.0.2 2",
            "from eth0, new: 6 10.0.0.1 1 > 10.0.0.2 2",
            "from eth0 to host, old: 6 10.0.0.1 1 > 10.0.0.2 2",
            "from eth0 to host, new, to 10.0.0.9: 6 10.0.0.1 1 > 10.0.0.2 2",
            "from pod n1 cni to host, new: 6 10.0.0.1 1 > 10.0.0.2 2",
        ] {
            assert!(text.parse::<Trip>().is_err(), "{text}");
        }
    }
}
