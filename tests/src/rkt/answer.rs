//! What rkt makes of a plugin's answer.

use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::process::Output;

/// The result as rkt reads it: the 0.2.0 shape, and nothing else.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Answer {
    /// IPv4.
    pub ip4: Option<IpConfig>,
    /// IPv6; rkt does not show it.
    pub ip6: Option<IpConfig>,
    /// What becomes the pod's `resolv.conf`.
    #[serde(default)]
    pub dns: Value,
}

/// Addresses of one family.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct IpConfig {
    /// With the length of the prefix.
    pub ip: String,
    /// What rkt needs for port forwarding and the metadata service.
    #[serde(default)]
    pub gateway: String,
}

/// A plugin that failed, as rkt understands it.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The network.
    pub network: String,
    /// `code` of its answer; `None` when it did not answer with JSON.
    pub code: Option<u32>,
    /// `msg`, or all that it wrote.
    pub msg: String,
    /// `details`.
    pub details: String,
    /// Standard error.
    pub stderr: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, code, msg, details, stderr } = self;
        write!(f, "network {network}: {msg}; {details} (code {code:?})\n{}", stderr.trim())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    pub(super) fn new(network: &str, msg: &str) -> Self {
        let (network, msg) = (network.to_owned(), msg.to_owned());
        Self { network, code: None, msg, details: String::new(), stderr: String::new() }
    }
}

/// What rkt makes of the end of an ADD.
pub(super) fn understand(network: &str, output: Option<Output>) -> Result<(Answer, String)> {
    match output {
        Some(output) if output.status.success() => {
            let answer = serde_json::from_str(&output.stdout);
            let what = || format!("network {network}: error parsing {:?} result", output.stdout);
            Ok((answer.with_context(what)?, output.stderr))
        }
        output => Err(refusal(network, output.as_ref()).into()),
    }
}

pub(super) fn refusal(network: &str, output: Option<&Output>) -> Refusal {
    #[derive(Deserialize)]
    struct Error {
        code: u32,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let Some(output) = output else { return Refusal::new(network, "killed") };
    let mut refusal = Refusal::new(network, &format!("{}: {:?}", output.status, output.stdout));
    if let Ok(Error { code, msg, details }) = serde_json::from_str(&output.stdout) {
        refusal = Refusal { code: Some(code), msg, details, ..refusal };
    }
    refusal.stderr.clone_from(&output.stderr);
    refusal
}
