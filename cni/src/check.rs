//! CHECK: is a container connected as ADD left it?

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use calico_datastore::ipam::Ipam;
use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::endpoint::{self as layout, Holdings};
use calico_datastore::model::{Family, InterfaceName, Mac, Name};
use calico_datastore::store::Store;

use crate::container::handle;
use crate::directories::Directories;
use crate::network::{self, Found};
use crate::protocol::{CniError, Code, Invocation, Success};
use crate::{datastore, delegate, failure};

/// Compares what is there with what ADD answered.
///
/// # Errors
/// Code 105 with every difference.
pub(crate) async fn check(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    let node = Name::from(dirs.node_name(&call.conf)?);
    let previous = call.conf.previous.clone().unwrap_or_default();
    let netns = call.netns.as_deref().unwrap_or(Path::new(""));
    let ifname: InterfaceName = call.ifname.parse().map_err(|_| {
        CniError::new(Code::InvalidEnvironment, "CNI_IFNAME is no name of an interface", "")
    })?;
    let store = datastore::open_ready(&call.conf).await?;
    let id = layout::id(&node, &call.container_id, &call.ifname);
    let key = keys::workload_endpoint(&id).unwrap_or_default();
    let (found, stored) = tokio::join!(network::inspect(netns, &ifname), store.get(&key));
    let found = found.map_err(|error| {
        failure::network(format!("CNI_NETNS {} cannot be used", netns.display()), &error)
    })?;
    let stored = stored.map_err(|error| failure::store("the endpoint cannot be read", &error))?;
    let held = stored.map(|stored| layout::holdings(&stored.value));

    let wanted = Wanted::of(call, &previous);
    let mut differences = inside(&wanted, found.as_ref());
    differences.extend(in_datastore(&wanted, held.as_ref(), &id.to_string()));
    if call.conf.ipam.is_delegated() {
        delegate::pass_on(call).await?;
    } else {
        let handle = handle(&call.conf.name, &call.container_id);
        let owned = Ipam::new(store.clone(), node).of_handle(&handle).await;
        let msg = || format!("the addresses of {handle} cannot be read");
        let owned = owned.map_err(|error| failure::ipam(msg(), &error))?;
        let owned: BTreeSet<_> = owned.into_iter().map(|a| a.address).collect();
        let lost = wanted.addresses.iter().filter(|address| !owned.contains(address));
        differences.extend(lost.map(|a| format!("{a} is not allocated to {handle}")));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let msg = format!("{ifname} of the container {} is not as ADD left it", call.container_id);
    Err(CniError::new(Code::CheckFailed, msg, differences.join("; ")))
}

/// What ADD answered, as far as it said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    host_name: Option<String>,
    default_routes: BTreeSet<Family>,
}

impl Wanted {
    /// Later plugins of a chain may have added interfaces and routes of their own: only what is of
    /// this interface counts.
    fn of(call: &Invocation, previous: &Success) -> Self {
        let inside = previous.interfaces.iter().position(|interface| {
            interface.name == call.ifname
                && interface.sandbox.as_deref().is_some_and(|s| !s.is_empty())
        });
        let own = |index: Option<usize>| index.is_none() || index == inside;
        let ips = previous.ips.iter().filter(|ip| own(ip.interface));
        let host = previous.interfaces.iter().find(|interface| {
            interface.sandbox.as_deref().is_none_or(str::is_empty)
                && interface.name.starts_with(crate::names::PREFIX)
        });
        let link_local = |family| Some(crate::gateway::link_local(family));
        let routes = previous.routes.iter().filter(|route| {
            route.dst.prefix_len() == 0 && route.gw == link_local(route.dst.family())
        });
        Self {
            addresses: ips.map(|ip| ip.address.0).collect(),
            mac: inside.and_then(|at| previous.interfaces.get(at)?.mac.parse().ok()),
            host_name: host.map(|interface| interface.name.clone()),
            default_routes: routes.map(|route| route.dst.family()).collect(),
        }
    }
}

