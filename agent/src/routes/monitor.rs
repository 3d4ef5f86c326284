//! Follows the kernel's links, routes and neighbours.

use calico_datastore::model::{InterfaceName, Mac};
use imbl::OrdMap;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index: another one under the same name is another interface.
    pub index: u32,
    /// Switched on (IFF_UP) and running.
    pub up: bool,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Every interface of the namespace, by name.
pub type Links = OrdMap<InterfaceName, Link>;
