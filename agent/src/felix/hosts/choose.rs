//! Which interface a host endpoint is about: pure.
//!
//! One that names an interface is about it, whether the interface is there or not: it is policed from
//! its first packet on. One with addresses is about each interface that holds one of them, unless a
//! name has it. The one for all interfaces (`*`) is about those that are left. Of rivals the one whose
//! name is lowest wins. Interfaces of pods have policies of their own and never have a host endpoint,
//! and `*` is not about the loopback interface.

use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::{HostEndpointId, InterfaceName};

use crate::config::Settings;
use crate::desired::{HostEndpoints, LocalHostEndpoint};
use crate::routes::monitor::{Link, Links};

/// What stands for all interfaces.
pub const ALL: &str = "*";
/// The loopback interface.
pub const LOOPBACK: &str = "lo";

/// Why a host endpoint is about no interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idle {
    /// There is none at present.
    Waiting(String),
    /// There can be none as things are.
    Wrong(String),
}

/// Who is about what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Interface → its endpoint.
    pub interfaces: BTreeMap<InterfaceName, HostEndpointId>,
    /// The endpoint of all other interfaces.
    pub all: Option<HostEndpointId>,
    /// Interfaces that `all` is not about. Empty without `all`.
    pub excluded: BTreeSet<InterfaceName>,
    /// Those that are about nothing, and why.
    pub idle: BTreeMap<HostEndpointId, Idle>,
}

impl Chosen {
    /// True when no packet is policed.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.all.is_none()
    }

    /// Each endpoint in force with its interface; `None` = all others.
    pub fn endpoints(&self) -> impl Iterator<Item = (Option<&InterfaceName>, &HostEndpointId)> {
        let named = self.interfaces.iter().map(|(interface, id)| (Some(interface), id));
        named.chain(self.all.iter().map(|id| (None, id)))
    }

    /// The endpoint of an interface, whether that is there or not.
    pub fn governing(
        &self,
        interface: &InterfaceName,
        settings: &Settings,
    ) -> Option<&HostEndpointId> {
        let out = interface.as_str() == LOOPBACK
            || self.excluded.contains(interface)
            || settings.is_of_pods(interface);
        self.interfaces.get(interface).or_else(|| self.all.as_ref().filter(|_| !out))
    }

    /// The interfaces of an endpoint that are there.
    pub fn links_of<'a>(
        &'a self,
        id: &'a HostEndpointId,
        links: &'a Links,
        settings: &'a Settings,
    ) -> impl Iterator<Item = (&'a InterfaceName, &'a Link)> {
        links.iter().filter(move |(name, _)| self.governing(name, settings) == Some(id))
    }
}

/// Finds the interfaces of the host endpoints.
pub fn choose(hosts: &HostEndpoints, links: &Links, settings: &Settings) -> Chosen {
    let mut out = Chosen::default();
    let excluded = |name: &InterfaceName| {
        settings.interface_exclude.iter().any(|pattern| pattern.matches(name.as_str()))
    };
    let mut by_address = Vec::new();
    // In order of names: the first one wins.
    for (id, endpoint) in &hosts.endpoints {
        let Some(name) = &endpoint.interface else {
            by_address.push((id, endpoint));
            continue;
        };
        let wrong = if name.as_str() == ALL {
            match &out.all {
                Some(winner) => {
                    Some(format!("HostEndpoint {} is about all interfaces", winner.name))
                }
                None => {
                    out.all = Some(id.clone());
                    None
                }
            }
        } else {
            match name.as_str().parse::<InterfaceName>() {
                Err(_) => Some(format!("no interface can have the name {name}")),
                Ok(name) if settings.is_of_pods(&name) => {
                    Some(format!("interfaces of pods have no host endpoint, and {name} is one"))
                }
                Ok(name) if excluded(&name) => {
                    Some(format!("InterfaceExclude takes interface {name} out"))
                }
                Ok(name) => match out.interfaces.get(&name) {
                    Some(winner) => Some(rival(&name, winner)),
                    None => {
                        out.interfaces.insert(name, id.clone());
                        None
                    }
                },
            }
        };
        if let Some(wrong) = wrong {
            out.idle.insert(id.clone(), Idle::Wrong(wrong));
        }
    }
    let taken = out.interfaces.clone();
    for (id, endpoint) in by_address {
        let mut lost = None;
        let mut won = false;
        for (name, _) in links.iter().filter(|(_, link)| holds(link, endpoint)) {
            if settings.is_of_pods(name) || excluded(name) {
                continue;
            }
            match taken.get(name).or_else(|| out.interfaces.get(name)) {
                Some(winner) => lost = Some(rival(name, winner)),
                None => {
                    out.interfaces.insert(name.clone(), id.clone());
                    won = true;
                }
            }
        }
        let idle = match lost {
            _ if won => continue,
            Some(lost) => Idle::Wrong(lost),
            None => Idle::Waiting("no interface holds an address that it expects".to_owned()),
        };
        out.idle.insert(id.clone(), idle);
    }
    if out.all.is_some() {
        out.excluded = links.keys().filter(|name| excluded(name)).cloned().collect();
    }
    out
}

fn rival(interface: &InterfaceName, winner: &HostEndpointId) -> String {
    format!("interface {interface} has HostEndpoint {}", winner.name)
}

fn holds(link: &Link, endpoint: &LocalHostEndpoint) -> bool {
    endpoint.addresses.iter().any(|address| link.addresses.contains(address))
}

#[cfg(test)]
mod tests;
