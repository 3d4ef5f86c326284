//! `calico-ipam`: address management for other plugins, which make the interface themselves.
//!
//! The same store, handles and attributes as `calico` has; nothing is recorded on this host, since
//! the caller is who knows its attachments.

use std::collections::BTreeMap;
use std::time::Duration;

use calico_datastore::ipam::Ipam;
use calico_datastore::model::{Family, Name};
use calico_datastore::store::AnyStore;

use crate::attachment::Attachments;
use crate::container::{handle, list, lock};
use crate::directories::Directories;
use crate::protocol::{CniError, Code, Command, Invocation, Ip, Success};
use crate::{addresses, datastore, failure, pool, status};

/// Does what was asked for. Only ADD has a result.
pub(crate) async fn run(call: &Invocation) -> Result<Option<Success>, CniError> {
    if call.command == Command::Status {
        return status::of_addresses(call).await.map(|()| None);
    }
    let dirs = Directories::of(&call.conf);
    let node = dirs.node_name(&call.conf)?;
    let store = datastore::open_ready(&call.conf).await?;
    let ipam = Ipam::new(store.clone(), Name::from(&*node));
    match call.command {
        Command::Add | Command::Del => {
            // Nothing is recorded, so only this says that somebody is at work on the container.
            let records = Attachments::in_state_dir(&dirs.state);
            let locked = lock(&records, call)?;
            let done = match call.command {
                Command::Add => add(call, &store, &ipam, &node).await.map(Some),
                _ => del(call, &records, &ipam).await.map(|()| None),
            };
            records.unlock(locked, &call.container_id);
            done
        }
        Command::Check => check(call, &ipam).await.map(|()| None),
        Command::Gc => gc(call, &dirs, &ipam, &node).await.map(|()| None),
        Command::Status | Command::Version => Ok(None),
    }
}

async fn add(
    call: &Invocation,
    store: &AnyStore,
    ipam: &Ipam<AnyStore>,
    node: &str,
) -> Result<Success, CniError> {
    let conf = &call.conf.ipam;
    let pool = match &conf.subnet {
        Some(subnet) => Some(pool::ensure(store, subnet).await?),
        None => None,
    };
    let wanted = addresses::wanted(conf, call.requested_ips(), pool)?;
    let handle = handle(&call.conf.name, &call.container_id);
    let before = ipam.of_handle(&handle).await;
    let before = before.map_err(|error| failure::ipam(holdings(&handle), &error))?;
    let given = addresses::assign(ipam, node, &handle, &wanted).await;
    let given = match given {
        Ok(given) => given,
        Err(error) => {
            // Of what it had before nothing is taken: another interface may use it.
            take_back(ipam, &handle, |address| before.iter().all(|a| a.address != address)).await;
            return Err(error);
        }
    };
    let ips = given.into_iter().map(|address| Ip {
        address: (address, Family::of(address).host_len()),
        gateway: None,
        interface: None,
    });
    Ok(Success { ips: ips.collect(), ..Success::default() })
}

async fn take_back(ipam: &Ipam<AnyStore>, handle: &str, new: impl Fn(std::net::IpAddr) -> bool) {
    let Ok(now) = ipam.of_handle(handle).await else { return };
    for allocation in now.into_iter().filter(|a| new(a.address)) {
        if let Err(error) = ipam.release(allocation.address, handle).await {
            tracing::warn!(reason = failure::chain(&error), "not taken back");
        }
    }
}

fn holdings(handle: &str) -> String {
    format!("the addresses of {handle} cannot be read")
}

async fn del(
    call: &Invocation,
    records: &Attachments,
    ipam: &Ipam<AnyStore>,
) -> Result<(), CniError> {
    // Nothing is recorded here: by the name they are found, or not at all.
    if let Some(error) = &call.conf.overlooked.name {
        return Err(error.clone());
    }
    let handle = handle(&call.conf.name, &call.container_id);
    // Those of an interface that `calico` itself made have the same handle.
    let records = list(records)?;
    let others = records.iter().filter(|a| a.handle == handle && a.ifname != call.ifname);
    let kept: Vec<_> = others.flat_map(|a| a.addresses.iter().copied()).collect();
    let msg = format!("the addresses of {handle} cannot be given back");
    let fail = |error| failure::ipam(msg.clone(), &error);
    if kept.is_empty() {
        ipam.release_handle(&handle).await.map_err(fail)?;
        return Ok(());
    }
    for allocation in ipam.of_handle(&handle).await.map_err(fail)? {
        if !kept.contains(&allocation.address) {
            ipam.release(allocation.address, &handle).await.map_err(fail)?;
        }
    }
    Ok(())
}

