//! Follows the kernel's links, routes and neighbours over one multicast rtnetlink connection.
//!
//! Owns the published [`Links`] and the wake-ups about routes. It never writes to the kernel and
//! decides nothing: what concerns us is filtered here, what to do about it is the reconciler's.

mod table;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::model::{InterfaceName, Mac};
use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use imbl::{OrdMap, OrdSet};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use self::table::LinkTable;
use super::changes::{Changes, Interest, Place};
use super::kernel::destination_of;
use crate::status::systemd::Heartbeat;

/// Bytes of receive buffer asked for; the kernel grants at most `net.core.rmem_max`, doubled.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// A dump of the links takes milliseconds; longer than this the connection is taken for dead.
const DUMP_LIMIT: Duration = Duration::from_secs(10);
/// The interface that every namespace has under this index.
const LOOPBACK: u32 = 1;
/// How long the kernel may take to tell of one interface.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Back-off between attempts to open the connection again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A connection that held this long was a good one: the next failure starts from the shortest
/// back-off.
const STABLE: Duration = Duration::from_secs(30);

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index: another one under the same name is another interface.
    pub index: u32,
    /// Switched on (IFF_UP) and running.
    pub up: bool,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The addresses that it holds; those of the link alone (`fe80::`) left out.
    pub addresses: OrdSet<IpAddr>,
}

/// Every interface of the namespace, by name.
pub type Links = OrdMap<InterfaceName, Link>;

/// The monitor could not start.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The netlink socket could not be opened.
    #[error("cannot open the rtnetlink monitor socket")]
    Open(#[source] io::Error),
    /// The links could not be listed.
    #[error("cannot list the network interfaces")]
    Links(#[source] rtnetlink::Error),
    /// The addresses could not be listed.
    #[error("cannot list the addresses of the network interfaces")]
    Addresses(#[source] rtnetlink::Error),
    /// The kernel did not answer.
    #[error("the kernel did not list its interfaces within {0:?}")]
    TimedOut(Duration),
}

/// What the monitor publishes.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// The newest interfaces.
    pub links: watch::Receiver<Links>,
    /// Woken when somebody else changed routes or neighbours that concern us.
    pub routes: Arc<Notify>,
    /// Where; goes to [`super::Routes::new`].
    pub changes: Changes,
}

impl Monitor {
    /// Follows the network namespace of the calling thread. `prefixes` begin the names of pod
    /// interfaces. When it returns, `links` is complete. The task ends when every receiver of
    /// `links` is gone.
    ///
    /// # Errors
    /// When the first connection cannot be made. Later errors are logged and retried for ever.
    pub async fn start(
        prefixes: Vec<String>,
        heartbeat: Heartbeat,
    ) -> Result<(Self, JoinHandle<()>), MonitorError> {
        let changes = Changes::new(prefixes);
        let mut table = LinkTable::default();
        let source = Source::open(&mut table).await?;
        let (sender, links) = watch::channel(table.published.clone());
        let monitor = Self { links, routes: changes.notify(), changes: changes.clone() };
        let task = tokio::spawn(run(source, table, sender, changes, heartbeat));
        Ok((monitor, task))
    }
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// An open connection with its driving task.
struct Source {
    handle: Handle,
    messages: Messages,
    driver: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Source {
    /// Subscribes first and lists then, so that no change falls between the two.
    async fn open(table: &mut LinkTable) -> Result<Self, MonitorError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (mut connection, handle, messages) =
            new_multicast_connection(&groups).map_err(MonitorError::Open)?;
        let socket = connection.socket_mut().socket_mut();
        if let Err(error) = socket.set_rx_buf_sz(RECEIVE_BUFFER) {
            // Not fatal: a small buffer overruns sooner, and an overrun is handled.
            debug!(%error, "cannot enlarge the monitor's receive buffer");
        }
        let driver = tokio::spawn(connection);
        let source = Self { handle, messages, driver };
        source.list(table).await?;
        Ok(source)
    }

    /// True when the kernel answers over this connection.
    async fn answers(&self) -> bool {
        let mut loopback = self.handle.link().get().match_index(LOOPBACK).execute().boxed();
        match tokio::time::timeout(ANSWER_LIMIT, loopback.next()).await {
            // A refusal is an answer as well.
            Ok(Some(Ok(_) | Err(rtnetlink::Error::NetlinkError(_)))) => true,
            Ok(_) | Err(_) => false,
        }
    }

    async fn list(&self, table: &mut LinkTable) -> Result<(), MonitorError> {
        let dump = async {
            let mut all = LinkTable::default();
            let mut links = self.handle.link().get().execute().boxed();
            while let Some(link) = links.next().await {
                let _ = all.set(&link.map_err(MonitorError::Links)?);
            }
            let mut addresses = self.handle.address().get().execute().boxed();
            while let Some(address) = addresses.next().await {
                all.address(&address.map_err(MonitorError::Addresses)?, true);
            }
            Ok(all)
        };
        *table = tokio::time::timeout(DUMP_LIMIT, dump)
            .await
            .map_err(|_| MonitorError::TimedOut(DUMP_LIMIT))??;
        Ok(())
    }
}

async fn run(
    mut source: Source,
    mut table: LinkTable,
    links: watch::Sender<Links>,
    changes: Changes,
    mut heartbeat: Heartbeat,
) {
    let mut backoff = BACKOFF.0;
    loop {
        let opened = tokio::time::Instant::now();
        tokio::select! {
            // Cancel-safe: nobody looks at the source again when every receiver is gone.
            () = follow(&mut source, &mut table, &links, &changes, &mut heartbeat) => {}
            () = links.closed() => return,
        }
        if opened.elapsed() >= STABLE {
            backoff = BACKOFF.0;
        }
        warn!(retry_in = ?backoff, "the rtnetlink monitor lost its connection");
        source = loop {
            tokio::select! {
                // Cancel-safe both. A pause that is cut short makes one attempt come early.
                () = tokio::time::sleep(backoff) => {}
                () = heartbeat.beat() => {}
            }
            if links.is_closed() {
                return;
            }
            backoff = (backoff * 2).min(BACKOFF.1);
            match Source::open(&mut table).await {
                Ok(source) => break source,
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "cannot open it again");
                }
            }
        };
        info!("the rtnetlink monitor is connected again");
        publish(&links, &mut table);
        lost(&changes);
    }
}

