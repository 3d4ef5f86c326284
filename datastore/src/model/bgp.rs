//! BGP settings of the cluster.

use std::fmt;
use std::str::FromStr;

/// An autonomous system number, 32 bits (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsNumber(pub u32);

/// The text is not an AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an AS number")]
pub struct InvalidAsNumber(pub String);

impl AsNumber {
    /// The cluster's number when none is configured.
    pub const DEFAULT: Self = Self(64512);
}

impl FromStr for AsNumber {
    type Err = InvalidAsNumber;

    /// Plain (`64512`) or dotted (`1.10` = 65546; RFC 5396 "asdot+").
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidAsNumber(text.to_owned());
        let digits = |part: &str| {
            (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
                .then_some(())
                .ok_or_else(bad)
        };
        match text.split_once('.') {
            None => {
                digits(text)?;
                text.parse().map(Self).map_err(|_| bad())
            }
            Some((high, low)) => {
                digits(high)?;
                digits(low)?;
                let high: u16 = high.parse().map_err(|_| bad())?;
                let low: u16 = low.parse().map_err(|_| bad())?;
                Ok(Self(u32::from(high) << 16 | u32::from(low)))
            }
        }
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The object `default` of BGPConfiguration (other names: only the log level counts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// The cluster's AS number; `None` = [`AsNumber::DEFAULT`].
    pub as_number: Option<AsNumber>,
    /// Every node peers with every other. Missing = true.
    pub node_to_node_mesh: bool,
    /// The port BIRD listens on; `None` = 179.
    pub listen_port: Option<u16>,
    /// `none`, `debug`, `info`, `warning`, `error`, `fatal` in any case.
    pub log_severity: Option<String>,
}
