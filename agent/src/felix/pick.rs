//! Which dataplane this host gets, and what an earlier run left in the others.

use std::fmt;

use super::counters::Counters;
use super::ipset::Sets;
use super::iptables::probe::{self, Dataplane, ProbeError};
use super::nftables::TABLE;
use super::nftables::backend as native;
use super::nftables::table::Table;
use super::nftables::trial::lack;
use crate::config::{IptablesBackend, Wanted};
use crate::exec::Exec;
use crate::telemetry::chain;

/// The oldest kernel whose nf_tables has all that we write: sets of interfaces and
/// prefixes (5.6), elements that count (5.7).
const KERNEL: (u32, u32) = (5, 7);

/// A dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Tables of iptables, and address sets.
    Iptables(Dataplane),
    /// A table of our own of nf_tables.
    Nftables {
        /// Why, as half a sentence.
        why: String,
    },
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(dataplane) => dataplane.fmt(f),
            Self::Nftables { why } => write!(f, "nftables: {why}"),
        }
    }
}

/// What an earlier run left where the chosen dataplane does not look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// Chains in the tables of an iptables.
    Iptables(Dataplane),
    /// Address sets.
    Sets,
    /// Our own table of nf_tables, or groups of interfaces.
    Nftables,
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(dataplane) => write!(f, "rules of {}", dataplane.flavour),
            Self::Sets => f.write_str("address sets"),
            Self::Nftables => f.write_str("the table of nftables"),
        }
    }
}

/// What to use, and what has to go when that is in force.
#[derive(Clone, Debug)]
pub struct Picked {
    /// What to use.
    pub pick: Pick,
    /// What has to go, in this order.
    pub abandoned: Vec<Abandoned>,
}

/// This host cannot enforce policy as it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    /// No iptables.
    #[error(transparent)]
    Iptables(ProbeError),
    /// No nftables.
    #[error("the nftables dataplane does not work here: {0}")]
    Nftables(String),
}

/// Tries what the dataplane nftables needs of the kernel. A table of ours that is there has been taken.
async fn takes_it(try_it: bool) -> Result<(), PickError> {
    let lack = if try_it && !native::is_there().await { lack() } else { None };
    lack.map_or(Ok(()), |lack| Err(PickError::Nftables(lack)))
}

/// Chooses. With `try_it` the tables of iptables that it would use exist afterwards; otherwise nothing in
/// the kernel changes.
///
/// # Errors
/// When what is wanted does not work, or nothing does.
pub async fn pick(exec: &Exec, wanted: Wanted, try_it: bool) -> Result<Picked, PickError> {
    let backend = match wanted {
        Wanted::Nftables => {
            usable().await.map_err(PickError::Nftables)?;
            takes_it(try_it).await?;
            let why = "the settings ask for it".to_owned();
            return Ok(Picked { abandoned: of_iptables(exec).await, pick: Pick::Nftables { why } });
        }
        Wanted::Iptables(backend) => backend,
        Wanted::Auto => IptablesBackend::Auto,
    };
    let probed =
        if try_it { probe::probe(exec, backend).await } else { probe::survey(exec, backend).await };
    match probed {
        Ok(probed) => {
            let iptables = probed.abandoned.map(Abandoned::Iptables);
            let native = native::is_there().await.then_some(Abandoned::Nftables);
            let abandoned = iptables.into_iter().chain(native).collect();
            Ok(Picked { pick: Pick::Iptables(probed.chosen), abandoned })
        }
        Err(error @ (ProbeError::NoIptables(_) | ProbeError::NoSets(_)))
            if wanted == Wanted::Auto =>
        {
            if usable().await.is_err() {
                return Err(PickError::Iptables(error));
            }
            takes_it(try_it).await?;
            let why = match error {
                ProbeError::NoSets(_) => "the kernel has no address sets".to_owned(),
                _ => "iptables is not on this host".to_owned(),
            };
            Ok(Picked { abandoned: of_iptables(exec).await, pick: Pick::Nftables { why } })
        }
        Err(error) => Err(PickError::Iptables(error)),
    }
}

/// What of ours is in tables of iptables and address sets. Without its program nothing can be removed from
/// tables.
async fn of_iptables(exec: &Exec) -> Vec<Abandoned> {
    let mut found: Vec<Abandoned> =
        probe::with_ours(exec).await.into_iter().map(Abandoned::Iptables).collect();
    let sets = Sets::new(Counters::default()).read().await;
    if sets.is_ok_and(|sets| !sets.is_empty()) {
        found.push(Abandoned::Sets);
    }
    found
}

/// Looks whether a table of our own could be written.
///
/// # Errors
/// In words, why not.
pub async fn usable() -> Result<(), String> {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    // What cannot be read is tried.
    if kernel_of(&release).is_some_and(|version| version < KERNEL) {
        let (major, minor) = KERNEL;
        return Err(format!("kernel {release} is older than {major}.{minor}"));
    }
    if !probe::may_administer_network() {
        return Err("run as root or with CAP_NET_ADMIN".to_owned());
    }
    let mut table = Table::open(TABLE, Counters::default()).map_err(|error| chain(&error))?;
    let read = native::apart(move || table.read().map(drop)).await;
    read.map_err(|error| chain(&error))?.map_err(|error| chain(&error))
}

/// `6.1.0-18-amd64` → (6, 1).
fn kernel_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.6.0", Some((5, 6))),
            ("4.19+", Some((4, 19))),
            ("what", None),
        ] {
            assert_eq!(kernel_of(release), version, "{release}");
        }
        assert!(kernel_of("5.6.19").unwrap() < KERNEL);
        assert!(kernel_of("5.10.0").unwrap() > KERNEL);
    }
}
