//! Reads and writes the main table and the neighbours over rtnetlink: dull, it decides nothing.
//!
//! Dumps use strict checking, so that the kernel filters them; without it the filter is silently
//! ignored. Everything is bounded in time.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::model::{Cidr, Mac};
use futures::StreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Error, Handle, new_connection_with_strict_check};
use tokio::task::JoinHandle;

use super::changes::Changes;
use super::plan::{CALICO_PROTOCOL, Neighbour, Op, Route, RouteKind};

/// The original's `NetlinkTimeoutSecs`.
const LIMIT: Duration = Duration::from_secs(10);
/// How many writes wait for their acknowledgement at a time. 10,000 routes need half of the time
/// that they need one by one; more in flight brings nothing.
const IN_FLIGHT: usize = 64;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EINTR: i32 = 4;
const ENXIO: i32 = 6;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;
const ENETDOWN: i32 = 100;
const ENOBUFS: i32 = 105;

/// Talking to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The netlink socket could not be opened.
    #[error("cannot open an rtnetlink socket")]
    Open(#[source] io::Error),
    /// A list could not be read.
    #[error("cannot list the {what}")]
    Dump {
        /// Routes, neighbours.
        what: &'static str,
        /// Why.
        #[source]
        source: Failure,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What should be removed does not exist.
    #[error("it is gone already")]
    Gone,
    /// Something with the same key exists.
    #[error("there is another one already")]
    Exists,
    /// The interface is gone or down.
    #[error("its interface is gone or down")]
    Device,
    /// It may work if tried again: no memory, a lost connection.
    #[error("the kernel could not do it now")]
    Retry(#[source] io::Error),
    /// It will not work until something else changes.
    #[error("the kernel refuses it")]
    Fatal(#[source] io::Error),
}

impl Failure {
    fn of(error: Error) -> Self {
        let Error::NetlinkError(message) = error else {
            return Self::Retry(io::Error::other(error));
        };
        let Some(code) = message.code else {
            return Self::Retry(io::Error::other("an acknowledgement where data was expected"));
        };
        let errno = code.get().wrapping_neg();
        let source = io::Error::from_raw_os_error(errno);
        match errno {
            ENOENT | ESRCH => Self::Gone,
            EEXIST => Self::Exists,
            ENODEV | ENETDOWN | ENXIO => Self::Device,
            EINTR | EAGAIN | ENOMEM | EBUSY | ENOBUFS => Self::Retry(source),
            _ => Self::Fatal(source),
        }
    }

    fn timed_out() -> Self {
        Self::Retry(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel"))
    }

    /// The failure and its cause in one line, for people.
    pub fn reason(&self) -> String {
        match self {
            Self::Retry(source) | Self::Fatal(source) => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Which routes to read; the kernel filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteFilter {
    /// Every route of the main table.
    All,
    /// Those over one interface.
    Device(u32),
    /// Those of one protocol.
    Protocol(u8),
}

/// A connection to the kernel.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    driver: JoinHandle<()>,
    changes: Changes,
    port: u32,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.changes.remove_own_port(self.port);
        self.driver.abort();
    }
}

impl Kernel {
    /// Connects to the network namespace of the calling thread and registers the connection with
    /// `changes`, so that the monitor tells its writes from others'.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open(changes: &Changes) -> Result<Self, KernelError> {
        let (mut connection, handle, _) =
            new_connection_with_strict_check().map_err(KernelError::Open)?;
        let address =
            connection.socket_mut().socket_mut().bind_auto().map_err(KernelError::Open)?;
        let port = address.port_number();
        let driver = tokio::spawn(connection);
        changes.add_own_port(port);
        Ok(Self { handle, driver, changes: changes.clone(), port })
    }

    /// True while the connection can be used.
    pub fn is_alive(&self) -> bool {
        !self.driver.is_finished()
    }

    /// Reads routes of the main table of both families, for which `keep` says yes.
    ///
    /// # Errors
    /// When the kernel does not answer in time or refuses. An interface that does not exist has no
    /// routes.
    pub async fn routes(
        &self,
        filter: RouteFilter,
        keep: impl Fn(&Route) -> bool,
    ) -> Result<Vec<Route>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            match filter {
                RouteFilter::All => {}
                RouteFilter::Device(index) => request.attributes.push(RouteAttribute::Oif(index)),
                RouteFilter::Protocol(number) => {
                    request.header.protocol = RouteProtocol::from(number);
                }
            }
            let dump = async {
                let mut answers = self.handle.route().get(request).execute().boxed();
                while let Some(answer) = answers.next().await {
                    match answer.map_err(Failure::of) {
                        Ok(message) => {
                            routes.extend(parse_route(&message).filter(|route| keep(route)));
                        }
                        // An empty table does not exist; neither does an interface that is gone.
                        Err(failure) if is_empty(&failure) => return Ok(()),
                        Err(failure) => return Err(failure),
                    }
                }
                Ok(())
            };
            let outcome = tokio::time::timeout(LIMIT, dump).await;
            outcome
                .unwrap_or_else(|_| Err(Failure::timed_out()))
                .map_err(|source| KernelError::Dump { what: "routes", source })?;
        }
        Ok(routes)
    }

    /// Reads the permanent neighbours, of one interface or of those for which `keep` says yes.
    ///
    /// # Errors
    /// As [`Kernel::routes`].
    pub async fn neighbours(
        &self,
        device: Option<u32>,
        keep: impl Fn(u32) -> bool,
    ) -> Result<Vec<Neighbour>, KernelError> {
        let mut neighbours = Vec::new();
        let mut request = self.handle.neighbours().get();
        request.message_mut().attributes.extend(device.map(NeighbourAttribute::IfIndex));
        let dump = async {
            let mut answers = request.execute().boxed();
            while let Some(answer) = answers.next().await {
                match answer.map_err(Failure::of) {
                    Ok(message) => neighbours
                        .extend(parse_neighbour(&message).filter(|found| keep(found.device))),
                    Err(failure) if is_empty(&failure) => return Ok(()),
                    Err(failure) => return Err(failure),
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(LIMIT, dump).await;
        outcome
            .unwrap_or_else(|_| Err(Failure::timed_out()))
            .map_err(|source| KernelError::Dump { what: "neighbours", source })?;
        // A kernel that ignores the filter sends all of them.
        neighbours.retain(|found| device.is_none_or(|device| device == found.device));
        Ok(neighbours)
    }

    /// Carries out operations, phase after phase, and says what became of each. "Gone already" on
    /// removal is success.
    pub async fn apply(&self, ops: &[Op]) -> Vec<(Op, Result<(), Failure>)> {
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let len = rest.iter().take_while(|op| op.phase() == first.phase()).count();
            let (phase, later) = rest.split_at(len);
            let requests =
                phase.iter().copied().map(|op| async move { (op, self.apply_one(&op).await) });
            outcomes.extend(
                futures::stream::iter(requests)
                    .buffer_unordered(IN_FLIGHT)
                    .collect::<Vec<_>>()
                    .await,
            );
            rest = later;
        }
        outcomes
    }

    async fn apply_one(&self, op: &Op) -> Result<(), Failure> {
        let routes = self.handle.route();
        let request = async {
            match op {
                Op::AddRoute(route) => routes.add(route_message(route)).execute().await,
                Op::ReplaceRoute { new, .. } => {
                    routes.add(route_message(new)).replace().execute().await
                }
                Op::DeleteRoute(route) => routes.del(route_message(route)).execute().await,
                Op::SetNeighbour(neighbour) => self.set_neighbour(neighbour).await,
                Op::DeleteNeighbour(neighbour) => {
                    let message = neighbour_message(neighbour);
                    self.handle.neighbours().del(message).execute().await
                }
            }
        };
        let outcome = match tokio::time::timeout(LIMIT, request).await {
            Ok(outcome) => outcome.map_err(Failure::of),
            Err(_) => Err(Failure::timed_out()),
        };
        match (op, outcome) {
            (Op::DeleteRoute(_) | Op::DeleteNeighbour(_), Err(Failure::Gone | Failure::Device)) => {
                Ok(())
            }
            (_, outcome) => outcome,
        }
    }

    async fn set_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let mut request =
            self.handle.neighbours().add(neighbour.device, neighbour.address).replace();
        let attributes = &mut request.message_mut().attributes;
        attributes.extend(
            neighbour.mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec())),
        );
        attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(CALICO_PROTOCOL)));
        request.execute().await
    }
}

