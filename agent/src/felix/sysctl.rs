//! Kernel parameters: forwarding, and what makes a host answer for its pods.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

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

/// A parameter that was not as it should be, and has been set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// As sysctl(8) names it: `net.ipv4.conf.cali1/5.rp_filter` for the interface `cali1.5`.
    pub name: String,
    /// What it was.
    pub was: String,
    /// What it is now.
    pub value: &'static str,
}

/// What became of some parameters.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Those that had to be set.
    pub corrected: Vec<Corrected>,
    /// Those that could not be.
    pub errors: Vec<SysctlError>,
}

impl Outcome {
    fn add(&mut self, result: Result<Option<Corrected>, SysctlError>) {
        match result {
            Ok(corrected) => self.corrected.extend(corrected),
            Err(error) => self.errors.push(error),
        }
    }
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
    // but the kernel takes the larger of this and conf/all. See `LENIENT`.
    (RP_FILTER, "1"),
];

const RP_FILTER: &str = "net/ipv4/conf/{}/rp_filter";
/// What it is where an endpoint may use addresses that no route leads back to.
const LENIENT: &str = "0";

const INTERFACE_V6: [(&str, &str); 3] = [
    // A pod is no router.
    ("net/ipv6/conf/{}/accept_ra", "0"),
    ("net/ipv6/conf/{}/proxy_ndp", "1"),
    ("net/ipv6/conf/{}/forwarding", "1"),
];

/// Those whose changes the kernel tells of (`inet_netconf_notify_devconf`, `inet6_netconf_notify_devconf`).
const TOLD: [&str; 5] = [
    "net/ipv4/conf/{}/proxy_arp",
    "net/ipv4/conf/{}/forwarding",
    RP_FILTER,
    "net/ipv6/conf/{}/proxy_ndp",
    "net/ipv6/conf/{}/forwarding",
];

/// Which parameters of an interface are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that change without the kernel telling anybody.
    Silent,
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
    /// (name, lenient) would have it: file, value, value that it should have. Writes nothing; what cannot be read is
    /// left out.
    pub fn pending(
        &self,
        interfaces: &BTreeMap<InterfaceName, bool>,
        families: &[Family],
        switch_on: bool,
    ) -> Vec<(PathBuf, String, &'static str)> {
        let global =
            families.iter().filter(|_| switch_on).map(|f| (forwarding(*f).to_owned(), "1"));
        let each = interfaces.iter().flat_map(|(name, lenient)| {
            of_interface(families, *lenient)
                .map(|(path, value)| (path.replace("{}", name.as_str()), value))
        });
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
    pub fn forwarding(&self, families: &[Family]) -> Outcome {
        let mut outcome = Outcome::default();
        for family in families {
            outcome.add(self.set(forwarding(*family), "1"));
        }
        outcome
    }

    /// Sets what an interface of a pod needs. `lenient`: routes say nothing about what it may send.
    pub fn interface(&self, name: &InterfaceName, families: &[Family], lenient: bool) -> Outcome {
        let mut outcome = Outcome::default();
        for (path, value) in of_interface(families, lenient) {
            outcome.add(self.set(&path.replace("{}", name.as_str()), value));
        }
        outcome
    }

    /// True when the kernel checks sources against routes whatever an interface says.
    pub fn is_strict_everywhere(&self) -> bool {
        let path = self.root.join(RP_FILTER.replace("{}", "all"));
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    }

    /// True when forwarding was switched off.
    pub fn forwarding_differs(&self, families: &[Family]) -> bool {
        families.iter().any(|family| self.differs(forwarding(*family), "1"))
    }

    /// True when one of an interface's parameters is there and another than it should be.
    pub fn interface_differs(
        &self,
        name: &InterfaceName,
        families: &[Family],
        lenient: bool,
        which: Which,
    ) -> bool {
        let all = of_interface(families, lenient);
        let mut asked = all.filter(|(path, _)| which == Which::All || !TOLD.contains(path));
        asked.any(|(path, value)| self.differs(&path.replace("{}", name.as_str()), value))
    }

    /// What cannot be read is not different: the interface is gone. Asked thousands of times a minute, so
    /// the file is read in one piece: it is a number.
    fn differs(&self, path: &str, value: &str) -> bool {
        let mut text = [0; 32];
        let read = File::open(self.root.join(path)).and_then(|mut file| file.read(&mut text));
        read.is_ok_and(|length| {
            text.get(..length).is_some_and(|text| text.trim_ascii() != value.as_bytes())
        })
    }

    /// Writes only what differs: setting `forwarding` of IPv6, even to what it is, resets more.
    fn set(&self, below: &str, value: &'static str) -> Result<Option<Corrected>, SysctlError> {
        let path = self.root.join(below);
        let failed = |source| SysctlError { path: path.clone(), value, source };
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let was = text.trim();
        if was == value {
            return Ok(None);
        }
        std::fs::write(&path, value).map_err(failed)?;
        self.counters.sysctl_writes.count(1);
        Ok(Some(Corrected { name: dotted(below), was: was.to_owned(), value }))
    }
}

