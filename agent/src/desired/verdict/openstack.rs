//! What guests of OpenStack may always ask of their host; see the chains of the same name.

use std::net::SocketAddr;

use calico_datastore::model::{Family, InterfaceName, Protocol};

use super::Flow;
use crate::config::{OPENSTACK_PREFIX, Settings};

/// True when a flow that comes in by `interface` is DHCP, DNS or the question for metadata. `to_host`:
/// its destination is the host.
pub(super) fn asks_its_host(
    settings: &Settings,
    interface: &InterfaceName,
    flow: &Flow,
    to_host: bool,
) -> bool {
    let Some(((from, to), protocol)) = flow.ports.zip(flow.protocol) else { return false };
    if !settings.has_openstack() || !interface.as_str().starts_with(OPENSTACK_PREFIX) {
        return false;
    }
    let service = settings.metadata_service().map(SocketAddr::V4);
    if protocol == Protocol::TCP && service == Some(SocketAddr::new(flow.destination, to)) {
        return true;
    }
    let dhcp = match flow.family() {
        Family::V4 => (68, 67),
        Family::V6 => (546, 547),
    };
    protocol == Protocol::UDP && to_host && ((from, to) == dhcp || to == 53)
}
