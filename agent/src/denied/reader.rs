//! Reads the kernel's packet log, and tells what was denied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use calico_datastore::model::{InterfaceName, Protocol};
use tokio::sync::watch;

use super::PREFIX;
use super::book::Book;
use super::document::Denied;
use super::message::{Logged, logged};
use super::packet;
use super::repeats::Repeats;
use super::socket::Socket;
use crate::desired::DesiredState;
use crate::felix::hosts::choose::{Chosen, choose};
use crate::felix::ruleset::Direction;
use crate::felix::ruleset::deny::{self, DeniedBy, Known, Tag};
use crate::routes::monitor::Links;
use crate::telemetry::event;
use calico_datastore::timestamp;

/// The packet log cannot be read. The kernel says "not permitted" when another program reads the
/// group, too.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read group {group} of the kernel's packet log (each group has one reader: ulogd, another \
     agent?)"
)]
pub struct ReaderError {
    /// The NFLOG group.
    group: u16,
    /// Why.
    #[source]
    source: std::io::Error,
}

/// How a host endpoint is told apart from one of a pod.
const HOST_ENDPOINT: &str = "HostEndpoint ";

/// What a packet's tag and interface mean, as of one desired state.
#[derive(Debug, Default)]
struct Names {
    generation: Option<u64>,
    points: HashMap<Tag, Known>,
    /// Those of the state before.
    before: HashMap<Tag, Known>,
    endpoints: HashMap<InterfaceName, String>,
    /// Which host endpoint is about which interface, and the interfaces that this follows from.
    hosts: Chosen,
    links: Links,
}

/// The reader of the packet log.
#[derive(Debug)]
pub struct Reader {
    group: u16,
    socket: Socket,
    desired: watch::Receiver<Option<Arc<DesiredState>>>,
    links: watch::Receiver<Links>,
    names: Names,
    repeats: Repeats,
    book: Book,
}

impl Reader {
    /// Becomes the reader of a group, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When another program reads the group, and where the kernel has no packet log.
    pub async fn open(
        group: u16,
        desired: watch::Receiver<Option<Arc<DesiredState>>>,
        links: watch::Receiver<Links>,
        book: Book,
    ) -> Result<Self, ReaderError> {
        let socket = Socket::open(group).await.map_err(|source| ReaderError { group, source })?;
        let (names, repeats) = (Names::default(), Repeats::default());
        Ok(Self { group, socket, desired, links, names, repeats, book })
    }

    /// Reads until something breaks. Cancel-safe but for what is counted at the moment.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn run(&mut self) -> Result<std::convert::Infallible, ReaderError> {
        loop {
            let due = self.repeats.due().map(tokio::time::Instant::from_std);
            let found = tokio::select! {
                datagram = self.socket.receive() => match datagram {
                    Ok(datagram) => {
                        let time = timestamp::rfc3339(SystemTime::now());
                        // Cloned: who sends must not wait for what is done here.
                        let (state, links) =
                            (self.desired.borrow().clone(), self.links.borrow().clone());
                        if let Some(state) = state {
                            self.names.learn(&state, &links);
                        }
                        logged(datagram)
                            .filter_map(|logged| self.names.tell(&logged, &time, &links))
                            .collect::<Vec<_>>()
                    }
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                        self.repeats.lost(Instant::now());
                        continue;
                    }
                    Err(source) => return Err(ReaderError { group: self.group, source }),
                },
                () = wait_until(due) => {
                    self.summarise();
                    continue;
                }
            };
            let now = Instant::now();
            for denied in found {
                if self.repeats.take(now, &denied) {
                    self.tell(denied);
                }
            }
        }
    }

    fn summarise(&mut self) {
        let summary = self.repeats.end();
        for denied in summary.again {
            self.tell(denied);
        }
        if summary.untold > 0 {
            tracing::info!(packets = summary.untold, "more was denied than is told one by one");
        }
        if summary.lost {
            tracing::warn!("more was denied than could be read: some is not told");
        }
    }

    fn tell(&self, denied: Denied) {
        // Fields of their own: `journalctl CALICO_ENDPOINT=…`, with the name that other lines have.
        let endpoint = denied.endpoint.as_deref();
        let endpoint = endpoint.map(|name| name.strip_prefix(HOST_ENDPOINT).unwrap_or(name));
        tracing::info!(
            target: "calico_agent::denied",
            event = event::DENIED,
            endpoint,
            policy = denied.policy,
            profile = denied.profile,
            tier = denied.tier,
            generation = self.names.generation,
            "denied: {denied}"
        );
        self.book.add(denied);
    }
}