/// The file that switches forwarding of a family.
fn forwarding(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

fn of_interface(
    families: &[Family],
    lenient: bool,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lists: [(Family, &[(&str, &'static str)]); 2] =
        [(Family::V4, &INTERFACE_V4), (Family::V6, &INTERFACE_V6)];
    let lists = lists.into_iter().filter(|(family, _)| families.contains(family));
    let all = lists.flat_map(|(_, list)| list.iter().copied());
    all.map(move |(path, value)| (path, if lenient && path == RP_FILTER { LENIENT } else { value }))
}

/// A path as sysctl(8) writes it: dots between the parts, a slash for a dot inside one.
fn dotted(path: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    path.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_need_not_be_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let name: InterfaceName = "cali1".parse().unwrap();
        let both = Family::ALL;
        for (path, value) in of_interface(&both, false) {
            let path = root.path().join(path.replace("{}", "cali1"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        let sysctls = Sysctls::new(root.path().to_owned(), Counters::default());
        let differs = |which| sysctls.interface_differs(&name, &both, false, which);
        assert!(!differs(Which::All) && !differs(Which::Silent));
        for (path, value) in of_interface(&both, false) {
            let file = root.path().join(path.replace("{}", "cali1"));
            std::fs::write(&file, "7\n").unwrap();
            assert!(differs(Which::All), "{path}");
            assert_eq!(differs(Which::Silent), !TOLD.contains(&path), "{path}");
            std::fs::write(&file, value).unwrap();
        }
    }

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
        assert!(sysctls.interface_differs(&name, &[Family::V4], false, Which::All));
        let outcome = sysctls.interface(&name, &[Family::V4], false);
        assert!(outcome.errors.is_empty());
        // proxy_delay was right already.
        assert_eq!(counters.sysctl_writes.get(), 4);
        let last = &outcome.corrected[3];
        assert_eq!(last.name, "net.ipv4.conf.cali1/5.rp_filter");
        assert_eq!((last.was.as_str(), last.value), ("0", "1"));
        assert!(!sysctls.interface_differs(&name, &[Family::V4], false, Which::All));
        let outcome = sysctls.interface(&name, &[Family::V4], false);
        assert!(outcome.errors.is_empty() && outcome.corrected.is_empty());
        assert_eq!(counters.sysctl_writes.get(), 4);

        // One that may spoof differs in one value.
        assert!(sysctls.interface_differs(&name, &[Family::V4], true, Which::All));
        let pending = sysctls.pending(&[(name.clone(), true)].into(), &[Family::V4], false);
        let path = root.path().join("net/ipv4/conf/cali1.5/rp_filter");
        assert_eq!(pending, [(path, "1".to_owned(), "0")]);
        let outcome = sysctls.interface(&name, &[Family::V4], true);
        assert_eq!((outcome.corrected.len(), outcome.errors.len()), (1, 0));
        assert!(!sysctls.interface_differs(&name, &[Family::V4], true, Which::All));
    }

    #[test]
    fn a_missing_or_read_only_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::new(root.path().to_owned(), Counters::default());
        // Nobody changed what is not there.
        assert!(!sysctls.forwarding_differs(&[Family::V4]));
        let errors = sysctls.forwarding(&[Family::V4]).errors;
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().ends_with("net/ipv4/ip_forward to 1"), "{}", errors[0]);
    }
}
