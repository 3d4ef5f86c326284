//! What is asked: as it is typed, and what it means. Pure.

use calico_datastore::model::{Family, InterfaceName, Name, Protocol};
use serde::{Deserialize, Serialize};

/// The port that a client is taken to use when nobody says.
pub(super) const CLIENT_PORT: u16 = 40_000;
/// Echo request of ICMP and of ICMPv6.
const ECHO: [u8; 2] = [8, 128];

/// The question as it is typed, and as it goes over the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who sends. Empty when the whole host is asked about.
    #[serde(default)]
    pub from: String,
    /// Who is sent to. As `from`.
    #[serde(default)]
    pub to: String,
    /// A name or a number; TCP without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// A number, or the name that the destination gives to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The source's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Type of an ICMP message; an echo request without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Code of an ICMP message; 0 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// By which interface of a host it passes: `eth0`, or `calico-02=eth0`, with commas between several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// A question that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Not a protocol.
    #[error(
        "{0:?} is no protocol (tcp, udp, sctp, udplite, icmp, icmpv6, or a number from 1 to 255)"
    )]
    Protocol(String),
    /// A protocol with ports, and none is given.
    #[error("{0} needs --port")]
    PortMissing(Protocol),
    /// Ports of a protocol that has none here.
    #[error("{0} has no ports that policy knows")]
    NoPorts(Protocol),
    /// Not a port.
    #[error("{0:?} is no port")]
    Port(String),
    /// A type of a protocol that is not ICMP.
    #[error("{0} has no type and code")]
    NoType(Protocol),
    /// A code without a type.
    #[error("--code needs --type")]
    CodeAlone,
    /// Not an interface.
    #[error("no interface can have the name {0:?}")]
    Interface(String),
}

/// Which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By the name that the destination gives to it.
    Name(Name),
}

/// What kind of packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// With ports: of a protocol that has them.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// The destination's.
        to: Port,
        /// The source's, when it was said.
        from: Option<u16>,
    },
    /// The ICMP of the family.
    Icmp {
        /// Only this family.
        only: Option<Family>,
        /// The type, when it was said.
        kind: Option<u8>,
        /// The code.
        code: u8,
    },
    /// Another protocol.
    Other(Protocol),
}

impl Question {
    /// What kind of packet is asked about.
    ///
    /// # Errors
    /// When that cannot be meant.
    pub fn packet(&self) -> Result<Packet, QuestionError> {
        let protocol = match self.protocol.as_deref() {
            None if self.port.is_none() && self.icmp_type.is_some() => Protocol::ICMP,
            None => Protocol::TCP,
            Some(text) => text.parse().map_err(|_| QuestionError::Protocol(text.to_owned()))?,
        };
        let icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        if !icmp && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            return Err(QuestionError::NoType(protocol));
        }
        if self.icmp_type.is_none() && self.icmp_code.is_some() {
            return Err(QuestionError::CodeAlone);
        }
        if protocol.has_ports() {
            let port = self.port.as_deref().ok_or(QuestionError::PortMissing(protocol))?;
            let number = port.bytes().all(|byte| byte.is_ascii_digit());
            let to = match port.parse() {
                Ok(number) => Port::Number(number),
                Err(_) if number => return Err(QuestionError::Port(port.to_owned())),
                Err(_) => Port::Name(Name::from(port)),
            };
            return Ok(Packet::Ports { protocol, to, from: self.source_port });
        }
        if self.port.is_some() || self.source_port.is_some() {
            return Err(QuestionError::NoPorts(protocol));
        }
        Ok(if icmp {
            // `icmp` is what people say of either family's.
            let only = (protocol == Protocol::ICMPV6).then_some(Family::V6);
            Packet::Icmp { only, kind: self.icmp_type, code: self.icmp_code.unwrap_or(0) }
        } else {
            Packet::Other(protocol)
        })
    }
}

