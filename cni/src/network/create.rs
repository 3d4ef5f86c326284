//! Makes and removes interfaces. Runs on a thread of its own, which it moves between namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use calico_datastore::model::{InterfaceName, Mac};

use super::find::{self, Link};
use super::netlink::Netlink;
use super::{HOST_MAC_BYTES, Made, NetworkError, Plan, message, namespace, sysctl};

const EEXIST: i32 = 17;

/// See [`create`](fn@super::create).
pub(super) fn create(plan: &Plan) -> Result<Made, NetworkError> {
    let netns = namespace::open(&plan.netns)?;
    let own = namespace::own()?;
    if namespace::same(&netns, &own) {
        return Err(NetworkError::HostNamespace { path: plan.netns.clone() });
    }
    let mut host = Netlink::open()?;
    namespace::enter(&netns, &plan.netns)?;
    let mut pod = Netlink::open()?;
    namespace::leave_to(&own)?;

    // Alone: what follows a refused request would touch the interface that has the name.
    let host_mac = Mac::new(HOST_MAC_BYTES);
    if let Err(error) = host.run(&[message::pair(plan, netns.as_raw_fd(), host_mac)]) {
        return Err(taken(plan, &mut pod, error));
    }
    let outcome = finish(plan, &netns, &mut host, &mut pod);
    if outcome.is_err() {
        // The first error is the one to tell. The rules, if any, lead to an empty table.
        let _ = delete(&mut host, &plan.host_name);
    }
    outcome
}

/// Everything after the pair is there. Leaves the thread inside.
fn finish(
    plan: &Plan,
    netns: &File,
    host: &mut Netlink,
    pod: &mut Netlink,
) -> Result<Made, NetworkError> {
    let outside = present(find::link(host, &plan.host_name)?, &plan.host_name)?;
    let inside = present(find::link(pod, &plan.ifname)?, &plan.ifname)?;
    if plan.has_v6() {
        sysctl::set_v6(&plan.host_name, &sysctl::HOST_V6)?;
    }
    host.run(&message::host_side(plan, outside.index))?;
    namespace::enter(netns, &plan.netns)?;
    if plan.has_v6() {
        sysctl::set_v6(&plan.ifname, &sysctl::POD_V6)?;
    }
    sysctl::refuse_advertisements(&plan.ifname)?;
    pod.run(&message::pod_side(plan, inside.index, Mac::new(HOST_MAC_BYTES)))?;
    let mac = inside.mac.ok_or_else(|| gone(&plan.ifname))?;
    Ok(Made { mac })
}

/// See [`super::delete`].
pub(super) fn delete(netlink: &mut Netlink, name: &InterfaceName) -> Result<bool, NetworkError> {
    Ok(remove(netlink, name)?.is_some())
}

/// See [`super::delete_inside`].
pub(super) fn delete_inside(netns: &Path, name: &InterfaceName) -> Result<bool, NetworkError> {
    let file = match namespace::open(netns) {
        Err(NetworkError::NoNamespace { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(false);
        }
        // What a runtime mounted the namespace on stays when that is unmounted.
        Err(NetworkError::NotANamespace { .. }) => return Ok(false),
        file => file?,
    };
    if namespace::same(&file, &namespace::own()?) {
        return Err(NetworkError::HostNamespace { path: netns.to_owned() });
    }
    namespace::enter(&file, netns)?;
    let mut netlink = Netlink::open()?;
    let Some(index) = remove(&mut netlink, name)? else { return Ok(false) };
    // The kernel removes the routes with the interface, the rules it keeps.
    let rules = find::rules_to(&mut netlink, index)?;
    netlink.run(&rules)?;
    Ok(true)
}

/// Removes a veth; the index that it had.
fn remove(netlink: &mut Netlink, name: &InterfaceName) -> Result<Option<u32>, NetworkError> {
    let Some(link) = find::link(netlink, name)? else { return Ok(None) };
    if !link.veth {
        return Err(NetworkError::Foreign { name: name.clone() });
    }
    netlink.run(&[message::removal(link.index, name)])?;
    Ok(Some(link.index))
}

/// The kernel says the same for both sides: which one is it?
fn taken(plan: &Plan, pod: &mut Netlink, error: NetworkError) -> NetworkError {
    match &error {
        NetworkError::Refused { source, .. } if source.raw_os_error() == Some(EEXIST) => {}
        _ => return error,
    }
    match find::link(pod, &plan.ifname) {
        Ok(Some(_)) => {
            NetworkError::TakenInside { name: plan.ifname.clone(), netns: plan.netns.clone() }
        }
        Ok(None) => NetworkError::TakenOutside { name: plan.host_name.clone() },
        Err(_) => error,
    }
}

fn present(link: Option<Link>, name: &InterfaceName) -> Result<Link, NetworkError> {
    link.ok_or_else(|| gone(name))
}

/// Somebody removed or renamed what was just made.
fn gone(name: &InterfaceName) -> NetworkError {
    let source = io::Error::from(io::ErrorKind::NotFound);
    NetworkError::Read { what: format!("the interface {name}"), source }
}
