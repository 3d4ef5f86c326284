//! The task that keeps this host registered: at the start, again whenever the whole store was read
//! again, and when an address that it was given comes up on an interface.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::backend::etcd3::SourceStatus;
use calico_datastore::store::{AnyStore, Store};
use tokio::sync::watch;

use crate::node::addresses::{AddressError, HostAddress, host_addresses};
use crate::node::register;
use crate::node::registration::Identity;
use crate::paths::Paths;
use crate::reconcile::Problem;
use crate::status::overview::Registration;

/// How often the interfaces are asked for an address that none of them has.
const LOOK: Duration = Duration::from_secs(10);

/// The host to register.
#[derive(Clone, Debug)]
struct Host {
    identity: Identity,
    /// Where its name is kept.
    nodename: PathBuf,
    /// It may make the ClusterInformation also later than at the start.
    may_initialise_later: bool,
}

/// Registers this host, and again whenever the whole store was read again.
pub(super) async fn registration_task(
    client: AnyStore,
    identity: Identity,
    paths: Paths,
    mut read: watch::Receiver<SourceStatus>,
    result: watch::Sender<Registration>,
) {
    if let AnyStore::Etcd2(_) = client {
        // What a Node is there is many keys, which calico/node has written; only reports are ours.
        let text = "left as it is: in the v1 layout calicoctl registers hosts".to_owned();
        result.send_replace(Registration { text, done: true, problems: Vec::new() });
        // Nothing is left to do until the source ends, and the agent with it.
        while read.changed().await.is_ok() {}
        return;
    }
    let may_initialise_later = matches!(client, AnyStore::Directory(_));
    let host = Host { identity, nodename: paths.nodename(), may_initialise_later };
    keep(&client, host, host_addresses, read, result).await;
}

/// Keeps `host` registered until the source ends. `interfaces` are this host's addresses as they are:
/// at a boot the agent is there before the network is.
async fn keep<S: Store, F>(
    store: &S,
    mut host: Host,
    interfaces: impl Fn() -> F,
    mut read: watch::Receiver<SourceStatus>,
    result: watch::Sender<Registration>,
) where
    F: Future<Output = Result<Vec<HostAddress>, AddressError>>,
{
    loop {
        // The first listing is that of the store in which we register for the first time.
        let known = read.borrow_and_update().listings.max(1);
        let Host { identity, nodename, may_initialise_later } = &host;
        let failed = |problem: Problem| {
            let text = problem.message.clone();
            result.send_replace(Registration { text, done: false, problems: vec![problem] });
        };
        let work = register::register_until_done(store, identity, &interfaces, nodename, failed);
        let registered = work.await;
        let addresses = registered.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = match &addresses[..] {
            [] => "registered without an address".to_owned(),
            _ => format!("registered with {}", addresses.join(" and ")),
        };
        result.send_replace(Registration { text, done: true, problems: registered.problems });
        // From now on the store may have been wiped or restored, and not know us any more. Whether it
        // is ready is not for us to say then: its content may be on its way.
        host.identity.may_initialise = *may_initialise_later;
        tokio::select! {
            // Cancel-safe: it looks at the newest value each time.
            listed = read.wait_for(|status| status.listings > known) => if listed.is_err() { return },
            // Cancel-safe: it only looks.
            () = until_up(&registered.absent, &interfaces) => {}
        }
    }
}

/// Waits until an interface has one of these addresses.
async fn until_up<F>(absent: &[IpAddr], interfaces: impl Fn() -> F)
where
    F: Future<Output = Result<Vec<HostAddress>, AddressError>>,
{
    if absent.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        // What cannot be asked now is asked the next time.
        let found = interfaces().await.unwrap_or_default();
        if found.iter().any(|interface| absent.contains(&interface.address)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
