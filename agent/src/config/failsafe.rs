//! Ports that no host endpoint closes: `FailsafeInboundHostPorts`, `FailsafeOutboundHostPorts`.

use std::fmt;

use calico_datastore::model::{Cidr, Family, Protocol};

/// Packets of the host that pass whatever its host endpoints say, so that nobody shuts himself out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Failsafe {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Only with this peer. `None`: with any, of either family.
    pub net: Option<Cidr>,
    /// The destination port of the connection.
    pub port: u16,
}

impl Failsafe {
    /// With any peer.
    pub const fn any(protocol: Protocol, port: u16) -> Self {
        Self { protocol, net: None, port }
    }

    /// True when it is about packets of `family`.
    pub fn is_of(&self, family: Family) -> bool {
        self.net.is_none_or(|net| net.family() == family)
    }
}

impl fmt::Display for Failsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, net, port } = self;
        match net {
            None => write!(f, "{protocol}:{port}"),
            Some(net) if net.family() == Family::V6 => write!(f, "{protocol}:[{net}]:{port}"),
            Some(net) => write!(f, "{protocol}:{net}:{port}"),
        }
    }
}

/// The defaults of the original, as one would write them. In: SSH, DHCP, BGP, etcd (its former ports
/// as well), Typha, the Kubernetes API. Out: the same, and DNS.
pub(super) const INBOUND: &str =
    "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";
/// See [`INBOUND`].
pub(super) const OUTBOUND: &str =
    "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";

/// `22`, `tcp:22`, `udp:10.0.0.0/8:68`, `tcp:[fd00::/8]:22`, with commas between. Empty: none.
pub(super) fn parse(text: &str) -> Option<Vec<Failsafe>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|part| one(part.trim())).collect()
}

fn one(text: &str) -> Option<Failsafe> {
    let Some((protocol, rest)) = text.split_once(':') else {
        return Some(Failsafe::any(Protocol::TCP, port(text)?));
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => return None,
    };
    let (net, number) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (net, number) = rest.split_once("]:")?;
            (Some(net.parse().ok().filter(|net: &Cidr| net.family() == Family::V6)?), number)
        }
        None => match rest.split_once(':') {
            Some((net, number)) => {
                (Some(net.parse().ok().filter(|net: &Cidr| net.family() == Family::V4)?), number)
            }
            None => (None, rest),
        },
    };
    Some(Failsafe { protocol, net, port: port(number)? })
}

fn port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let text = "tcp:22,udp:10.0.0.0/8:68,sctp:[fd00::/8]:9";
        let ports = parse(text).unwrap();
        let again: Vec<String> = ports.iter().map(ToString::to_string).collect();
        assert_eq!(again.join(","), text);
        assert_eq!(parse(" 22 , UDP:1").unwrap(), parse("tcp:22,udp:1").unwrap());
        assert_eq!(parse("").unwrap(), []);
        for bad in [
            "icmp:1",
            "tcp:",
            "tcp:70000",
            "tcp:10.0.0.0/8",
            "tcp:10.0.0.0/8:1:2",
            "tcp:[10.0.0.0/8]:1",
            "tcp:fd00::/8:1",
            ",",
            "-1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_net_is_of_one_family() {
        for (text, families) in
            [("22", vec![Family::V4, Family::V6]), ("tcp:10.0.0.0/8:22", vec![Family::V4])]
        {
            let one = parse(text).unwrap()[0];
            let of: Vec<_> = Family::ALL.into_iter().filter(|family| one.is_of(*family)).collect();
            assert_eq!(of, families, "{text}");
        }
    }
}
