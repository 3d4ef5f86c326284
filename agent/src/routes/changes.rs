//! What others changed in the kernel since it was last asked: the channel from the monitor, which
//! sees events, to the reconciler, which reads again what they touched.
//!
//! It holds places, not contents: an event may be older than what was read in the meantime, so the
//! reconciler never believes it and reads the place instead. It does no I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calico_datastore::model::Cidr;
use imbl::OrdSet;
use tokio::sync::Notify;

/// Places that are to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything: events were lost.
    pub everything: bool,
    /// Routes with our protocol that are not on a pod interface (blackholes).
    pub marked: bool,
    /// Routes and neighbours on these pod interfaces, by index.
    pub interfaces: BTreeSet<u32>,
    /// Routes to these destinations, wherever they lead.
    pub destinations: BTreeSet<Cidr>,
    /// These pod interfaces went down, came up, or got another Ethernet address: the kernel has
    /// dropped routes and neighbours there, IPv4 routes without a word. They may be up again before
    /// anybody sees them down.
    pub flapped: BTreeSet<u32>,
}

impl Touched {
    /// True when nothing was touched.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the reconciler wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Names of pod interfaces begin with one of these.
    pub prefixes: Vec<String>,
    /// Our protocol numbers.
    pub protocols: BTreeSet<u8>,
    /// Destinations that a foreign route keeps us from.
    pub contested: BTreeSet<Cidr>,
    /// Destinations that a pod wants.
    pub claimed: OrdSet<Cidr>,
    /// Destinations of our blocks.
    pub blocks: OrdSet<Cidr>,
    /// Addresses whose neighbour entries are permanent.
    pub fixed: OrdSet<IpAddr>,
    /// Places where somebody works against us: looked at again when their time has come, not when
    /// he writes again.
    pub ignored: BTreeSet<Place>,
}

/// Something that is one way or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The routes to a destination.
    Route(Cidr),
    /// The neighbour entry of an address on an interface.
    Neighbour(u32, IpAddr),
}

#[derive(Debug, Default)]
struct Inner {
    interest: Arc<Interest>,
    own_ports: BTreeSet<u32>,
    touched: Touched,
}

/// The channel. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    inner: Arc<Mutex<Inner>>,
    notify: Arc<Notify>,
    default_routes: Arc<Notify>,
}

impl Changes {
    /// A channel for pod interfaces with those prefixes.
    pub fn new(prefixes: Vec<String>) -> Self {
        let changes = Self::default();
        changes.set_interest(Interest { prefixes, ..Interest::default() });
        changes
    }

    /// Is woken after [`Changes::touch`].
    pub fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// Says what the reconciler wants to hear of from now on.
    pub fn set_interest(&self, interest: Interest) {
        self.lock().interest = Arc::new(interest);
    }

    /// What the reconciler wants to hear of.
    pub fn interest(&self) -> Arc<Interest> {
        Arc::clone(&self.lock().interest)
    }

    /// Registers a netlink port whose writes are our own, so that they wake nobody. The kernel
    /// puts the writer's port into `nlmsg_pid` of the event (netlink(7)).
    pub fn add_own_port(&self, port: u32) {
        self.lock().own_ports.insert(port);
    }

    /// Forgets the port of a closed connection: the kernel may give it to somebody else.
    pub fn remove_own_port(&self, port: u32) {
        self.lock().own_ports.remove(&port);
    }

    /// True when the event was caused by one of our own writes.
    pub fn is_own_port(&self, port: u32) -> bool {
        port != 0 && self.lock().own_ports.contains(&port)
    }

    /// Records a place and wakes the reconciler.
    pub fn touch(&self, record: impl FnOnce(&mut Touched)) {
        record(&mut self.lock().touched);
        self.notify.notify_one();
    }

    /// Is woken after [`Changes::touch_default_routes`].
    pub fn default_routes(&self) -> Arc<Notify> {
        Arc::clone(&self.default_routes)
    }

    /// Wakes whoever wants to know where the host's default routes lead: one came or went, or
    /// events were lost. Those that go with their interface go without a word.
    pub fn touch_default_routes(&self) {
        self.default_routes.notify_one();
    }

    /// Takes what was touched since the last call.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut self.lock().touched)
    }

    /// Nothing inside can be left half-changed, so a panic elsewhere does not matter here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
