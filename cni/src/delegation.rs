//! What is remembered of a foreign plugin that gave addresses, so that they can be taken back
//! without the runtime.

use std::path::{Path, PathBuf};

use crate::attachment::Delegated;
use crate::delegate::Delegate;
use crate::protocol::{CniError, Command, Invocation};

/// Where plugins usually are. rkt's own directories are the pod's, and go with it.
const USUAL: [&str; 2] = ["/opt/cni/bin", "/usr/lib/rkt/plugins/net"];

/// All that is needed later, if the addresses of a call come from another plugin.
///
/// # Errors
/// When there is no such plugin.
pub(crate) fn remembered(call: &Invocation) -> Result<Option<Delegated>, CniError> {
    if !call.conf.ipam.is_delegated() {
        return Ok(None);
    }
    Delegate::of_call(call).found()?;
    Ok(Some(of_call(call)))
}

/// The same for a call that removes: whether the plugin is there will be seen.
pub(crate) fn of_call(call: &Invocation) -> Delegated {
    let here = std::env::current_dir().unwrap_or_default();
    Delegated {
        plugin: call.conf.ipam.kind.clone(),
        conf: String::from_utf8_lossy(&call.stdin).into_owned(),
        args: std::env::var("CNI_ARGS").unwrap_or_default(),
        // Relative to the directory that the runtime chose; nobody else knows it later.
        path: call.path.iter().map(|dir| here.join(dir)).collect(),
    }
}

/// Lets the plugin take back what it gave to an interface of a container.
///
/// # Errors
/// What the plugin says, or that there is none.
pub(crate) async fn take_back(
    delegated: &Delegated,
    container: &str,
    ifname: &str,
    netns: Option<&Path>,
) -> Result<(), CniError> {
    let Delegated { plugin, conf, args, path } = delegated;
    let path: Vec<_> = path.iter().cloned().chain(USUAL.map(PathBuf::from)).collect();
    Delegate::new(plugin, &path, conf.as_bytes())
        .variable("CNI_CONTAINERID", container)
        .variable("CNI_IFNAME", ifname)
        .variable("CNI_NETNS", netns.unwrap_or(Path::new("")))
        .variable("CNI_ARGS", args)
        .run(Command::Del)
        .await
}
