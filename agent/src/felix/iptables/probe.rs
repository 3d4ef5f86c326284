//! Finds out which iptables this host can use and already uses.
//!
//! A host has two rule sets that do not know of each other: the legacy tables and nf_tables. Rules
//! in both work, but an administrator who looks at one does not see the other, and an ACCEPT in one
//! does not end the other. So ours go where the rules of others are.

use std::collections::BTreeMap;
use std::fmt;

use calico_datastore::model::Family;

use super::save;
use crate::config::IptablesBackend;
use crate::exec::{Exec, ExecError};
use crate::felix::counters::Counters;
use crate::felix::ipset::{SetError, Sets};

/// Which kernel interface an iptables speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The legacy tables.
    Legacy,
    /// nf_tables.
    Nft,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
        })
    }
}

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// The flavour.
    pub flavour: Flavour,
    /// The version of the program.
    pub version: (u32, u32, u32),
    /// Why this one, as half a sentence.
    pub why: String,
    /// `-nft`, `-legacy`, or nothing where the host has only one flavour.
    suffix: &'static str,
    /// `iptables-restore` can wait for the lock (1.6.2).
    pub waits: bool,
    /// MASQUERADE can choose ports at random (1.6.2).
    pub random_fully: bool,
}

impl fmt::Display for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b, c) = self.version;
        write!(f, "{} {a}.{b}.{c}: {}", self.flavour, self.why)
    }
}

impl Dataplane {
    /// The program that saves or restores (`what`) the tables of `family`.
    pub fn program(&self, family: Family, what: &str) -> String {
        program(self.suffix, family, what)
    }
}

fn program(suffix: &str, family: Family, what: &str) -> String {
    let base = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{base}{suffix}-{what}")
}

/// There is no dataplane to work with.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No iptables of the wanted flavour.
    #[error("no {0} on this host: install the package iptables (1.6.2 or later)")]
    NoIptables(&'static str),
    /// No address sets.
    #[error("without address sets no policy can be enforced")]
    NoSets(#[source] SetError),
    /// We may not.
    #[error(
        "not permitted to program the kernel with {program}: run as root or with CAP_NET_ADMIN and \
         CAP_NET_RAW"
    )]
    NotPermitted {
        /// What was refused.
        program: String,
        /// How.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is there but does not work.
    #[error("{program} does not work with this kernel: are ip_tables or nf_tables available?")]
    Broken {
        /// What failed.
        program: String,
        /// How.
        #[source]
        source: ExecError,
    },
}

impl ProbeError {
    fn of(program: String, source: ExecError) -> Self {
        let said = match &source {
            ExecError::Failed { stderr, .. } => stderr.to_ascii_lowercase(),
            _ => String::new(),
        };
        if said.contains("permission denied")
            || said.contains("operation not permitted")
            || said.contains("you must be root")
            // What the legacy flavour says to root without the capability.
            || said.contains("unable to initialize table") && !may_administer_network()
        {
            Self::NotPermitted { program, source: source.into() }
        } else {
            Self::Broken { program, source }
        }
    }
}

/// True when this process has CAP_NET_ADMIN (bit 12), or when that cannot be told.
pub(in crate::felix) fn may_administer_network() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return true };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_none_or(|bits| bits & (1 << 12) != 0)
}

/// One iptables of the host.
struct Candidate {
    dataplane: Dataplane,
    foreign_rules: usize,
    ours: bool,
}

/// What to use, and what an earlier run used.
#[derive(Clone, Debug)]
pub struct Probed {
    /// What to use.
    pub chosen: Dataplane,
    /// The other flavour, when it holds chains of ours that have to go.
    pub abandoned: Option<Dataplane>,
}

/// Every iptables that this host has and that can be read, and why others cannot.
pub async fn installed(exec: &Exec) -> (Vec<Dataplane>, Vec<ProbeError>) {
    let (found, errors) = candidates(exec).await;
    (found.into_iter().map(|candidate| candidate.dataplane).collect(), errors)
}

