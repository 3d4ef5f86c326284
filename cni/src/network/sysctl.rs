//! Kernel parameters of one interface, in the namespace of the calling thread.

use std::io;

use calico_datastore::model::InterfaceName;

use super::NetworkError;

/// Of the host's side, before it is switched on: IPv6 on, whatever the host's default is; and no
/// check whether somebody else has its link-local address, which all pods' interfaces share.
pub(super) const HOST_V6: [(&str, &str); 2] = [("disable_ipv6", "0"), ("accept_dad", "0")];

/// Of the pod's side, when it has IPv6 addresses: some runtimes switch IPv6 off.
pub(super) const POD_V6: [(&str, &str); 1] = [("disable_ipv6", "0")];

/// Of every pod's side: its routes are given, nobody may announce others.
const ACCEPT_RA: [(&str, &str); 1] = [("accept_ra", "0")];

/// Sets parameters of IPv6; writes only what differs.
pub(super) fn set_v6(
    name: &InterfaceName,
    parameters: &[(&str, &'static str)],
) -> Result<(), NetworkError> {
    for (parameter, value) in parameters {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{parameter}");
        let set = || -> io::Result<()> {
            if std::fs::read_to_string(&path)?.trim() != *value {
                std::fs::write(&path, value)?;
            }
            Ok(())
        };
        if let Err(source) = set() {
            return Err(NetworkError::Sysctl { path, value, source });
        }
    }
    Ok(())
}

/// Switches router advertisements off. A kernel without IPv6 has none.
pub(super) fn refuse_advertisements(name: &InterfaceName) -> Result<(), NetworkError> {
    match set_v6(name, &ACCEPT_RA) {
        Err(NetworkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        outcome => outcome,
    }
}
