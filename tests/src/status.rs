//! What `calico-agent status --output json` says. The only place that knows its keys.

use anyhow::{Context, Result};
use serde_json::Value;

/// The counters of what was sent to the kernel since the agent's start, by its unit: lines of
/// `iptables-restore`, lines of `ipset restore`, route and neighbour messages, sysctls.
pub const WRITES: [&str; 5] =
    ["iptables_lines", "ipset_lines", "route_writes", "neighbour_writes", "sysctl_writes"];

/// A parsed answer.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Reads the command's output.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map(Self).context("status is no JSON")
    }

    /// True when everything wanted is in force and nothing is missing or rejected.
    pub fn is_ready(&self) -> bool {
        self.text("/state") == "ready"
    }

    /// True when policy is in force but something needs attention.
    pub fn is_degraded(&self) -> bool {
        self.text("/state") == "degraded"
    }

    /// Why it is degraded, one line each.
    pub fn problems(&self) -> Vec<String> {
        let list = self.0.pointer("/problems").and_then(Value::as_array);
        list.into_iter().flatten().map(ToString::to_string).collect()
    }

    /// The keys in the datastore whose values were refused.
    pub fn rejected(&self) -> Vec<String> {
        let list = self.0.pointer("/rejected").and_then(Value::as_array);
        let key = |entry: &Value| entry.get("key").and_then(Value::as_str).map(str::to_owned);
        list.into_iter().flatten().filter_map(key).collect()
    }

    /// The last datastore revision that is completely in the kernel.
    pub fn applied_revision(&self) -> i64 {
        self.0.pointer("/applied_revision").and_then(Value::as_i64).unwrap_or(0)
    }

    /// A counter of what was sent to the kernel since the start.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let value = self.0.pointer("/counters").and_then(|all| all.get(name));
        value.and_then(Value::as_u64).with_context(|| format!("no counter {name}: {}", self.0))
    }

    /// All of [`WRITES`].
    ///
    /// # Errors
    /// When one is missing.
    pub fn writes(&self) -> Result<Vec<(&'static str, u64)>> {
        WRITES.iter().map(|name| Ok((*name, self.counter(name)?))).collect()
    }

    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }
}