async fn wait_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Names {
    /// Puts a report into words; `None` for what is not ours.
    fn tell(&mut self, logged: &Logged<'_>, time: &str, links: &Links) -> Option<Denied> {
        let tag = Tag::from_report(logged.prefix.strip_prefix(PREFIX)?.trim_end())?;
        let flow = packet::flow(logged.packet)?;
        // The state changes before the rules do.
        let known = self.points.get(&tag).or_else(|| self.before.get(&tag));
        // What goes to a pod goes out by its interface; what goes to a host endpoint came in by its own.
        let (direction, pod, host) = match tag.direction() {
            Direction::Ingress => ("ingress", logged.goes_by, logged.came_by),
            Direction::Egress => ("egress", logged.came_by, logged.goes_by),
        };
        let named = |index: Option<u32>| {
            let index = index?;
            links.iter().find(|(_, link)| link.index == index).map(|(name, _)| name)
        };
        let pod = named(pod);
        let (interface, endpoint) = match pod.and_then(|name| self.endpoints.get(name)) {
            Some(id) => (pod, Some(id.clone())),
            None => match named(host).and_then(|name| Some((name, self.host_of(name)?))) {
                Some((name, id)) => (Some(name), Some(id)),
                None => (pod, None),
            },
        };
        let place = known.map(|known| &known.point.place);
        Some(Denied {
            time: time.to_owned(),
            direction: direction.to_owned(),
            endpoint,
            interface: interface.map(ToString::to_string),
            tier: known.and_then(|known| known.tier.as_ref()).map(ToString::to_string),
            policy: match place {
                Some(DeniedBy::Policy(id)) => Some(id.to_string()),
                _ => None,
            },
            profile: match place {
                Some(DeniedBy::Profile(name)) => Some(name.to_string()),
                _ => None,
            },
            by: known.map_or_else(|| "a policy that is gone".to_owned(), words),
            source: flow.source,
            destination: flow.destination,
            protocol: flow.protocol.map_or_else(|| "0".to_owned(), |p: Protocol| p.to_string()),
            source_port: flow.ports.map(|(source, _)| source),
            destination_port: flow.ports.map(|(_, destination)| destination),
            icmp: flow.icmp,
            packets: 1,
            others: 0,
        })
    }

    /// The host endpoint that is about an interface.
    fn host_of(&self, interface: &InterfaceName) -> Option<String> {
        let Chosen { interfaces, all, .. } = &self.hosts;
        let id = interfaces.get(interface).or(all.as_ref())?;
        Some(format!("{HOST_ENDPOINT}{}", id.name))
    }

    /// Costs nothing while the state and the interfaces are the same.
    fn learn(&mut self, state: &DesiredState, links: &Links) {
        let same = self.generation == Some(state.generation);
        if !same || !self.links.ptr_eq(links) {
            self.hosts = choose(&state.host_endpoints, links, &state.settings);
            self.links = links.clone();
        }
        if same {
            return;
        }
        self.generation = Some(state.generation);
        self.before = std::mem::replace(&mut self.points, deny::points(state));
        self.endpoints = state
            .endpoints
            .iter()
            .map(|(id, endpoint)| (endpoint.interface.clone(), id.on_host()))
            .collect();
    }
}

fn words(known: &Known) -> String {
    match (&known.point.place, &known.tier) {
        (DeniedBy::Policy(id), Some(tier)) => format!("policy {id} of tier {tier}"),
        (DeniedBy::Policy(id), None) => format!("policy {id}"),
        (DeniedBy::EndOfTier(tier), _) => format!("end of tier {tier}: no policy of it allows it"),
        (DeniedBy::Profile(name), _) => format!("profile {name}"),
        (DeniedBy::End, _) => "no policy and no profile allows it".to_owned(),
    }
}