/// Handles events until the connection ends, or gives no answer any more: a connection that says
/// nothing looks like a kernel in which nothing happens, so it is asked each time that the watchdog
/// asks.
async fn follow(
    source: &mut Source,
    table: &mut LinkTable,
    links: &watch::Sender<Links>,
    changes: &Changes,
    heartbeat: &mut Heartbeat,
) {
    loop {
        let next = tokio::select! {
            // Cancel-safe: a message stays in the channel until it is taken.
            next = source.messages.next() => next,
            () = heartbeat.beat() => {
                if source.answers().await {
                    continue;
                }
                return;
            }
        };
        let Some((first, _)) = next else { return };
        let mut overrun = false;
        let interest = changes.interest();
        let mut next = Some(first);
        // Everything that has already arrived becomes one publication.
        while let Some(message) = next {
            overrun |= handle_message(message, table, &interest, changes);
            next = source.messages.try_recv().ok().map(|(message, _)| message);
        }
        if overrun {
            info!("the kernel dropped events: reading everything again");
            if let Err(error) = source.list(table).await {
                warn!(error = &error as &dyn std::error::Error, "cannot list the interfaces");
                return;
            }
            lost(changes);
        }
        publish(links, table);
    }
}

/// Events were lost: everything may be different.
fn lost(changes: &Changes) {
    changes.touch(|touched| touched.everything = true);
    changes.touch_default_routes();
}

