//! Kernel parameters: forwarding, and what makes a host answer for its pods.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use calico_datastore::model::{Family, InterfaceName};

use super::counters::Counters;

/// A parameter that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}")]
pub struct SysctlError {
    /// The file.
    pub path: PathBuf,
    /// The value that it should have.
    pub value: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The files below `/proc/sys`.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
    counters: Counters,
}

/// Per interface: (path with `{}` for the interface, value).
const INTERFACE_V4: [(&str, &str); 5] = [
    // Packets to 127.0.0.0/8 behind NAT stay possible; those from pods are dropped in raw.
    ("net/ipv4/conf/{}/route_localnet", "1"),
    // Answer at once: nobody else on the wire could.
    ("net/ipv4/neigh/{}/proxy_delay", "0"),
    // The pod's gateway is 169.254.1.1, which the host answers for.
    ("net/ipv4/conf/{}/proxy_arp", "1"),
    ("net/ipv4/conf/{}/forwarding", "1"),
    // A second check of the source address, by the routes. systemd's default of 2 would be loose,
    // but the kernel takes the larger of this and conf/all.
    ("net/ipv4/conf/{}/rp_filter", "1"),
];

const INTERFACE_V6: [(&str, &str); 3] = [
    // A pod is no router.
    ("net/ipv6/conf/{}/accept_ra", "0"),
    ("net/ipv6/conf/{}/proxy_ndp", "1"),
    ("net/ipv6/conf/{}/forwarding", "1"),
];

fn forwarding_file(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// What an interface of a pod needs: file and value.
fn parameters(
    name: &InterfaceName,
    families: &[Family],
) -> impl Iterator<Item = (String, &'static str)> {
    let lists: [(Family, &[(&str, &'static str)]); 2] =
        [(Family::V4, &INTERFACE_V4), (Family::V6, &INTERFACE_V6)];
    lists
        .into_iter()
        .filter(|(family, _)| families.contains(family))
        .flat_map(|(_, list)| list)
        .map(|(path, value)| (path.replace("{}", name.as_str()), *value))
}

impl Sysctls {
    /// The files below `root`, `/proc/sys` outside tests.
    pub fn new(root: PathBuf, counters: Counters) -> Self {
        Self { root, counters }
    }

    /// True when the kernel knows the family.
    pub fn has(&self, family: Family) -> bool {
        family == Family::V4 || self.root.join("net/ipv6").is_dir()
    }

    /// What is not as [`Sysctls::forwarding`] (where that is wanted) and [`Sysctls::interface`]
    /// would have it: file, value, value that it should have. Writes nothing; what cannot be read is
    /// left out.
    pub fn pending(
        &self,
        interfaces: &BTreeSet<InterfaceName>,
        families: &[Family],
        forwarding: bool,
    ) -> Vec<(PathBuf, String, &'static str)> {
        let global =
            families.iter().filter(|_| forwarding).map(|f| (forwarding_file(*f).to_owned(), "1"));
        let each = interfaces.iter().flat_map(|name| parameters(name, families));
        global
            .chain(each)
            .filter_map(|(path, value)| {
                let path = self.root.join(path);
                let is = std::fs::read_to_string(&path).ok()?.trim().to_owned();
                (is != value).then_some((path, is, value))
            })
            .collect()
    }

    /// Switches forwarding on.
    pub fn forwarding(&self, families: &[Family]) -> Vec<SysctlError> {
        families
            .iter()
            .filter_map(|family| self.set(&self.root.join(forwarding_file(*family)), "1").err())
            .collect()
    }

    /// Sets what an interface of a pod needs.
    pub fn interface(&self, name: &InterfaceName, families: &[Family]) -> Vec<SysctlError> {
        parameters(name, families)
            .filter_map(|(path, value)| self.set(&self.root.join(path), value).err())
            .collect()
    }

    /// Writes only what differs: setting `forwarding` of IPv6, even to what it is, resets more.
    fn set(&self, path: &Path, value: &'static str) -> Result<(), SysctlError> {
        let failed = |source| SysctlError { path: path.to_owned(), value, source };
        if std::fs::read_to_string(path).map_err(failed)?.trim() == value {
            return Ok(());
        }
        std::fs::write(path, value).map_err(failed)?;
        self.counters.sysctl_writes.count(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let root = tempfile::tempdir().unwrap();
        let name: InterfaceName = "cali1.5".parse().unwrap();
        for (path, _) in INTERFACE_V4 {
            let path = root.path().join(path.replace("{}", "cali1.5"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "0\n").unwrap();
        }
        let counters = Counters::default();
        let sysctls = Sysctls::new(root.path().to_owned(), counters.clone());
        assert!(!sysctls.has(Family::V6));
        assert!(sysctls.interface(&name, &[Family::V4]).is_empty());
        // proxy_delay was right already.
        assert_eq!(counters.sysctl_writes.get(), 4);
        assert!(sysctls.interface(&name, &[Family::V4]).is_empty());
        assert_eq!(counters.sysctl_writes.get(), 4);
    }

    #[test]
    fn a_missing_or_read_only_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::new(root.path().to_owned(), Counters::default());
        let errors = sysctls.forwarding(&[Family::V4]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().ends_with("net/ipv4/ip_forward to 1"), "{}", errors[0]);
    }
}
