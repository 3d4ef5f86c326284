//! The programs that the agent starts, and versions that are known to be bad.

use crate::check::finding::{Finding, Findings, Group};
use crate::felix::Flavour;

/// A program and what it said about its version.
#[derive(Clone, Debug)]
pub struct Program {
    /// What is started.
    pub name: String,
    /// The first line that it said; or why it said none.
    pub version: Result<String, Absent>,
}

/// Why a program has no version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is not in `PATH`.
    Missing,
    /// It did not do as it was told.
    Broken(String),
}

/// What was asked.
#[derive(Clone, Debug, Default)]
pub struct ProgramFacts {
    /// Which iptables the agent would take, and why; or why it can take none. `None`: it takes none.
    pub dataplane: Option<Result<(Flavour, String), String>>,
    /// Why it would take nftables, or why it cannot. `None`: it would not.
    pub nftables: Option<Result<String, String>>,
    /// Version of the chosen one.
    pub iptables: (u32, u32, u32),
    /// `ip6tables` of the same flavour; `None` when IPv6 is off or not in this kernel.
    pub ip6tables: Option<Program>,
    /// `bird`.
    pub bird: Option<Program>,
}

/// The first iptables-restore that can wait for the lock.
const WAITS: (u32, u32, u32) = (1, 6, 2);
/// The first iptables-nft that keeps deletions and rewrites of one transaction apart.
const NFT_SOUND: (u32, u32, u32) = (1, 8, 3);

/// Judges programs.
pub fn judge(facts: &ProgramFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Programs);
    match &facts.dataplane {
        Some(Ok((flavour, why))) => {
            let (a, b, c) = facts.iptables;
            if facts.iptables < WAITS {
                out.warn("iptables", format!("{why}; it cannot wait for the lock that all programs share, so writes may be refused while others write"), "install iptables 1.6.2 or later");
            } else if *flavour == Flavour::Nft && facts.iptables < NFT_SOUND {
                out.warn("iptables", format!("{why}; iptables-nft {a}.{b}.{c} loses changes when chains come and go at once"), "install iptables 1.8.3 or later, or set FELIX_IPTABLESBACKEND=legacy");
            } else {
                out.ok("iptables", why);
            }
        }
        Some(Err(why)) => out.fail("iptables", why, "without it no policy can be enforced"),
        None => {}
    }
    match &facts.nftables {
        Some(Ok(why)) => out.ok("nftables", why),
        Some(Err(why)) => out.fail(
            "nftables",
            why,
            "boot a kernel 5.7 or later with nf_tables, or set dataplane = \"auto\"",
        ),
        None => {}
    }
    if let Some(program) = &facts.ip6tables {
        needed(
            &mut out,
            program,
            "install it, or set FELIX_IPV6SUPPORT=false on a host without IPv6",
        );
    }
    if let Some(program) = &facts.bird {
        match &program.version {
            Ok(version) if major(version).is_some_and(|major| major < 2) => out.fail(
                "bird",
                format!("{version}: its configuration is another language"),
                "install BIRD 2 (the package bird2)",
            ),
            _ => optional(
                &mut out,
                program,
                "install BIRD 2 (the package bird2): without it policy works and routes stay on this host",
            ),
        }
    }
    out.done()
}

/// `BIRD version 2.0.12` → 2.
fn major(version: &str) -> Option<u32> {
    let number =
        version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split('.').next()?.parse().ok()
}

fn needed(out: &mut Findings, program: &Program, advice: &str) {
    match &program.version {
        Ok(version) => out.ok(&program.name, version),
        Err(absent) => out.fail(&program.name, said(absent), advice),
    }
}

fn optional(out: &mut Findings, program: &Program, advice: &str) {
    match &program.version {
        Ok(version) => out.ok(&program.name, version),
        Err(absent) => out.warn(&program.name, said(absent), advice),
    }
}

fn said(absent: &Absent) -> String {
    match absent {
        Absent::Missing => "not on this host".to_owned(),
        Absent::Broken(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    fn level(facts: &ProgramFacts) -> Level {
        let found = judge(facts);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].level
    }

    #[test]
    fn versions_of_iptables() {
        for (flavour, version, expected) in [
            (Flavour::Nft, (1, 8, 9), Level::Ok),
            (Flavour::Nft, (1, 8, 2), Level::Warn),
            (Flavour::Legacy, (1, 8, 2), Level::Ok),
            (Flavour::Legacy, (1, 6, 1), Level::Warn),
        ] {
            let dataplane = Some(Ok((flavour, "why".to_owned())));
            let facts = ProgramFacts { dataplane, iptables: version, ..Default::default() };
            assert_eq!(level(&facts), expected, "{flavour} {version:?}");
        }
        let dataplane = Some(Err("no iptables".to_owned()));
        assert_eq!(level(&ProgramFacts { dataplane, ..Default::default() }), Level::Fail);
    }

    #[test]
    fn what_is_missing_is_as_bad_as_what_needs_it() {
        let program = |version: Result<&str, Absent>| {
            Some(Program { name: "it".into(), version: version.map(str::to_owned) })
        };
        let none = ProgramFacts::default();
        let missing = || Err(Absent::Missing);
        for (facts, expected) in [
            (ProgramFacts { ip6tables: program(missing()), ..none.clone() }, Level::Fail),
            (ProgramFacts { bird: program(missing()), ..none.clone() }, Level::Warn),
            (ProgramFacts { bird: program(Ok("BIRD version 1.6.8")), ..none.clone() }, Level::Fail),
            (ProgramFacts { bird: program(Ok("BIRD version 2.0.12")), ..none.clone() }, Level::Ok),
            (ProgramFacts { bird: program(Ok("BIRD version 3.1.0")), ..none }, Level::Ok),
        ] {
            assert_eq!(level(&facts), expected, "{facts:?}");
        }
    }
}
