//! A pod's interface: the veth pair, addresses, routes and neighbours inside, host side outside. Over
//! netlink; decides nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use calico_datastore::model::{InterfaceName, Mac};

/// The host side's Ethernet address, the same everywhere (the original's).
pub const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

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
    /// Write default routes: only for the first interface of a pod.
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
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its peer in the host's namespace.
    pub host_name: Option<InterfaceName>,
    /// Families with a default route through it.
    pub default_routes: Vec<calico_datastore::model::Family>,
}

/// Why the kernel does not do it. (The owner of this module refines the variants.)
#[derive(Debug, thiserror::Error)]
#[error("not yet")]
pub struct NetworkError;

/// Makes the interface, or nothing.
///
/// # Errors
/// When the namespace is none, a name is taken, or the kernel refuses; nothing stays then.
pub async fn create(_plan: &Plan) -> Result<Made, NetworkError> {
    todo!()
}

/// Removes a host side, and its pod side with it. Gone already is a success (false).
///
/// # Errors
/// When the kernel refuses.
pub async fn delete(_host_name: &InterfaceName) -> Result<bool, NetworkError> {
    todo!()
}

/// Removes an interface inside a namespace. Gone already, or the namespace is, is a success (false).
///
/// # Errors
/// When the kernel refuses.
pub async fn delete_inside(_netns: &Path, _ifname: &InterfaceName) -> Result<bool, NetworkError> {
    todo!()
}

/// What is there; `None` when there is no such interface, or no such namespace.
///
/// # Errors
/// When the path is no namespace or the kernel refuses.
pub async fn inspect(
    _netns: &Path,
    _ifname: &InterfaceName,
) -> Result<Option<Found>, NetworkError> {
    todo!()
}

/// Whether this host has such an interface.
///
/// # Errors
/// When the kernel does not answer.
pub async fn exists(_host_name: &InterfaceName) -> Result<bool, NetworkError> {
    todo!()
}

/// Whether a path is a network namespace (and not, say, a file whose namespace is gone).
pub fn is_namespace(_path: &Path) -> bool {
    todo!()
}
