//! The two ends of a question, found. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::{Family, Name};

use super::directory::{Directory, Known, Peer};
use super::error::ExplainError;
use super::question::Question;

/// The two peers of a question.
#[derive(Clone, Debug)]
pub struct Peers {
    pub(super) from: Peer,
    pub(super) to: Peer,
}

impl Peers {
    /// Finds them.
    ///
    /// # Errors
    /// When one is not known, or not the only one of that name.
    pub fn find(question: &Question, directory: &Directory) -> Result<Self, ExplainError> {
        let from = directory.find(&question.from).map_err(ExplainError::From)?;
        let to = directory.find(&question.to).map_err(ExplainError::To)?;
        if matches!((&from, &to), (Peer::Network(_), Peer::Network(_))) {
            return Err(ExplainError::TwoNetworks);
        }
        Ok(Self { from, to })
    }

    /// The hosts whose policy is asked.
    pub fn hosts(&self, directory: &Directory) -> BTreeSet<Name> {
        let both = [&self.from, &self.to].into_iter();
        let asking = match &self.to {
            Peer::Address(address) => directory.pods_asking_for(*address).collect(),
            _ => Vec::new(),
        };
        let pods = both.clone().flat_map(|peer| pods_of(peer, directory)).chain(asking);
        let pods = pods.map(|pod| pod.id.node.clone());
        let hosts = both.filter_map(|peer| match peer {
            Peer::Host(name, _) => Some(name),
            Peer::Address(address) => directory.host_with(*address),
            Peer::Pod(_) | Peer::External(_) | Peer::Network(_) | Peer::Outside => None,
        });
        pods.chain(hosts.cloned()).collect()
    }

    /// The addresses that are asked about; of a network its first.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let both = [&self.from, &self.to].into_iter();
        let each = |peer| Family::ALL.map(|family| Directory::address(peer, family));
        both.flat_map(each).flatten().collect()
    }
}

/// The pods that a peer means.
pub(super) fn pods_of<'a>(peer: &'a Peer, directory: &'a Directory) -> Vec<&'a Known> {
    match peer {
        Peer::Pod(pod) => vec![pod],
        Peer::Address(address) => directory.pods_with(*address).collect(),
        Peer::External(external) => vec![&external.pod],
        Peer::Host(..) | Peer::Network(_) | Peer::Outside => Vec::new(),
    }
}
