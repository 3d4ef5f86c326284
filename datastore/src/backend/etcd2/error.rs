//! What can go wrong with etcd's v2 API, and what kind of trouble it is.

use std::path::PathBuf;
use std::time::Duration;

use super::wire::Fault;

/// Something that etcd was asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Etcd2Error {
    /// The configuration names no endpoint.
    #[error("no etcd endpoint is configured")]
    NoEndpoint,
    /// An endpoint that is no URL of a host and a port.
    #[error("{0} is not http://host:port or https://host:port")]
    Endpoint(String),
    /// An `https` endpoint without an authority to check it by.
    #[error("{0} is https, and there is no CA certificate to check it by: set ETCD_CA_CERT_FILE")]
    NoAuthority(String),
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
    /// The certificates do not make a configuration of TLS.
    #[error("cannot use the certificates")]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// A member cannot be connected to.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The member.
        endpoint: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A connection broke, or what came is no HTTP.
    #[error("cannot {op} {key}")]
    Http {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// Why not.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time. A write may have happened all the same.
    #[error("cannot {op} {key}: no answer within {} s", after.as_secs_f32())]
    Timeout {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// How long the answer was waited for.
        after: Duration,
    },
    /// etcd says no.
    #[error("cannot {op} {key}: {} {}", fault.message, fault.cause)]
    Fault {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// The status of HTTP.
        status: u16,
        /// etcd's error.
        fault: Fault,
    },
    /// What answers is not etcd's v2 API.
    #[error("cannot {op} {key}: {what}")]
    Answer {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// What came.
        what: String,
    },
    /// The API only stores text.
    #[error("cannot write {0}: the value is not UTF-8")]
    NotText(String),
}

impl Etcd2Error {
    /// The history does not reach back to the index that was asked for.
    pub fn is_cleared(&self) -> bool {
        matches!(self, Self::Fault { fault, .. } if fault.is_cleared())
    }

    /// The store refuses us: wrong user, password or certificate, or a role without access.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Fault { status, fault, .. } => {
                fault.is_unauthorized() || matches!(status, 401 | 403)
            }
            _ => false,
        }
    }

    /// A write that cannot be, whenever it is tried.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::NotText(_))
    }

    /// A member, its leader or the way to it is gone; another member or a later time may do.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Http { .. }
            | Self::Timeout { .. }
            | Self::Answer { .. } => true,
            Self::Fault { status, fault, .. } => fault.is_unavailable() || *status >= 500,
            Self::NoEndpoint | Self::Endpoint(_) | Self::NoAuthority(_) | Self::HalfIdentity => {
                false
            }
            Self::Pem { .. } | Self::Tls(_) | Self::NotText(_) => false,
        }
    }

    /// The error and what is behind it, on one line, for people.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !said.is_empty() && !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(": ");
            text.push_str(hint);
        }
        text
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Answer { what, .. } if what.contains("404") => {
                Some("etcd 3.4 and 3.5 serve the v2 API only with --enable-v2, later ones never")
            }
            error if error.is_refused() => {
                Some("the user of ETCD_USERNAME needs a role over /calico/*")
            }
            _ => None,
        }
    }
}
