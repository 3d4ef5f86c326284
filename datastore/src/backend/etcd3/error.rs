//! What can go wrong with etcd, and what kind of trouble it is.

use std::path::PathBuf;
use std::time::Duration;

/// gRPC's status codes that are told apart here (`google.golang.org/grpc/codes`).
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What etcd says to a user or password that is wrong.
const WRONG_USER: &str = "authentication failed";
/// What it says to a client without a user when its access control is on.
const NO_USER: &str = "user name is empty";

/// Something that etcd was asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The configuration names no endpoint.
    #[error("no etcd endpoint is configured")]
    NoEndpoint,
    /// An `https` endpoint without an authority to check it by.
    #[error(
        "{endpoint} is https, and there is no CA certificate to check it by: set ETCD_CA_CERT_FILE"
    )]
    NoAuthority {
        /// The endpoint.
        endpoint: String,
    },
    /// A certificate or key without its other half.
    #[error("a client certificate and its key must be configured together")]
    HalfIdentity,
    /// A PEM file cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A member cannot be talked to.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The member.
        endpoint: String,
        /// Why.
        #[source]
        source: etcd_client::Error,
    },
    /// A member does not answer.
    #[error("no answer from {endpoint} within {}", seconds(*.after))]
    Silent {
        /// The member.
        endpoint: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A call failed.
    #[error("cannot {op} {key}")]
    Call {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// Why not.
        #[source]
        source: etcd_client::Error,
    },
    /// A call was not answered in time. A write may have happened all the same.
    #[error("cannot {op} {key}: no answer within {}", seconds(*.after))]
    Timeout {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// How long the answer was waited for.
        after: Duration,
    },
    /// An answer lacks its header: not etcd, or a broken proxy.
    #[error("cannot {op} {key}: the answer has no header")]
    NoHeader {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
    },
    /// The server ended a watch.
    #[error("the watch of {key} was ended: {reason}")]
    WatchEnded {
        /// What was watched.
        key: String,
        /// Why, in the server's words.
        reason: String,
    },
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f32())
}

impl EtcdError {
    /// The revision asked for is gone from the store's history.
    pub fn is_compacted(&self) -> bool {
        self.says(code::OUT_OF_RANGE, "required revision has been compacted")
    }

    /// The revision asked for has not happened yet: the store is not the one that it was.
    pub fn is_future(&self) -> bool {
        self.says(code::OUT_OF_RANGE, "required revision is a future revision")
    }

    /// The answer is larger than [`super::MAX_MESSAGE_BYTES`].
    pub fn is_too_large(&self) -> bool {
        self.says(code::OUT_OF_RANGE, "message length too large")
            || self.says(code::RESOURCE_EXHAUSTED, "message length too large")
    }

    /// The store refuses us: wrong user, password or certificate, or a role without access.
    pub fn is_refused(&self) -> bool {
        if let Self::WatchEnded { reason, .. } = self {
            return reason.contains("permission denied");
        }
        match self.status() {
            Some((code::PERMISSION_DENIED | code::UNAUTHENTICATED, _)) => true,
            // etcd says InvalidArgument to a wrong password, and to none at all.
            Some((code::INVALID_ARGUMENT, message)) => {
                message.contains(WRONG_USER) || message.contains(NO_USER)
            }
            _ => false,
        }
    }

    /// The store says that what it was asked for cannot be: a value that is too large, for one.
    pub fn is_invalid(&self) -> bool {
        matches!(self.status(), Some((code::INVALID_ARGUMENT, _)))
    }

    /// What to do about it, where that is known. `text`: what else is said.
    fn hint(&self, text: &str) -> Option<&'static str> {
        if let Self::Connect { endpoint, .. } = self
            && endpoint.starts_with("https://")
        {
            // etcd takes a wrong client certificate, or none, by hanging up. What of that is seen first
            // is a matter of luck.
            let hung_up = ["connection closed", "fatal alert", "broken pipe", "connection reset"];
            if hung_up.iter().any(|said| text.to_ascii_lowercase().contains(said)) {
                return Some("it may want a certificate: see ETCD_CERT_FILE and ETCD_KEY_FILE");
            }
            if text.contains("UnknownIssuer") {
                return Some("see ETCD_CA_CERT_FILE");
            }
        }
        match self.status() {
            Some((code::INVALID_ARGUMENT, message)) if message.contains(NO_USER) => {
                Some("etcd wants a user: set ETCD_USERNAME and ETCD_PASSWORD")
            }
            Some((code::INVALID_ARGUMENT, message)) if message.contains(WRONG_USER) => {
                Some("check ETCD_USERNAME and ETCD_PASSWORD")
            }
            Some((code::PERMISSION_DENIED, _)) => {
                Some("the user of ETCD_USERNAME needs a role over the prefix /calico/")
            }
            _ => None,
        }
    }

    /// A member, its leader or the way to it is gone; another member or a later time may do. A
    /// write that fails so may have happened.
    pub fn is_unavailable(&self) -> bool {
        if self.is_refused() || self.is_compacted() || self.is_future() || self.is_too_large() {
            return false;
        }
        match self {
            Self::Connect { .. } | Self::Silent { .. } | Self::Timeout { .. } => true,
            Self::NoHeader { .. } | Self::WatchEnded { .. } => true,
            Self::Call { source, .. } => match self.status() {
                Some((code, _)) => matches!(
                    code,
                    code::CANCELLED
                        | code::UNKNOWN
                        | code::DEADLINE_EXCEEDED
                        | code::RESOURCE_EXHAUSTED
                        | code::INTERNAL
                        | code::UNAVAILABLE
                ),
                None => matches!(
                    source,
                    etcd_client::Error::TransportError(_)
                        | etcd_client::Error::IoError(_)
                        | etcd_client::Error::WatchError(_)
                ),
            },
            Self::NoEndpoint | Self::NoAuthority { .. } | Self::HalfIdentity => false,
            Self::Pem { .. } => false,
        }
    }

    fn status(&self) -> Option<(i32, &str)> {
        match self {
            Self::Connect { source: etcd_client::Error::GRpcStatus(status), .. }
            | Self::Call { source: etcd_client::Error::GRpcStatus(status), .. } => {
                Some((i32::from(status.code()), status.message()))
            }
            _ => None,
        }
    }

    fn says(&self, code: i32, text: &str) -> bool {
        self.status().is_some_and(|(is, message)| is == code && message.contains(text))
    }

    /// The error and what is behind it, on one line, for people.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        if let Self::Connect { source: etcd_client::Error::GRpcStatus(status), .. }
        | Self::Call { source: etcd_client::Error::GRpcStatus(status), .. } = self
        {
            // A status prints its code and its causes as a debugger would.
            append(&mut text, status.message());
            cause = std::error::Error::source(status);
            // In between there is only "transport error" and the like.
            while let Some(deeper) = cause.and_then(std::error::Error::source) {
                cause = Some(deeper);
            }
        }
        while let Some(error) = cause {
            append(&mut text, &error.to_string());
            cause = error.source();
        }
        let hint = self.hint(&text).unwrap_or_default();
        append(&mut text, hint);
        text
    }
}

fn append(text: &mut String, cause: &str) {
    if !cause.is_empty() && !text.contains(cause) {
        text.push_str(": ");
        text.push_str(cause);
    }
}
