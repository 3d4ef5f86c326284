//! What an address set stands for: its id, and what an endpoint or network set brings into it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::{Cidr, Name, NamedPort, Protocol, Selector};
use sha2::{Digest as _, Sha224};

use crate::desired::{Member, SetId, SetKind};

/// What a set stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetSpec {
    /// The addresses of everything that the selector matches.
    Addresses(Selector),
    /// The ports of that name and protocol of the endpoints that the selector matches.
    Ports(Selector, Protocol, Name),
}

impl SetSpec {
    /// The original's id of such a set.
    pub(super) fn id(&self) -> SetId {
        match self {
            Self::Addresses(selector) => SetId::new(selector.id()),
            Self::Ports(selector, protocol, port) => {
                let text = format!("n:{},{protocol},{port}", selector.id());
                SetId::new(format!("n:{}", URL_SAFE_NO_PAD.encode(Sha224::digest(text))))
            }
        }
    }

    /// Whose addresses or ports.
    pub(super) fn selector(&self) -> &Selector {
        match self {
            Self::Addresses(selector) | Self::Ports(selector, ..) => selector,
        }
    }

    /// What the members are.
    pub(super) fn kind(&self) -> SetKind {
        match self {
            Self::Addresses(_) => SetKind::Net,
            Self::Ports(..) => SetKind::Port,
        }
    }

    /// For people.
    pub(super) fn description(&self) -> Arc<str> {
        match self {
            Self::Addresses(selector) => Arc::from(selector.canonical()),
            Self::Ports(selector, protocol, port) => {
                Arc::from(format!("{selector}; {protocol}; {port}"))
            }
        }
    }

    /// What an item brings into the set. A port goes with each address of its endpoint; for a
    /// prefix that is its first address, as in the original.
    pub(super) fn members<'a>(
        &'a self,
        addresses: &'a [Cidr],
        ports: &'a [NamedPort],
    ) -> impl Iterator<Item = Member> + 'a {
        let nets = match self {
            Self::Addresses(_) => addresses,
            Self::Ports(..) => &[],
        };
        let ports = ports.iter().filter(move |port| match self {
            Self::Addresses(_) => false,
            Self::Ports(_, protocol, name) => port.protocol == *protocol && port.name == *name,
        });
        let ports = ports.flat_map(|port| {
            let of = |cidr: &Cidr| Member::Port(cidr.address(), port.protocol, port.port);
            addresses.iter().map(of)
        });
        nets.iter().copied().map(Member::Net).chain(ports)
    }
}
