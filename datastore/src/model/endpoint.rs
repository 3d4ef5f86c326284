//! Endpoints: the interfaces that policy applies to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::{Cidr, Labels, Name, Protocol};

/// What a workload endpoint is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadEndpointId {
    /// The host it lives on.
    pub node: Name,
    /// Who made it: `cni`, `libnetwork`, `k8s`…
    pub orchestrator: Name,
    /// `<namespace>/<pod UUID>` for rkt.
    pub workload: Name,
    /// Usually the interface inside the pod: `eth0`.
    pub endpoint: Name,
}

impl WorkloadEndpointId {
    /// `orchestrator/workload/endpoint`: the name on its own host, where the node goes without
    /// saying. `status` shows it, and the journal has it as `CALICO_ENDPOINT=`.
    pub fn on_host(&self) -> String {
        let Self { orchestrator, workload, endpoint, .. } = self;
        format!("{orchestrator}/{workload}/{endpoint}")
    }
}

impl fmt::Display for WorkloadEndpointId {
    /// `node/orchestrator/workload/endpoint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, orchestrator, workload, endpoint } = self;
        write!(f, "{node}/{orchestrator}/{workload}/{endpoint}")
    }
}

/// The name of a network interface, at most 15 bytes of `A-Za-z0-9_.-` (IFNAMSIZ less the NUL).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(Arc<str>);

/// The text cannot name an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an interface name (1 to 15 of A-Z a-z 0-9 _ . -)")]
pub struct InvalidInterfaceName(pub String);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && text != "."
            && text != "..";
        if fits { Ok(Self(Arc::from(text))) } else { Err(InvalidInterfaceName(text.to_owned())) }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

/// The text is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address")]
pub struct InvalidMac(pub String);

impl Mac {
    /// An address of six bytes.
    pub fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The six bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    /// `aa:bb:cc:dd:ee:ff`, `aa-bb-cc-dd-ee-ff` or `aabb.ccdd.eeff`, in any case: what Go's
    /// `net.ParseMAC` takes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidMac(text.to_owned());
        let (separator, group) = match text.as_bytes().get(2) {
            Some(b':') => (':', 2),
            Some(b'-') => ('-', 2),
            _ => ('.', 4),
        };
        let mut digits = String::with_capacity(12);
        for part in text.split(separator) {
            if part.len() != group || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            digits.push_str(part);
        }
        if digits.len() != 12 {
            return Err(bad());
        }
        let mut bytes = [0; 6];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port that an endpoint gives a name to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name, never empty.
    pub name: Name,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, 1–65535.
    pub port: u16,
}

/// A workload endpoint: one interface of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// The host side of its veth pair.
    pub interface: InterfaceName,
    /// False: administratively down. Everything is dropped and no route is programmed.
    pub active: bool,
    /// The pod's Ethernet address; when present the source address of its frames is checked.
    pub mac: Option<Mac>,
    /// The addresses it may use, of both families; the routes to it and its set members. Normally
    /// /32 and /128. Never empty.
    pub addresses: Vec<Cidr>,
    /// 1:1 NAT: (internal, external) addresses.
    pub nat: Vec<(IpAddr, IpAddr)>,
    /// Prefixes that it may send from besides its addresses, where the settings let it. They are
    /// no addresses of it: no route and no set of a selector has them.
    pub spoof: Vec<Cidr>,
    /// Its profiles in the order they are asked.
    pub profiles: Vec<Name>,
    /// Its own labels, without those inherited from profiles.
    pub labels: Labels,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// What a host endpoint is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostEndpointId {
    /// The object's name.
    pub name: Name,
}

/// A host endpoint: an interface of the host itself, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// The host.
    pub node: Name,
    /// The interface; `*` = all; `None` = whichever holds an expected address.
    pub interface: Option<Name>,
    /// Its addresses, as members of address sets.
    pub expected_addresses: Vec<IpAddr>,
    /// What of these could not be read and was left out, for people: the field and why.
    pub left_out: Option<String>,
    /// Its profiles in the order they are asked.
    pub profiles: Vec<Name>,
    /// Its own labels.
    pub labels: Labels,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_mac_is_one_mac() {
        let mac = Mac::new([0xca, 0xfe, 0x1d, 0x52, 0xbb, 0xe1]);
        for text in ["ca:fe:1d:52:bb:e1", "CA-FE-1D-52-BB-E1", "cafe.1d52.bbe1"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in [
            "",
            "ca:fe:1d:52:bb",
            "ca:fe:1d:52:bb:e1:00:00",
            "ca:fe-1d:52:bb:e1",
            "cafe1d52bbe1",
            "zz:fe:1d:52:bb:e1",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn an_interface_name_of_rkt_has_a_dash() {
        assert!("calic89f2f35-1b".parse::<InterfaceName>().is_ok());
        for text in ["", "sixteen-chars-xx", "a b", "a/b", ".", "..", "caf\u{e9}"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text} was accepted");
        }
    }
}
