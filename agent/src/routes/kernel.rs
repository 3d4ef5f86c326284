//! Reads and writes the main table and the neighbours over rtnetlink: dull, it decides nothing.
//!
//! Dumps use strict checking, so that the kernel filters them; without it the filter is silently
//! ignored. Everything is bounded in time.

mod message;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::NeighbourAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Error, Handle, new_connection_with_strict_check};
use tokio::task::JoinHandle;

pub(super) use self::message::destination_of;
use self::message::{neighbour_message, parse_neighbour, parse_route, route_message};
use super::changes::Changes;
use super::plan::{CALICO_PROTOCOL, Neighbour, Op, Route};

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
    /// removal is success. A kernel that has not answered one in time is not asked for the others:
    /// thousands of bounds in a row are none.
    pub async fn apply(&self, ops: &[Op]) -> Vec<(Op, Result<(), Failure>)> {
        let silent = AtomicBool::new(false);
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let len = rest.iter().take_while(|op| op.phase() == first.phase()).count();
            let (phase, later) = rest.split_at(len);
            let requests =
                phase.iter().copied().map(async |op| (op, self.apply_one(&op, &silent).await));
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

    async fn apply_one(&self, op: &Op, silent: &AtomicBool) -> Result<(), Failure> {
        if silent.load(Ordering::Relaxed) {
            return Err(Failure::timed_out());
        }
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
            Err(_) => {
                silent.store(true, Ordering::Relaxed);
                Err(Failure::timed_out())
            }
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