/// Publishes when something really differs: most link events are about counters.
fn publish(links: &watch::Sender<Links>, table: &mut LinkTable) {
    if std::mem::take(&mut table.changed) {
        links.send_if_modified(|old| {
            let differs = *old != table.published;
            if differs {
                *old = table.published.clone();
            }
            differs
        });
    }
}

/// True when events were lost.
fn handle_message(
    message: NetlinkMessage<RouteNetlinkMessage>,
    table: &mut LinkTable,
    interest: &Interest,
    changes: &Changes,
) -> bool {
    let own = changes.is_own_port(message.header.port_number);
    match message.payload {
        NetlinkPayload::Overrun(_) => return true,
        NetlinkPayload::InnerMessage(inner) => match inner {
            RouteNetlinkMessage::NewLink(link) => {
                let index = link.header.index;
                if table.set(&link) && table.is_pod(index, interest) {
                    changes.touch(|touched| {
                        touched.flapped.insert(index);
                    });
                }
            }
            RouteNetlinkMessage::DelLink(link) => table.remove(&link),
            RouteNetlinkMessage::NewAddress(address) => table.address(&address, true),
            RouteNetlinkMessage::DelAddress(address) => table.address(&address, false),
            _ if own => {}
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                route_event(&route, table, interest, changes);
            }
            // Reachable, stale, probe… come and go all the time, and so do the groups that an interface
            // is in; only permanent entries are somebody's decision, and what takes their place. One
            // that is deleted has failed first.
            RouteNetlinkMessage::NewNeighbour(neighbour)
            | RouteNetlinkMessage::DelNeighbour(neighbour)
                if neighbour.header.state != NeighbourState::Permanent
                    && !neighbour_address(&neighbour)
                        .is_some_and(|address| interest.fixed.contains(&address)) => {}
            RouteNetlinkMessage::NewNeighbour(neighbour)
            | RouteNetlinkMessage::DelNeighbour(neighbour) => {
                neighbour_event(&neighbour, table, interest, changes);
            }
            _ => {}
        },
        _ => {}
    }
    false
}

fn route_event(route: &RouteMessage, table: &LinkTable, interest: &Interest, changes: &Changes) {
    let mut oif = None;
    let mut id = u32::from(route.header.table);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Table(table) => id = *table,
            _ => {}
        }
    }
    if id != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return;
    }
    let destination = destination_of(route);
    if destination.is_some_and(|to| to.prefix_len() == 0) {
        changes.touch_default_routes();
    }
    if destination.is_some_and(|to| interest.ignored.contains(&Place::Route(to))) {
        return;
    }
    // A route that replaces another names only itself: the other may have been anywhere.
    let wanted =
        destination.filter(|to| interest.claimed.contains(to) || interest.blocks.contains(to));
    if let Some(index) = oif.filter(|index| table.is_pod(*index, interest)) {
        changes.touch(|touched| {
            touched.interfaces.insert(index);
            touched.destinations.extend(wanted);
        });
    } else if destination.is_some_and(|to| interest.contested.contains(&to)) {
        changes.touch(|touched| touched.everything = true);
    } else if interest.protocols.contains(&u8::from(route.header.protocol)) {
        changes.touch(|touched| {
            touched.marked = true;
            touched.destinations.extend(wanted);
        });
    } else if wanted.is_some() {
        changes.touch(|touched| touched.everything = true);
    }
}

fn neighbour_event(
    neighbour: &NeighbourMessage,
    table: &LinkTable,
    interest: &Interest,
    changes: &Changes,
) {
    let index = neighbour.header.ifindex;
    let routed = matches!(neighbour.header.family, AddressFamily::Inet | AddressFamily::Inet6);
    let ignored = neighbour_address(neighbour)
        .is_some_and(|address| interest.ignored.contains(&Place::Neighbour(index, address)));
    if routed && !ignored && table.is_pod(index, interest) {
        changes.touch(|touched| {
            touched.interfaces.insert(index);
        });
    }
}

fn neighbour_address(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
