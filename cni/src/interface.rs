//! The interface of a pod: what it is to be like, what it may be called.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use calico_datastore::model::{Family, InterfaceName, Mac};

use crate::attachment::Attachment;
use crate::directories::Directories;
use crate::network::{self, NetworkError, Plan};
use crate::protocol::{CniError, Code, Invocation};
use crate::{failure, mtu, names};

/// How many names are tried. The second is a hash already.
const NAMES: usize = 8;

/// What the interface is to be like, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    mtu: u32,
    mac: Option<Mac>,
    addresses: Vec<IpAddr>,
    default_routes: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connected {
    pub(crate) host_name: InterfaceName,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) default_routes: bool,
}

/// Decides what the interface is to be like.
pub(crate) async fn wanted(
    call: &Invocation,
    dirs: &Directories,
    netns: &Path,
    addresses: &[IpAddr],
) -> Result<Wanted, CniError> {
    let invalid = |msg: String| CniError::new(Code::InvalidConfig, msg, "");
    let families: BTreeSet<_> = addresses.iter().map(|address| Family::of(*address)).collect();
    // The pod's default routes lead through its first interface, whoever made that one.
    let taken = network::default_routes(netns).await;
    let msg = || format!("the routes in {} cannot be read", netns.display());
    let taken = taken.map_err(|error| failure::network(msg(), &error))?;
    let mtu = mtu::choose(call.conf.mtu, &dirs.state, families.contains(&Family::V6)).await;
    let mtu = mtu.map_err(|error| invalid(error.to_string()))?;
    for warning in &mtu.warnings {
        tracing::warn!("{warning}");
    }
    // `MAC=` is how runtimes that know no capabilities say it; it is about this pod alone.
    let mac = call.args.others.get("MAC").or(call.conf.runtime.mac.as_ref());
    let mac = mac.filter(|text| !text.is_empty()).map(|text| text.parse::<Mac>()).transpose();
    Ok(Wanted {
        mtu: mtu.mtu,
        mac: mac.map_err(|error| invalid(error.to_string()))?,
        addresses: addresses.to_vec(),
        default_routes: !taken.iter().any(|family| families.contains(family)),
    })
}

/// The names of the host side to try, but for those that other interfaces of the pod have.
pub(crate) fn names(call: &Invocation, siblings: &[Attachment]) -> Vec<InterfaceName> {
    let taken = |name: &InterfaceName| {
        let others = siblings.iter().filter(|a| a.ifname != call.ifname);
        others.filter_map(|a| a.host_name.as_deref()).any(|other| other == name.as_str())
    };
    let candidates = names::candidates(&call.container_id, &call.ifname);
    candidates.filter(|name| !taken(name)).take(NAMES).collect()
}

/// Makes it.
pub(crate) async fn make(
    wanted: &Wanted,
    netns: &Path,
    ifname: &InterfaceName,
    host_name: &InterfaceName,
) -> Result<Connected, NetworkError> {
    let plan = Plan {
        netns: netns.to_owned(),
        ifname: ifname.clone(),
        host_name: host_name.clone(),
        mtu: wanted.mtu,
        mac: wanted.mac,
        addresses: wanted.addresses.clone(),
        default_routes: wanted.default_routes,
    };
    let made = network::create(&plan).await?;
    tracing::debug!(%host_name, %ifname, mac = %made.mac, "the interface is made");
    Ok(Connected {
        host_name: host_name.clone(),
        mac: made.mac,
        mtu: wanted.mtu,
        default_routes: wanted.default_routes,
    })
}
