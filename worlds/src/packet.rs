//! Packets as text.

use std::fmt;
use std::net::IpAddr;

use calico_reference::Packet;

/// `6 10.0.0.1 40000 > 10.0.0.2 80`, with `type.code` in place of ports for ICMP and `-` where there
/// are neither. [`read`] reads it.
pub(crate) struct Text<'a>(pub(crate) &'a Packet);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { source, destination, protocol, ports, icmp } = self.0;
        write!(f, "{protocol} ")?;
        match (ports, icmp) {
            (Some((from, to)), _) => write!(f, "{source} {from} > {destination} {to}"),
            (None, Some((kind, code))) => write!(f, "{source} {kind}.{code} > {destination}"),
            (None, None) => write!(f, "{source} - > {destination}"),
        }
    }
}

pub(crate) fn read(text: &str) -> Option<Packet> {
    let mut words = text.split(' ');
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
    Some(Packet { source, destination, protocol, ports, icmp })
}