async fn check(call: &Invocation, ipam: &Ipam<AnyStore>) -> Result<(), CniError> {
    let handle = handle(&call.conf.name, &call.container_id);
    let has = ipam.of_handle(&handle).await;
    let has = has.map_err(|error| failure::ipam(holdings(&handle), &error))?;
    let wanted = call.conf.previous.iter().flat_map(|previous| &previous.ips);
    let lost: Vec<_> = wanted
        .map(|ip| ip.address.0)
        .filter(|address| has.iter().all(|a| a.address != *address))
        .map(|address| format!("{address} is not allocated to {handle}"))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let msg = format!("the addresses of {} are not as ADD left them", call.container_id);
    Err(CniError::new(Code::CheckFailed, msg, lost.join("; ")))
}

async fn gc(
    call: &Invocation,
    dirs: &Directories,
    ipam: &Ipam<AnyStore>,
    node: &str,
) -> Result<(), CniError> {
    let records = Attachments::in_state_dir(&dirs.state);
    let valid = call.conf.valid_attachments.as_deref().unwrap_or_default();
    let valid = |container: &str| valid.iter().any(|(one, _)| one == container);
    release_unknown(&call.conf.name, &records, ipam, node, &valid).await
}

/// Gives back what pods of this host have in a network by handles that nobody knows: neither a record,
/// nor `valid`, which is asked for containers.
///
/// A handle is `<network>.<container>`, and both may have dots. Where the rest has one, it may be
/// another network's: it is left alone. So is a container that somebody is at work on: an ADD gets its
/// addresses by the same handle.
pub(crate) async fn release_unknown(
    network: &str,
    records: &Attachments,
    ipam: &Ipam<AnyStore>,
    node: &str,
    valid: &dyn Fn(&str) -> bool,
) -> Result<(), CniError> {
    let msg = || format!("the addresses of the network {network} cannot be cleaned up");
    let all = ipam.of_host().await.map_err(|error| failure::ipam(msg(), &error))?;
    let mut owners: BTreeMap<String, bool> = BTreeMap::new();
    for allocation in all {
        let Some(handle) = allocation.handle else { continue };
        let here = allocation.attributes.get("node").is_some_and(|name| name == node);
        *owners.entry(handle).or_insert(true) &= here;
    }
    let prefix = handle(network, "");
    let mut first = None;
    for (handle, _) in owners.iter().filter(|(_, here)| **here) {
        let container = handle.strip_prefix(&prefix).filter(|rest| !rest.contains('.'));
        let Some(container) = container.filter(|container| !valid(container)) else { continue };
        let msg = || format!("{}: {handle}", msg());
        let locked = match records.lock(container, Duration::ZERO) {
            Ok(Some(locked)) => locked,
            Ok(None) => continue,
            Err(error) => {
                first.get_or_insert(failure::attachment(msg(), &error));
                continue;
            }
        };
        // Under the lock no ADD begins. One of `calico` that was killed has a record before it has
        // addresses; one of `calico-ipam` that ended since `valid` was told has none, and only the
        // runtime, which may call nothing beside GC, keeps it from that.
        if !has_record(records, handle) {
            match ipam.release_handle(handle).await {
                Ok(addresses) => tracing::info!(handle, ?addresses, "given back"),
                Err(error) => drop(first.get_or_insert(failure::ipam(msg(), &error))),
            }
        }
        records.unlock(locked, container);
    }
    first.map_or(Ok(()), Err)
}

/// Whether a handle is some record's; also when that cannot be told.
fn has_record(records: &Attachments, handle: &str) -> bool {
    let Ok(listing) = records.list() else { return true };
    listing.attachments.iter().any(|a| a.handle == handle)
}
