//! What rules may speak of by label: endpoints of every host, and network sets.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, NamedPort};

use crate::net;
use crate::selector::{Expression, Labels};

/// An endpoint or a network set.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its own labels and those it inherits.
    pub(crate) labels: Labels,
    /// Its addresses. Floating addresses are not among them.
    pub(crate) nets: Vec<Cidr>,
    /// Its named ports; a network set has none.
    pub(crate) ports: Vec<NamedPort>,
}

impl Member {
    /// Has it this address?
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net::holds(net, address))
    }

    /// Does it call this port of this protocol so?
    pub(crate) fn calls(&self, name: &str, protocol: u8, port: u16) -> bool {
        self.ports
            .iter()
            .any(|p| p.name == *name && p.protocol.number() == protocol && p.port == port)
    }
}

/// The members that a selector and its exception mean; each may be absent.
pub(crate) fn meant<'a>(
    members: &'a [Member],
    selector: Option<&'a Expression>,
    except: Option<&'a Expression>,
) -> impl Iterator<Item = &'a Member> {
    members.iter().filter(move |member| {
        selector.is_none_or(|selector| selector.holds(&member.labels))
            && except.is_none_or(|except| !except.holds(&member.labels))
    })
}
