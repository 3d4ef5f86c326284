//! Why there is no answer.

use calico_datastore::model::{Family, Name, Protocol};

use super::directory::PeerError;
use super::question::QuestionError;

/// It cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// It cannot be meant.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// Who sends is not known.
    #[error("from {0}")]
    From(PeerError),
    /// Who is sent to is not known.
    #[error("to {0}")]
    To(PeerError),
    /// They have no address in common.
    #[error("{from} and {to} have no family of addresses in common{}", of(*only))]
    Families {
        /// Who sends.
        from: String,
        /// Who is sent to.
        to: String,
        /// The only family of the protocol.
        only: Option<Family>,
    },
    /// Two networks.
    #[error("only one of the two may be a network: ask about an address of the other")]
    TwoNetworks,
    /// Nobody knows the port of that name.
    #[error("no {protocol} port of {peer} is known by the name {name}: ask about its number")]
    PortName {
        /// The name.
        name: Name,
        /// The protocol.
        protocol: Protocol,
        /// Whose it would be.
        peer: String,
    },
}

fn of(only: Option<Family>) -> String {
    only.map_or_else(String::new, |family| format!(" for a protocol of {family}"))
}
