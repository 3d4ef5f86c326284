//! One denied packet as it is told.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A packet that policy denied, or several equal ones. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Denied {
    /// When, RFC 3339, UTC.
    pub time: String,
    /// `ingress`: to the endpoint; `egress`: from it.
    pub direction: String,
    /// The endpoint that denied it, `orchestrator/workload/endpoint` or `HostEndpoint name`; `None` when
    /// its interface is no endpoint's any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The interface of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The tier, where one decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The policy that denied it, `namespace/name` or `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The profile that denied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What denied it, in words.
    pub by: String,
    /// Who sent it.
    pub source: IpAddr,
    /// Who was to get it.
    pub destination: IpAddr,
    /// `tcp`, `udp`, …, or a number.
    pub protocol: String,
    /// Where the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Where the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// How many packets this is about. The kernel reports only so many a second of each policy.
    pub packets: u64,
    /// More packets that the same denied the same endpoint, to other ports or addresses: too many to
    /// be told one by one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A name of the datastore, which may hold anything, for a terminal.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl fmt::Display for Denied {
    /// `tcp 10.0.0.1:4711 → 10.0.0.2:80, to rkt/web/eth0 (cali1234): policy default/web of tier default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        };
        write!(f, "{} ", self.protocol)?;
        if let Some((kind, code)) = self.icmp {
            write!(f, "type {kind} code {code} ")?;
        }
        write!(
            f,
            "{} → {}, {} ",
            end(self.source, self.source_port),
            end(self.destination, self.destination_port),
            if self.direction == "ingress" { "to" } else { "from" },
        )?;
        match (&self.endpoint, &self.interface) {
            (Some(endpoint), Some(interface)) => write!(f, "{} ({interface})", Shown(endpoint))?,
            (Some(name), None) | (None, Some(name)) => write!(f, "{}", Shown(name))?,
            (None, None) => f.write_str("an endpoint that is gone")?,
        }
        write!(f, ": {}", Shown(&self.by))?;
        if self.packets > 1 {
            write!(f, " ({} packets)", self.packets)?;
        }
        if self.others > 0 {
            write!(f, ", and {} packets of other kinds", self.others)?;
        }
        Ok(())
    }
}
