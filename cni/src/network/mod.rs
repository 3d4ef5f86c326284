//! A pod's interface: the veth pair, addresses, routes and neighbours inside, host side outside. Over
//! netlink; decides nothing.
//!
//! Both gateways have permanent neighbour entries inside: nobody owns 169.254.1.1, and the host's
//! proxy ARP answers for it only while the host has a route towards it.
//!
//! An interface without default routes is a further one of its pod. The pod has its default routes
//! elsewhere, and a packet that leaves by the wrong interface is dropped by the host, which knows the
//! source address of each. So its routes go into a table of its own, and a rule sends there what
//! comes from its addresses: answers leave by the interface that the question came in by. As on any
//! host with several addresses, a UDP server answers from the one that it listens on: on a further
//! interface it must be named.
//!
//! Not set here are the kernel parameters of the host's side that the agent keeps anyway, among them
//! `route_localnet`, which ports forwarded through 127.0.0.1 need.

mod create;
mod find;
mod message;
mod namespace;
mod netlink;
mod sysctl;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use calico_datastore::model::{Family, InterfaceName, Mac};

use self::netlink::Netlink;

/// The host side's Ethernet address, the same everywhere (the original's).
pub const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The pod's IPv4 gateway. Nobody has this address.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's IPv6 gateway: the link-local address that [`HOST_MAC`] makes.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// [`HOST_MAC`].
const HOST_MAC_BYTES: [u8; 6] = [0xee; 6];

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The pod's namespace.
    pub netns: PathBuf,
    /// The pod side's name: `eth0`.
    pub ifname: InterfaceName,
    /// The host side's name.
    pub host_name: InterfaceName,
    /// Of both sides, bytes.
    pub mtu: u32,
    /// The pod side's Ethernet address; none: the kernel draws one.
    pub mac: Option<Mac>,
    /// The pod's addresses, each /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// Write default routes: only for the first interface of a pod. Without, the interface gets a
    /// routing table of its own for what comes from its addresses.
    pub default_routes: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The pod side's Ethernet address.
    pub mac: Mac,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The pod side's Ethernet address.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses, without those that the kernel makes (link-local).
    pub addresses: Vec<IpAddr>,
    /// Its peer, when that is in the host's namespace.
    pub host_name: Option<InterfaceName>,
    /// Families with a default route through it in the main table.
    pub default_routes: Vec<Family>,
    /// Families whose gateway has its permanent neighbour entry.
    pub neighbours: Vec<Family>,
}

/// Why the kernel does not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no such file, or it cannot be opened.
    #[error("cannot open the network namespace {}", path.display())]
    NoNamespace {
        /// The namespace.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else: a plain file whose namespace is gone, or a namespace of another
    /// kind.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The namespace is the host's own: its default route would be lost.
    #[error("{} is the network namespace of the host itself", path.display())]
    HostNamespace {
        /// The namespace.
        path: PathBuf,
    },
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace {}", path.display())]
    Enter {
        /// The namespace.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pod has an interface of that name already.
    #[error("there is an interface {name} in {} already", netns.display())]
    TakenInside {
        /// The pod side's name.
        name: InterfaceName,
        /// The namespace.
        netns: PathBuf,
    },
    /// The host has an interface of that name already.
    #[error("there is an interface {name} on the host already")]
    TakenOutside {
        /// The host side's name.
        name: InterfaceName,
    },
    /// An interface that should be removed is none that is made here.
    #[error("the interface {name} is no veth")]
    Foreign {
        /// Its name.
        name: InterfaceName,
    },
    /// A kernel parameter cannot be set.
    #[error("cannot set {path} to {value}")]
    Sysctl {
        /// The file, as the interface's namespace shows it.
        path: String,
        /// The value that it should have.
        value: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The rtnetlink socket cannot be opened.
    #[error("cannot open an rtnetlink socket")]
    Open(#[source] io::Error),
    /// The kernel refuses a change.
    #[error("cannot {operation} {subject}")]
    Refused {
        /// What was to be done: `add the address`.
        operation: &'static str,
        /// To what: `10.1.2.3/32 to eth0`.
        subject: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not tell.
    #[error("cannot read {what}")]
    Read {
        /// What was asked for: `the interface eth0`.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that enters the namespace failed.
    #[error("cannot run a thread to enter a network namespace")]
    Thread(#[source] io::Error),
}

/// Makes the interface, or nothing.
///
/// The work is done on a thread that cannot be interrupted: a dropped future leaves it to finish, and
/// the interface may come to be afterwards.
///
/// # Errors
/// When the namespace is none or the host's own, a name is taken, or the kernel refuses; nothing
/// stays then.
pub async fn create(plan: &Plan) -> Result<Made, NetworkError> {
    let plan = plan.clone();
    namespace::on_thread(move || create::create(&plan)).await
}

/// Removes a host side, and its pod side with it. Gone already is a success (false).
///
/// # Errors
/// When the interface is no veth, or the kernel refuses.
pub async fn delete(host_name: &InterfaceName) -> Result<bool, NetworkError> {
    let name = host_name.clone();
    namespace::on_thread(move || create::delete(&mut Netlink::open()?, &name)).await
}

/// Removes an interface inside a namespace, with its peer and its rules. Gone already, or the
/// namespace is (its file is missing, or a plain one again), is a success (false).
///
/// # Errors
/// When the namespace is the host's own, the interface is no veth, or the kernel refuses.
pub async fn delete_inside(netns: &Path, ifname: &InterfaceName) -> Result<bool, NetworkError> {
    let (netns, name) = (netns.to_owned(), ifname.clone());
    namespace::on_thread(move || create::delete_inside(&netns, &name)).await
}

/// What is there; `None` when there is no such interface, or no such namespace.
///
/// # Errors
/// When the path is no namespace or the kernel refuses.
pub async fn inspect(netns: &Path, ifname: &InterfaceName) -> Result<Option<Found>, NetworkError> {
    let (netns, name) = (netns.to_owned(), ifname.clone());
    namespace::on_thread(move || find::inspect(&netns, &name)).await
}

/// The families that have a default route in a namespace, over whatever interface.
///
/// # Errors
/// When the path is no namespace or the kernel does not answer.
pub async fn default_routes(netns: &Path) -> Result<Vec<Family>, NetworkError> {
    let netns = netns.to_owned();
    namespace::on_thread(move || find::default_routes_in(&netns)).await
}

/// Whether this host has such an interface.
///
/// # Errors
/// When the kernel does not answer.
pub async fn exists(host_name: &InterfaceName) -> Result<bool, NetworkError> {
    let name = host_name.clone();
    let found = namespace::on_thread(move || find::link(&mut Netlink::open()?, &name)).await?;
    Ok(found.is_some())
}

/// The MTU that the host's own interfaces leave: the lowest of those with a default route, else of
/// all that are up and not virtual; `None` when there is none.
///
/// # Errors
/// When the kernel does not answer.
pub async fn host_mtu() -> Result<Option<u32>, NetworkError> {
    namespace::on_thread(|| find::host_mtu(&mut Netlink::open()?)).await
}

/// Whether a path is a network namespace (and not, say, a file whose namespace is gone).
pub fn is_namespace(path: &Path) -> bool {
    namespace::is_one(path)
}
