//! The answer as a document: what the agent sends over its socket and `--output json` prints.
//!
//! Fields are only ever added.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What policy says about one kind of packet between two peers, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What it was calculated from.
    pub basis: Basis,
    /// One for each family that both peers have, IPv4 first; for a network one for each part of it
    /// that is treated differently.
    pub answers: Vec<Answer>,
    /// What may make it different in reality.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Explanation {
    /// The outcome of all answers together: denied when one is, unknown when one is.
    pub fn outcome(&self) -> Outcome {
        let outcomes = self.answers.iter().map(|answer| answer.outcome);
        outcomes.max().unwrap_or(Outcome::Unknown)
    }
}

/// What an explanation was calculated from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// The host whose agent answered; `None`: calculated from the datastore by the command itself.
    pub agent: Option<String>,
    /// The datastore.
    pub datastore: String,
    /// Its revision.
    pub revision: i64,
    /// What was changed for the question, in words: `+ GlobalNetworkPolicy default.x`.
    #[serde(default)]
    pub changes: Vec<String>,
}

/// What becomes of a packet. In order: which one counts for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No endpoint is concerned: policy is not asked.
    Unpoliced,
    /// Every side allows it.
    Allowed,
    /// What is known allows it, and a side is not known here.
    Unknown,
    /// A side drops it.
    Denied,
}

/// What becomes of the packets of one family, or from or to one part of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What becomes of them.
    pub outcome: Outcome,
    /// Why, in one line.
    pub because: String,
    /// `tcp`, `udp`, `icmp`, `47`.
    pub protocol: String,
    /// Type and code of an ICMP message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// Where they come from.
    pub from: End,
    /// Where they go to.
    pub to: End,
    /// The sides that policy is asked on: the source's egress, the destination's ingress, and between
    /// them the host endpoints that the packet passes.
    pub sides: Vec<SideAnswer>,
}

/// One end of the packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// What it is.
    pub kind: EndKind,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The host that it is on, or that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The address that was asked about.
    pub address: IpAddr,
    /// The external address that leads there, when that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<IpAddr>,
    /// All prefixes that are treated as `address` is, when a network was asked about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndKind {
    /// An endpoint of a pod.
    Pod,
    /// A host of the cluster.
    Host,
    /// An address that is nobody's who is known here.
    Address,
}

/// What the policy of one endpoint says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideAnswer {
    /// `egress` or `ingress`.
    pub side: String,
    /// Whose policy: `orchestrator/workload/endpoint` of a pod, or `HostEndpoint name`.
    pub endpoint: String,
    /// Of a host endpoint, where it was asked: `doNotTrack`, `preDNAT`, `host` (what the host itself
    /// receives and sends), `applyOnForward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Its interface on its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `None`: it is not known here.
    pub allowed: Option<bool>,
    /// What decided, or how to get to know it.
    pub reason: String,
    /// The tiers that were asked, up to the one that decided.
    #[serde(default)]
    pub tiers: Vec<TierAsked>,
    /// The profiles that were asked, up to the one that decided.
    #[serde(default)]
    pub profiles: Vec<RulesAsked>,
}

/// A tier that was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierAsked {
    /// Its name.
    pub tier: String,
    /// Its policies, up to the one that decided.
    pub policies: Vec<RulesAsked>,
    /// What its end did, when no rule decided: `deny` or `pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// A policy or a profile that was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulesAsked {
    /// Its name.
    pub name: String,
    /// Its rules, up to the one that decided. Rules that can never match are not among them.
    pub rules: Vec<RuleAsked>,
}

/// A rule that was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleAsked {
    /// Its place in the policy as written: `ingress[2]`.
    pub rule: String,
    /// `allow`, `deny`, `log` or `pass`.
    pub action: String,
    /// The rule in words.
    pub text: String,
    /// True: it matches.
    pub matches: bool,
    /// Why it does not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The address sets that were looked into: all of one that matches, else the one that it does not
    /// match because of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetAsked>,
}

/// An address set that was looked into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetAsked {
    /// `source` or `destination`.
    pub side: String,
    /// The selector that it stands for; of a named port also protocol and name.
    pub selector: String,
    /// Its identity, from which its name in the kernel is made.
    pub id: String,
    /// The member that holds the address (and port): a prefix, or `address,protocol:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// How many members it has, of both families.
    pub members: usize,
}
