//! From the errors of the parts to what the runtime is told: a code, what, why, and what to do.

use std::error::Error;

use calico_datastore::ipam::{IpamError, Shortage};
use calico_datastore::layout::v3::write::Malformed;
use calico_datastore::store::StoreError;

use crate::attachment::AttachmentError;
use crate::network::NetworkError;
use crate::protocol::{CniError, Code};
use crate::teardown::{Removed, TeardownError};

/// An error and what is behind it, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// The datastore did not do what `msg` says. Code 11 where another time may help, 102 where somebody
/// must do something first.
pub(crate) fn store(msg: impl Into<String>, error: &StoreError) -> CniError {
    let details = chain(error);
    let code = if error.is_refused() { Code::Datastore } else { Code::TryAgainLater };
    CniError::new(code, msg, details)
}

/// What is stored stands in the way.
pub(crate) fn malformed(msg: impl Into<String>, error: &Malformed) -> CniError {
    CniError::new(Code::Datastore, msg, chain(error))
}

/// A record or a lock on this host's disk cannot be used.
pub(crate) fn attachment(msg: impl Into<String>, error: &AttachmentError) -> CniError {
    CniError::new(Code::Io, msg, chain(error))
}

/// The kernel did not do what `msg` says: code 103; code 4 when that is because of what the runtime
/// named.
pub(crate) fn network(msg: impl Into<String>, error: &NetworkError) -> CniError {
    let code = match error {
        NetworkError::NoNamespace { .. }
        | NetworkError::NotANamespace { .. }
        | NetworkError::HostNamespace { .. }
        | NetworkError::TakenInside { .. } => Code::InvalidEnvironment,
        _ => Code::Kernel,
    };
    CniError::new(code, msg, chain(error))
}

/// Addresses cannot be had or given back. Code 100 when none is left, 101 when one that was asked
/// for cannot be had, 7 when the configuration names pools that cannot be.
pub(crate) fn ipam(msg: impl Into<String>, error: &IpamError) -> CniError {
    let (code, advice) = match error {
        IpamError::Store(source) => return store(msg, source),
        IpamError::Malformed(source) => return malformed(msg, source),
        IpamError::NoAddress { why: Shortage::NoPool, .. } => {
            (Code::NoAddress, "make one with calicoctl, or name its addresses as ipam.subnet")
        }
        IpamError::NoAddress { .. } => (Code::NoAddress, "add a pool, or remove pods"),
        IpamError::Taken { .. } => (Code::AddressUnavailable, "ask for another one"),
        IpamError::OutsidePools { .. } => {
            (Code::AddressUnavailable, "`calicoctl get ippools -o wide` lists what there is")
        }
        IpamError::Strict { .. } => (Code::AddressUnavailable, ""),
        IpamError::Overlap { .. } => (Code::AddressUnavailable, "ask for another one"),
        IpamError::Pool { .. } => (Code::InvalidConfig, "see ipam.ipv4_pools and ipam.ipv6_pools"),
        IpamError::InvalidHandle { .. } => (Code::InvalidConfig, ""),
        IpamError::Conflicts { .. } => (Code::TryAgainLater, ""),
    };
    let mut details = chain(error);
    if !advice.is_empty() {
        details.push_str("; ");
        details.push_str(advice);
    }
    CniError::new(code, msg, details)
}

/// The first failure of a teardown, with the others behind it; `None`: nothing failed.
pub(crate) fn teardown(msg: &str, removed: &Removed) -> Option<CniError> {
    let first = removed.failures.first()?;
    let all: Vec<_> = removed.failures.iter().map(|failure| chain(failure)).collect();
    let all = all.join("; ");
    Some(match first {
        TeardownError::Endpoint { source, .. } => CniError { details: all, ..store(msg, source) },
        TeardownError::Interface { .. } => CniError::new(Code::Kernel, msg, all),
        TeardownError::Addresses { source, .. } => CniError { details: all, ..ipam(msg, source) },
        TeardownError::Delegated { source, .. } => {
            CniError { code: source.code, msg: msg.to_owned(), details: all }
        }
    })
}