/// What is different in the pod and on the host.
fn inside(wanted: &Wanted, found: Option<&Found>) -> Vec<String> {
    let Some(found) = found else { return vec!["the interface is gone".to_owned()] };
    let mut differences = vec![];
    if !found.up {
        differences.push("the interface is down".to_owned());
    }
    if let Some(mac) = wanted.mac.filter(|mac| *mac != found.mac) {
        differences.push(format!("its Ethernet address is {}, not {mac}", found.mac));
    }
    for address in wanted.addresses.iter().filter(|a| !found.addresses.contains(a)) {
        differences.push(format!("it has no address {address}"));
    }
    for family in wanted.default_routes.iter().filter(|f| !found.default_routes.contains(f)) {
        differences.push(format!("it has no default route of {family}"));
    }
    let families: BTreeSet<_> = wanted.addresses.iter().map(|a| Family::of(*a)).collect();
    for family in families.iter().filter(|f| !found.neighbours.contains(f)) {
        differences.push(format!("the neighbour entry of its {family} gateway is gone"));
    }
    match (&found.host_name, &wanted.host_name) {
        (None, _) => differences.push("its host side is gone".to_owned()),
        (Some(is), Some(was)) if is.as_str() != was => {
            differences.push(format!("its host side is {is}, not {was}"));
        }
        _ => {}
    }
    differences
}

/// What is different in the datastore.
fn in_datastore(wanted: &Wanted, held: Option<&Holdings>, id: &str) -> Vec<String> {
    let Some(held) = held else {
        return vec![format!("the endpoint {id} is not in the datastore")];
    };
    let mut differences = vec![];
    for address in wanted.addresses.iter().filter(|a| !held.addresses.contains(a)) {
        differences.push(format!("the endpoint {id} has no {address}"));
    }
    if wanted.mac.is_some() && held.mac.is_some() && held.mac != wanted.mac {
        differences.push(format!("the endpoint {id} has another Ethernet address"));
    }
    let name = held.interface.as_ref().map(InterfaceName::as_str);
    if wanted.host_name.is_some() && name != wanted.host_name.as_deref() {
        differences.push(format!("the endpoint {id} is of another interface"));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            mac: Some("ca:fe:1d:52:bb:e1".parse().unwrap()),
            host_name: Some("cali1".to_owned()),
            default_routes: [Family::V4].into(),
        }
    }

    fn found() -> Found {
        Found {
            mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
            mtu: 1500,
            up: true,
            addresses: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            host_name: Some("cali1".parse().unwrap()),
            default_routes: vec![Family::V4],
            neighbours: vec![Family::V4],
        }
    }

    #[test]
    fn every_difference_is_told() {
        assert_eq!(inside(&wanted(), Some(&found())), [""; 0]);
        assert_eq!(inside(&wanted(), None), ["the interface is gone"]);
        let other = Found {
            mac: "ca:fe:1d:52:bb:e2".parse().unwrap(),
            mtu: 1500,
            up: false,
            addresses: vec![],
            host_name: Some("cali2".parse().unwrap()),
            default_routes: vec![],
            neighbours: vec![],
        };
        assert_eq!(
            inside(&wanted(), Some(&other)),
            [
                "the interface is down",
                "its Ethernet address is ca:fe:1d:52:bb:e2, not ca:fe:1d:52:bb:e1",
                "it has no address 10.0.0.1",
                "it has no default route of IPv4",
                "the neighbour entry of its IPv4 gateway is gone",
                "its host side is cali2, not cali1",
            ]
        );
        let held = Holdings {
            interface: Some("cali1".parse().unwrap()),
            mac: wanted().mac,
            addresses: wanted().addresses,
            profiles: vec![],
        };
        assert_eq!(in_datastore(&wanted(), Some(&held), "e"), [""; 0]);
        assert_eq!(in_datastore(&wanted(), None, "e"), ["the endpoint e is not in the datastore"]);
        let differences = in_datastore(&wanted(), Some(&Holdings::default()), "e");
        assert_eq!(
            differences,
            ["the endpoint e has no 10.0.0.1", "the endpoint e is of another interface"]
        );
    }
}