/// Those of them that hold anything of ours.
pub(in crate::felix) async fn with_ours(exec: &Exec) -> Vec<Dataplane> {
    let (found, _) = candidates(exec).await;
    let ours = found.into_iter().filter(|candidate| candidate.ours);
    ours.map(|candidate| candidate.dataplane).collect()
}

async fn candidates(exec: &Exec) -> (Vec<Candidate>, Vec<ProbeError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for suffix in ["-nft", "-legacy", ""] {
        // The plain name is one of the others where those exist.
        if suffix.is_empty() && !(found.is_empty() && errors.is_empty()) {
            break;
        }
        match candidate(exec, suffix).await {
            Ok(Some(candidate)) => found.push(candidate),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

/// Chooses. Changes nothing in the kernel but that the tables it would use exist afterwards.
///
/// # Errors
/// When no iptables works, or the kernel has no address sets: nothing can be enforced on this host.
pub async fn probe(exec: &Exec, wanted: IptablesBackend) -> Result<Probed, ProbeError> {
    choose(exec, wanted, true).await
}

/// The same without trying whether the tables can be written: nothing at all changes.
///
/// # Errors
/// When no iptables is there that can be read, or the kernel has no address sets.
pub async fn survey(exec: &Exec, wanted: IptablesBackend) -> Result<Probed, ProbeError> {
    choose(exec, wanted, false).await
}

async fn choose(exec: &Exec, wanted: IptablesBackend, try_it: bool) -> Result<Probed, ProbeError> {
    Sets::new(Counters::default()).probe().map_err(|error| match error {
        SetError::NotPermitted(source) => {
            ProbeError::NotPermitted { program: "netlink".to_owned(), source: source.into() }
        }
        error => ProbeError::NoSets(error),
    })?;
    let (mut found, mut errors) = candidates(exec).await;
    let mut failed = errors.pop();
    let only = match wanted {
        IptablesBackend::Auto => None,
        IptablesBackend::Legacy => Some(Flavour::Legacy),
        IptablesBackend::Nft => Some(Flavour::Nft),
    };
    let with_ours: Vec<Dataplane> =
        found.iter().filter(|c| c.ours).map(|c| c.dataplane.clone()).collect();
    found.retain(|candidate| only.is_none_or(|only| candidate.dataplane.flavour == only));
    for mut chosen in in_order(found, only.is_some()) {
        let tried = if try_it { usable(exec, &chosen).await } else { Ok(()) };
        match tried {
            Ok(()) => {
                if failed.is_some() && only.is_none() {
                    chosen.why.push_str(", and the other does not work");
                }
                let abandoned = with_ours.into_iter().find(|d| d.flavour != chosen.flavour);
                return Ok(Probed { chosen, abandoned });
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or(ProbeError::NoIptables(match only {
        None => "iptables",
        Some(Flavour::Legacy) => "iptables-legacy",
        Some(Flavour::Nft) => "iptables-nft",
    })))
}

/// The candidates, best first, each with its reason.
fn in_order(mut found: Vec<Candidate>, asked: bool) -> impl Iterator<Item = Dataplane> {
    let alone = found.len() == 1;
    // More rules of others win, then rules of our own, then nft, which is the first in the list.
    found.sort_by_key(|c| std::cmp::Reverse((c.foreign_rules, c.ours)));
    found.into_iter().map(move |candidate| {
        let why = match (asked, candidate.foreign_rules, candidate.ours) {
            (true, ..) => "the settings ask for it".to_owned(),
            _ if alone => "it is the only one on this host".to_owned(),
            (_, 0, true) => "our rules of an earlier run are there".to_owned(),
            (_, 0, false) => "no rules of others are on this host, and it is preferred".to_owned(),
            (_, 1, _) => "a rule of somebody else is there".to_owned(),
            (_, n, _) => format!("{n} rules of others are there"),
        };
        Dataplane { why, ..candidate.dataplane }
    })
}

/// The iptables of that suffix, when the host has it.
async fn candidate(exec: &Exec, suffix: &'static str) -> Result<Option<Candidate>, ProbeError> {
    let program6 = program(suffix, Family::V6, "save");
    let program = program(suffix, Family::V4, "save");
    let version = match exec.run(&program, &["--version"], b"").await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(ProbeError::of(program, error)),
    };
    let saved = match exec.run::<&str>(&program, &[], b"").await {
        Ok(output) => output.stdout,
        Err(error) => return Err(ProbeError::of(program, error)),
    };
    let tables = save::parse(&String::from_utf8_lossy(&saved));
    let holds_ours = |tables: &BTreeMap<_, save::ActualTable>| {
        tables.values().any(save::ActualTable::holds_ours)
    };
    // One that was cleaned half-way holds ours in one family only. A host without IPv6 holds none.
    let mut ours = holds_ours(&tables);
    if !ours && let Ok(output) = exec.run::<&str>(&program6, &[], b"").await {
        ours = holds_ours(&save::parse(&String::from_utf8_lossy(&output.stdout)));
    }
    let number = version_of(&version);
    let recent = number >= (1, 6, 2);
    Ok(Some(Candidate {
        foreign_rules: tables.values().map(save::ActualTable::foreign_rules).sum(),
        ours,
        dataplane: Dataplane {
            flavour: if suffix == "-nft" || version.contains("nf_tables") {
                Flavour::Nft
            } else {
                Flavour::Legacy
            },
            version: number,
            why: String::new(),
            suffix,
            waits: recent,
            random_fully: recent,
        },
    }))
}

/// Asks the program to check an empty transaction for each table that we need.
async fn usable(exec: &Exec, dataplane: &Dataplane) -> Result<(), ProbeError> {
    let program = dataplane.program(Family::V4, "restore");
    let text = b"*raw\nCOMMIT\n*filter\nCOMMIT\n";
    match exec.run(&program, &["--noflush", "--test"], text).await {
        Ok(_) => Ok(()),
        Err(error) => Err(ProbeError::of(program, error)),
    }
}

/// `iptables v1.8.9 (nf_tables)` → (1, 8, 9).
fn version_of(text: &str) -> (u32, u32, u32) {
    let numbers = text.split_once(" v").map_or("", |(_, rest)| rest);
    let mut parts = numbers
        .split(|c: char| !c.is_ascii_digit())
        .take(3)
        .map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(flavour: Flavour, foreign_rules: usize, ours: bool) -> Candidate {
        Candidate {
            foreign_rules,
            ours,
            dataplane: Dataplane {
                flavour,
                version: (1, 8, 9),
                why: String::new(),
                suffix: "",
                waits: true,
                random_fully: true,
            },
        }
    }

    #[test]
    fn rules_go_where_the_others_are() {
        let pick = |nft: (usize, bool), legacy: (usize, bool)| {
            let found = vec![
                candidate(Flavour::Nft, nft.0, nft.1),
                candidate(Flavour::Legacy, legacy.0, legacy.1),
            ];
            in_order(found, false).next().unwrap()
        };
        assert_eq!(pick((0, false), (0, false)).flavour, Flavour::Nft);
        assert_eq!(pick((0, false), (3, false)).flavour, Flavour::Legacy);
        assert_eq!(pick((5, false), (3, true)).flavour, Flavour::Nft);
        assert_eq!(pick((0, false), (0, true)).flavour, Flavour::Legacy);
        assert_eq!(
            pick((0, false), (3, false)).to_string(),
            "iptables-legacy 1.8.9: 3 rules of others are there"
        );
    }

    #[test]
    fn versions() {
        for (text, version) in [
            ("iptables v1.8.9 (nf_tables)\n", (1, 8, 9)),
            ("iptables-save v1.8.7 (legacy)", (1, 8, 7)),
            ("iptables v1.6.1", (1, 6, 1)),
            ("iptables v1.4", (1, 4, 0)),
            ("what", (0, 0, 0)),
        ] {
            assert_eq!(version_of(text), version, "{text}");
        }
    }
}
