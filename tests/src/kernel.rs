//! What the kernel holds, read with the system's own tools: the witness against the agent.

use std::fmt;

use anyhow::Result;

use crate::netns::Netns;

/// Everything that an agent may write, as text. Rule counters included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    parts: Vec<(&'static str, String)>,
}

/// The commands whose output makes a [`Snapshot`].
const COMMANDS: [(&str, &[&str]); 12] = [
    ("iptables-legacy-save", &["-c"]),
    ("ip6tables-legacy-save", &["-c"]),
    ("iptables-nft-save", &["-c"]),
    ("ip6tables-nft-save", &["-c"]),
    ("nft", &["-a", "list", "ruleset"]),
    ("ipset", &["save"]),
    ("ip", &["-4", "-d", "route", "show", "table", "all"]),
    ("ip", &["-6", "-d", "route", "show", "table", "all"]),
    ("ip", &["-4", "rule", "show"]),
    ("ip", &["-6", "rule", "show"]),
    ("ip", &["-4", "neigh", "show", "nud", "permanent"]),
    ("ip", &["-6", "neigh", "show", "nud", "permanent"]),
];

impl Snapshot {
    /// Reads everything inside `ns`.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn take(ns: &Netns) -> Result<Self> {
        let mut parts = Vec::new();
        for (program, args) in COMMANDS {
            parts.push((program, ns.command(program).args(args).run()?));
        }
        Ok(Self { parts })
    }

    /// Only the lines that `keep` likes, without comments, order kept.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        let lines = |text: &String| {
            let kept = text.lines().filter(|line| !line.starts_with('#') && keep(line));
            kept.map(|line| format!("{line}\n")).collect()
        };
        Self { parts: self.parts.iter().map(|(p, text)| (*p, lines(text))).collect() }
    }

    /// The lines that one has and the other has not.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for ((program, a), (_, b)) in self.parts.iter().zip(&other.parts) {
            let only = |a: &str, b: &str, sign: char| {
                let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
                lines.map(|line| format!("{sign} {program}: {line}")).collect::<Vec<_>>()
            };
            all.extend(only(a, b, '-'));
            all.extend(only(b, a, '+'));
        }
        all
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|(program, text)| write!(f, "## {program}\n{text}"))
    }
}

/// How many of the agent's chains the kernel holds in each flavour, both families together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chains {
    /// Through `iptables-legacy-save`.
    pub legacy: usize,
    /// Through `iptables-nft-save`.
    pub nft: usize,
}

impl fmt::Display for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables-legacy: {} cali chains, iptables-nft: {}", self.legacy, self.nft)
    }
}

/// Counts the agent's chains inside `ns`.
///
/// # Errors
/// When a tool fails.
pub fn chains(ns: &Netns) -> Result<Chains> {
    let count = |flavour: &str| -> Result<usize> {
        let mut all = 0;
        for family in ["iptables", "ip6tables"] {
            let text = ns.command(format!("{family}-{flavour}-save")).run()?;
            all += text.lines().filter(|line| line.starts_with(":cali")).count();
        }
        Ok(all)
    };
    Ok(Chains { legacy: count("legacy")?, nft: count("nft")? })
}

/// `ip route` lines of one family, of the main table.
///
/// # Errors
/// When the tool fails.
pub fn routes(ns: &Netns, family: &str) -> Result<Vec<String>> {
    let text = ns.command("ip").args([family, "route", "show"]).run()?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}
