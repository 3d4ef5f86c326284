//! The three dataplanes, and the tests that run on each.
//!
//! [`on_each_dataplane!`](crate::on_each_dataplane) makes three tests of a function. Their names say which
//! set they are of and on which dataplane they run (`…::smoke::iptables_nft`, `…::full::nftables`), so that
//! `scripts/test` can choose by name: the set `smoke` runs on every dataplane, `full` on those that
//! `CALICO_FULL_ON` names. A test that runs never chooses by itself: it fails unless it has read back from
//! the kernel that an agent used its dataplane.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

use crate::cluster::CONVERGENCE;
use crate::kernel::{self, Chains};
use crate::netns::Place;
use crate::{run, wait};

/// Which dataplane the agent is told to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// What the agent finds best.
    #[default]
    Auto,
    /// The old kernel interface.
    Legacy,
    /// iptables on top of nf_tables.
    Nft,
    /// A table of its own of nf_tables.
    Nftables,
}

impl Flavour {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Legacy => "legacy",
            Self::Nft => "nft",
            Self::Nftables => "nftables",
        }
    }

    /// What the setting `dataplane` calls it.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
            Self::Nftables => "nftables",
        }
    }

    /// True for the agent's own table.
    #[must_use]
    pub fn is_nftables(self) -> bool {
        self == Self::Nftables
    }

    /// The iptables with whose programs others work beside this agent: its own, or beside the agent's own
    /// table that of nf_tables.
    #[must_use]
    pub fn iptables(self) -> &'static str {
        if self == Self::Legacy { "legacy" } else { "nft" }
    }

    /// What a run on it is called, after the label of its test.
    fn suffix(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Legacy => "leg",
            Self::Nft => "nft",
            Self::Nftables => "own",
        }
    }

    /// The parameter that says it, and its value.
    #[must_use]
    pub fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::Auto | Self::Legacy | Self::Nft => ("FELIX_IPTABLESBACKEND", self.name()),
            Self::Nftables => ("FELIX_DATAPLANE", self.name()),
        }
    }
}

/// What was read back: the run and the dataplane; none where the test was skipped.
static READ: Mutex<Vec<(String, Option<Flavour>)>> = Mutex::new(Vec::new());

/// Fails unless an agent's chains inside `ns` are in this dataplane and in no other. What another agent
/// left in another may still be on its way out.
///
/// # Errors
/// As said, and when a tool fails.
pub fn read_back(run: &str, host: &str, flavour: Flavour, ns: &Place) -> Result<()> {
    let right = |found: Chains| match found.only() {
        Some(only) => flavour == Flavour::Auto || only == flavour,
        None => false,
    };
    let what = format!("chains of {} alone on {host}", flavour.name());
    let found = wait::until(&what, CONVERGENCE, || {
        let found = kernel::chains(ns)?;
        ensure!(right(found), "{found}");
        Ok(Some(found))
    })?;
    let only = found.only().unwrap_or(flavour);
    let name = only.in_words();
    say(&format!("{run}: {host}: read back from the kernel: {name} ({found})"));
    READ.lock().unwrap_or_else(PoisonError::into_inner).push((run.to_owned(), Some(only)));
    Ok(())
}

/// Says that the test with this label cannot run, for want of something that is no dataplane.
pub fn skip(label: &str, why: &str) {
    say(&format!("skipped: {why}"));
    let run = format!("{label}{}-", std::process::id());
    READ.lock().unwrap_or_else(PoisonError::into_inner).push((run, None));
}

/// Runs a test on a dataplane; `label` is the beginning of the names of its runs.
///
/// # Errors
/// When the test fails, or never read back that it was on this dataplane.
pub fn run_on(flavour: Flavour, label: &str, test: fn(&str, Flavour) -> Result<()>) -> Result<()> {
    let label = format!("{label}{}", flavour.suffix());
    ensure!(run::is_root(), "network namespaces need root");
    test(&label, flavour)?;
    let runs = format!("{label}{}-", std::process::id());
    let read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let was = |(run, read): &(String, Option<Flavour>)| {
        run.starts_with(&runs) && read.is_none_or(|read| read == flavour)
    };
    ensure!(read.iter().any(was), "nobody read back that it ran on {}", flavour.name());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a test says which dataplane it read back")]
fn say(text: &str) {
    println!("{text}");
}

/// Three tests of a function of a label and a [`Flavour`], in a module of its name: on every dataplane in
/// each run of all tests (`smoke`), or where the full set runs (`full`).
#[macro_export]
macro_rules! on_each_dataplane {
    ($($set:ident: $test:ident, $label:literal;)+) => {$(
        mod $test {
            mod $set {
                use $crate::dataplane::{Flavour, run_on};

                #[test]
                fn iptables_legacy() -> anyhow::Result<()> {
                    run_on(Flavour::Legacy, $label, super::super::$test)
                }

                #[test]
                fn iptables_nft() -> anyhow::Result<()> {
                    run_on(Flavour::Nft, $label, super::super::$test)
                }

                #[test]
                fn nftables() -> anyhow::Result<()> {
                    run_on(Flavour::Nftables, $label, super::super::$test)
                }
            }
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_in_two_dataplanes_are_in_none() {
        let found = |legacy, nft, own| Chains { legacy, nft, own }.only();
        assert_eq!(found(0, 0, 0), None);
        assert_eq!(found(3, 0, 0), Some(Flavour::Legacy));
        assert_eq!(found(0, 3, 0), Some(Flavour::Nft));
        assert_eq!(found(0, 0, 3), Some(Flavour::Nftables));
        assert_eq!(found(1, 0, 3), None);
        assert_eq!(found(0, 1, 3), None);
    }

    #[test]
    fn a_test_that_never_looked_fails() {
        if !run::can_run() {
            return;
        }
        let looked = |label: &str, read| {
            let run = format!("{label}{}-0", std::process::id());
            READ.lock().unwrap().push((run, read));
        };
        assert!(run_on(Flavour::Nft, "nolook", |_, _| Ok(())).is_err());
        looked("otherown", Some(Flavour::Nft));
        assert!(run_on(Flavour::Nftables, "other", |_, _| Ok(())).is_err());
        looked("rightown", Some(Flavour::Nftables));
        assert!(run_on(Flavour::Nftables, "right", |_, _| Ok(())).is_ok());
    }
}