impl Question {
    /// By which interface of a host the packet is said to pass: what is said of that host goes before
    /// what is said of all.
    ///
    /// # Errors
    /// When no interface can have that name.
    pub fn interface_of(&self, host: &Name) -> Result<Option<InterfaceName>, QuestionError> {
        let all = self.interface.as_deref().unwrap_or_default().split(',');
        let said = all.map(str::trim).filter(|one| !one.is_empty());
        let mut found = None;
        for one in said {
            let (of, name) = one.split_once('=').map_or((None, one), |(of, name)| (Some(of), name));
            let wrong = || QuestionError::Interface(name.to_owned());
            let name: InterfaceName = name.parse().map_err(|_| wrong())?;
            match of {
                Some(of) if *host == *of => return Ok(Some(name)),
                Some(_) => {}
                None => found = Some(name),
            }
        }
        Ok(found)
    }
}

impl Packet {
    /// True when there are such packets of the family.
    pub fn is_of(&self, family: Family) -> bool {
        match self {
            Self::Icmp { only, .. } => only.is_none_or(|only| only == family),
            Self::Ports { .. } | Self::Other(_) => true,
        }
    }

    /// Protocol, type and code of an ICMP message of a family.
    pub fn icmp(family: Family, kind: Option<u8>, code: u8) -> (Protocol, (u8, u8)) {
        let [v4, v6] = ECHO;
        match family {
            Family::V4 => (Protocol::ICMP, (kind.unwrap_or(v4), code)),
            Family::V6 => (Protocol::ICMPV6, (kind.unwrap_or(v6), code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: &str, port: &str) -> Result<Packet, QuestionError> {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Question { protocol: said(protocol), port: said(port), ..Question::default() }.packet()
    }

    #[test]
    fn what_is_meant() {
        let ports =
            |protocol, number| Packet::Ports { protocol, to: Port::Number(number), from: None };
        assert_eq!(asked("", "80"), Ok(ports(Protocol::TCP, 80)));
        assert_eq!(asked("UDP", "0"), Ok(ports(Protocol::UDP, 0)));
        assert_eq!(asked("6", "65535"), Ok(ports(Protocol::TCP, 65_535)));
        let named = Packet::Ports {
            protocol: Protocol::SCTP,
            to: Port::Name(Name::from("http")),
            from: None,
        };
        assert_eq!(asked("sctp", "http"), Ok(named));
        let gre = Protocol::from_number(47).unwrap();
        assert_eq!(asked("47", ""), Ok(Packet::Other(gre)));
        let echo = asked("icmp", "").unwrap();
        assert!(echo.is_of(Family::V4) && echo.is_of(Family::V6));
        assert!(!asked("icmpv6", "").unwrap().is_of(Family::V4));
        let typed = Question { icmp_type: Some(3), icmp_code: Some(4), ..Question::default() };
        assert_eq!(typed.packet(), Ok(Packet::Icmp { only: None, kind: Some(3), code: 4 }));
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (protocol, port, says) in [
            ("", "", "tcp needs --port"),
            ("tcpp", "80", "\"tcpp\" is no protocol"),
            ("0", "80", "\"0\" is no protocol"),
            ("tcp", "65536", "\"65536\" is no port"),
            ("icmp", "80", "icmp has no ports"),
            ("udplite", "80", "udplite has no ports"),
        ] {
            let said = asked(protocol, port).unwrap_err().to_string();
            assert!(said.starts_with(says), "{said}");
        }
        let tcp = Question { port: Some("80".into()), icmp_type: Some(8), ..Question::default() };
        let tcp = Question { protocol: Some("tcp".into()), ..tcp };
        assert_eq!(tcp.packet(), Err(QuestionError::NoType(Protocol::TCP)));
        let code = Question { icmp_code: Some(1), protocol: Some("icmp".into()), ..tcp };
        let code = Question { icmp_type: None, port: None, ..code };
        assert_eq!(code.packet(), Err(QuestionError::CodeAlone));
    }
}
