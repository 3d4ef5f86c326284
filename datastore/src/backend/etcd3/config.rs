//! How to reach etcd, and how long anything may take.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that one call may take, choosing a member included. Reads and writes of etcd take
/// milliseconds; an election takes one to two seconds.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a member may take to prove that it answers.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may be silent before it is asked for a sign of life. etcd closes the
/// connection of a client that asks more often than every 5 s
/// (`--grpc-keepalive-min-time`), so this must stay above it.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(5_500);

/// How long the answer to that may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a watch may be silent. When nothing happens etcd reports so every 10 minutes
/// (`progressReportInterval`), so one that says nothing for longer hangs, whatever its connection
/// does.
pub(super) const WATCH_SILENCE: Duration = Duration::from_secs(15 * 60);

/// The first pause before something that failed is tried again; it doubles each time.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The longest such pause.
pub const BACKOFF_CAP: Duration = Duration::from_secs(3);

/// Keys in one page of a listing. Halved for as long as a page exceeds [`MAX_MESSAGE_BYTES`].
pub const PAGE_KEYS: i64 = 1_000;

/// The largest answer that is read. tonic's own limit of 4 MiB is less than three of the largest
/// values that etcd takes; deleting 250,000 keys at once is one message of some 30 MiB.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Where etcd is and who we are to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Etcd3Config {
    /// `http://host:port` or `https://host:port`; one suffices, each is tried.
    pub endpoints: Vec<String>,
    /// PEM file of the authority that signed the servers' certificates. Needed for `https`.
    pub ca_cert: Option<PathBuf>,
    /// PEM file of our own certificate. Read again for each connection, so it may be renewed.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The user, where etcd's access control is on.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
}

impl fmt::Debug for Etcd3Config {
    /// Everything but the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd3Config")
            .field("endpoints", &self.endpoints)
            .field("ca_cert", &self.ca_cert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_printed() {
        let config = Etcd3Config { password: Some("hunter2".to_owned()), ..Default::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(format!("{config:?}").contains('…'));
    }
}
