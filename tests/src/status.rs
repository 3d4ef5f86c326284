//! What `calico-agent status --output json` says. The only place that knows its keys: read from the
//! text, as a user's script would, not through the agent's own types.

use anyhow::{Context, Result};
use serde_json::Value;

/// The counters of what was written since the agent's start, each with the part that keeps it: lines
/// sent to `iptables-restore` and to the kernel's address sets, messages to nf_tables, groups of interfaces,
/// sysctls, routes and neighbours, BIRD's files.
pub const WRITES: [(&str, &str); 7] = [
    ("felix", "iptables_lines"),
    ("felix", "ipset_lines"),
    ("felix", "nftables_messages"),
    ("felix", "link_groups"),
    ("felix", "sysctl_writes"),
    ("routes", "writes"),
    ("bird", "writes"),
];

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
        self.0["state"] == "ready"
    }

    /// True when policy is in force but something needs attention.
    pub fn is_degraded(&self) -> bool {
        self.0["state"] == "degraded"
    }

    /// Why it is degraded: problems of the parts and notices, as they stand in the document.
    pub fn problems(&self) -> Vec<String> {
        let parts = list(&self.0["parts"]).flat_map(|part| list(&part["problems"]));
        parts.chain(list(&self.0["notices"])).map(ToString::to_string).collect()
    }

    /// The keys in the datastore whose values were refused.
    pub fn rejected(&self) -> Vec<String> {
        let keys = list(&self.0["datastore"]["rejected"]).filter_map(|entry| entry["key"].as_str());
        keys.map(str::to_owned).collect()
    }

    /// The datastore revision that is completely in force; 0 while a newer one is on its way.
    pub fn applied_revision(&self) -> i64 {
        let newest = self.0["generation"].as_u64();
        let all = list(&self.0["parts"]).all(|part| part["applied"].as_u64() >= newest);
        if all { self.0["datastore"]["revision"].as_i64().unwrap_or(0) } else { 0 }
    }

    /// The same of one part alone.
    pub fn applied_by(&self, part: &str) -> i64 {
        let newest = self.0["generation"].as_u64();
        let mut parts = list(&self.0["parts"]).filter(|entry| entry["name"] == part);
        let all = parts.next().is_some_and(|part| part["applied"].as_u64() >= newest);
        if all { self.0["datastore"]["revision"].as_i64().unwrap_or(0) } else { 0 }
    }

    /// A counter of one part.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn counter(&self, part: &str, name: &str) -> Result<u64> {
        let part = list(&self.0["parts"]).find(|entry| entry["name"] == part);
        let value = part.and_then(|part| part["facts"][name].as_str());
        let value = value.with_context(|| format!("no counter {name}: {}", self.0))?;
        value.parse().with_context(|| format!("counter {name} is {value:?}"))
    }

    /// All of [`WRITES`].
    ///
    /// # Errors
    /// When one is missing.
    pub fn writes(&self) -> Result<Vec<(String, u64)>> {
        let counter = |&(part, name)| Ok((format!("{part} {name}"), self.counter(part, name)?));
        WRITES.iter().map(counter).collect()
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
