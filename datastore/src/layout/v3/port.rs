//! Ports, protocols and the ports that endpoints give names to.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::wire::{Object, Scalar, Text, filled};
use crate::model::{InvalidPort, InvalidProtocol, Name, NamedPort, PortRange, Ports, Protocol};

/// The longest name of a port.
const MAX_PORT_NAME: usize = 128;

/// A protocol by name in any case, by number or by a string of digits. 0 is none.
pub(in crate::layout) fn protocol(scalar: &Scalar<'_>) -> Result<Protocol, FieldError> {
    let found = match scalar {
        Scalar::Text(text) => text.parse().ok(),
        Scalar::Number(number) => u8::try_from(*number).ok().and_then(Protocol::from_number),
        Scalar::Odd(_) => None,
    };
    found.ok_or_else(|| FieldError::new(InvalidProtocol(scalar.to_string())))
}

/// One entry of a list of ports.
enum Port {
    Range(PortRange),
    Named(Name),
}

/// A number, digits, `first:last`, or else a name.
fn port(scalar: &Scalar<'_>) -> Result<Port, FieldError> {
    let bad = || FieldError::new(InvalidPort(scalar.to_string()));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    match scalar {
        Scalar::Odd(_) => Err(bad()),
        Scalar::Number(number) => {
            let port = u16::try_from(*number).map_err(|_| bad())?;
            Ok(Port::Range(PortRange::single(port)))
        }
        Scalar::Text(text) if digits(text) => Ok(Port::Range(PortRange::single(number(text)?))),
        Scalar::Text(text) => match text.split_once(':') {
            Some((first, last)) if digits(first) && digits(last) => {
                let range = PortRange::new(number(first)?, number(last)?).ok_or_else(bad)?;
                Ok(Port::Range(range))
            }
            _ if is_port_name(text) => Ok(Port::Named(Name::from(&**text))),
            _ => Err(bad()),
        },
    }
}

fn is_port_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=MAX_PORT_NAME).contains(&text.len()) && text.bytes().all(plain)
}

/// A list of ports of a rule.
pub(in crate::layout) fn ports(
    field: &str,
    list: &Option<Vec<Scalar<'_>>>,
) -> Result<Ports, FieldError> {
    let mut ports = Ports::default();
    for (i, entry) in super::wire::list(list).iter().enumerate() {
        match port(entry).at_index(field, i)? {
            Port::Range(range) => ports.ranges.push(range),
            Port::Named(name) => ports.named.push(name),
        }
    }
    Ok(ports)
}

/// A port of an endpoint.
#[derive(Debug, Deserialize)]
pub(in crate::layout) struct WirePort<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    protocol: Option<Scalar<'a>>,
    #[serde(default)]
    port: Option<i64>,
}

/// The named ports of an endpoint. One without a name only describes a mapping on the host and is
/// left out.
pub(in crate::layout) fn named_ports(
    list: &Option<Vec<Object<WirePort<'_>>>>,
) -> Result<Vec<NamedPort>, FieldError> {
    let mut ports = Vec::new();
    for (i, wire) in super::wire::list(list).iter().enumerate() {
        if let Some(name) = filled(&wire.name) {
            ports.push(named_port(name, wire).at_index("ports", i)?);
        }
    }
    Ok(ports)
}

fn named_port(name: &str, wire: &WirePort<'_>) -> Result<NamedPort, FieldError> {
    if !is_port_name(name) {
        return Err(FieldError::of("name", InvalidPort(name.to_owned())));
    }
    let missing = || FieldError::of("protocol", "a named port needs one");
    let protocol = protocol(wire.protocol.as_ref().ok_or_else(missing)?).at("protocol")?;
    if !protocol.has_ports() {
        let reason = format_args!("{protocol} has no named ports, only TCP, UDP and SCTP do");
        return Err(FieldError::of("protocol", reason));
    }
    match wire.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0) {
        Some(port) => Ok(NamedPort { name: Name::from(name), protocol, port }),
        None => Err(FieldError::of("port", "must be between 1 and 65535")),
    }
}