fn is_empty(failure: &Failure) -> bool {
    match failure {
        Failure::Gone | Failure::Device => true,
        // This kernel was built or booted without IPv6.
        Failure::Fatal(error) => {
            matches!(error.raw_os_error(), Some(EOPNOTSUPP | EAFNOSUPPORT))
        }
        _ => false,
    }
}

/// The destination of a route message; a default route carries none.
pub(crate) fn destination_of(message: &RouteMessage) -> Option<Cidr> {
    let len = message.header.destination_prefix_length;
    let explicit = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let address = match (explicit, message.header.address_family) {
        (Some(address), _) => address_of(address)?,
        (None, AddressFamily::Inet) => IpAddr::from([0; 4]),
        (None, AddressFamily::Inet6) => IpAddr::from([0; 16]),
        _ => return None,
    };
    Cidr::new(address, len).ok()
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// `None` for routes outside the main table: a kernel that ignores the filter sends all of them.
fn parse_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut route = Route {
        destination: destination_of(message)?,
        metric: 0,
        tos: header.tos,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            other => RouteKind::Other(other.into()),
        },
        device: None,
        indirect: false,
        protocol: header.protocol.into(),
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.device = Some(*index),
            RouteAttribute::PrefSource(address) => route.source = address_of(address),
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Encap(_) => route.indirect = true,
            _ => {}
        }
    }
    if route.kind != RouteKind::Unicast {
        // IPv6 shows these on `lo`.
        route.device = None;
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

fn route_message(route: &Route) -> RouteMessage {
    let address = |address| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    let v4 = route.destination.address().is_ipv4();
    header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.destination_prefix_length = route.destination.prefix_len();
    header.tos = route.tos;
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    // IPv6 has no scopes. IPv4's `link` says that the destination is on the wire itself.
    header.scope = if v4 && route.device.is_some() && !route.indirect {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(address(route.destination.address())));
    attributes.extend(route.device.map(RouteAttribute::Oif));
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    message
}

/// `None` for entries that are not permanent, and for proxies.
fn parse_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac, mut marked) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
            }
            NeighbourAttribute::Protocol(protocol) => {
                marked = u8::from(*protocol) == CALICO_PROTOCOL;
            }
            _ => {}
        }
    }
    Some(Neighbour { device: message.header.ifindex, address: address?, mac, marked })
}

fn neighbour_message(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, address) = match neighbour.address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = neighbour.device;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}
