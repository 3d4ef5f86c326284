//! Interfaces that look like those of pods, and who else looks after interfaces and routes.

use std::collections::BTreeSet;

use crate::check::finding::{Finding, Findings, Group};

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFacts {
    /// Interfaces of this host whose names begin as those of pods do.
    pub present: BTreeSet<String>,
    /// Those that an endpoint of this host names; `None`: the datastore could not be read.
    pub owned: Option<BTreeSet<String>>,
    /// NetworkManager runs; true: it is told to leave interfaces of pods alone.
    pub network_manager: Option<bool>,
    /// systemd-networkd runs.
    pub networkd: Option<Networkd>,
}

/// How systemd-networkd is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networkd {
    /// `.network` files that match interfaces of pods and do not leave them unmanaged.
    pub matching: Vec<String>,
    /// `ManageForeignRoutes=no`: it leaves routes of others on its interfaces.
    pub keeps_foreign_routes: bool,
}

/// Judges them.
pub fn judge(facts: &InterfaceFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Interfaces);
    match &facts.owned {
        Some(owned) => {
            let lost: Vec<&str> =
                facts.present.difference(owned).map(String::as_str).take(8).collect();
            if lost.is_empty() {
                out.ok("of pods", format!("{}, each with an endpoint", facts.present.len()));
            } else {
                out.warn(
                    "of pods",
                    format!("no endpoint in the datastore has {}: all its packets are dropped", lost.join(", ")),
                    "if the pod is gone, remove it (ip link del); if not, let the CNI plugin make it again",
                );
            }
        }
        None => {
            out.ok("of pods", format!("{}; whose they are cannot be told", facts.present.len()))
        }
    }
    match facts.network_manager {
        Some(false) => out.warn(
            "NetworkManager",
            "runs, and is not told to leave interfaces of pods alone",
            "write [keyfile] unmanaged-devices=interface-name:cali* into /etc/NetworkManager/conf.d/calico.conf",
        ),
        Some(true) => out.ok("NetworkManager", "leaves interfaces of pods alone"),
        None => {}
    }
    if let Some(networkd) = &facts.networkd {
        if !networkd.matching.is_empty() {
            out.warn(
                "systemd-networkd",
                format!("{} matches interfaces of pods", networkd.matching.join(", ")),
                "narrow its [Match], or write a file that comes before it with Name=cali* and Unmanaged=yes",
            );
        }
        if !networkd.keeps_foreign_routes {
            out.warn(
                "systemd-networkd",
                "removes routes that are not its own from its interfaces when it starts again: those that BIRD has learnt",
                "set ManageForeignRoutes=no in /etc/systemd/networkd.conf.d/calico.conf",
            );
        }
        if networkd.matching.is_empty() && networkd.keeps_foreign_routes {
            out.ok("systemd-networkd", "leaves interfaces of pods and routes of others alone");
        }
    }
    out.done()
}

/// True when a pattern of a `[Match]` section (`Name=`) matches interfaces with that prefix. Only
/// what it says about the beginning counts: `*`, `c*`, `cali*`, `cali0b61d5d2-77`.
pub fn pattern_matches(pattern: &str, prefix: &str) -> bool {
    let (head, star) = match pattern.split_once(['*', '?', '[']) {
        Some((head, _)) => (head, true),
        None => (pattern, false),
    };
    head.starts_with(prefix) || (star && prefix.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_interface_without_an_endpoint() {
        let facts = InterfaceFacts {
            present: names(&["cali1", "cali2"]),
            owned: Some(names(&["cali1", "cali2", "cali3"])),
            ..Default::default()
        };
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        let lost = InterfaceFacts { owned: Some(names(&["cali1"])), ..facts.clone() };
        let found = judge(&lost);
        assert_eq!(worst(&found), Level::Warn);
        assert!(found[0].finding.contains("cali2") && !found[0].finding.contains("cali1"));
        assert_eq!(worst(&judge(&InterfaceFacts { owned: None, ..facts })), Level::Ok);
    }

    #[test]
    fn managers() {
        let with = |network_manager, networkd| {
            worst(&judge(&InterfaceFacts { network_manager, networkd, ..Default::default() }))
        };
        assert_eq!(with(Some(true), None), Level::Ok);
        assert_eq!(with(Some(false), None), Level::Warn);
        let good = Networkd { matching: vec![], keeps_foreign_routes: true };
        assert_eq!(with(None, Some(good.clone())), Level::Ok);
        assert_eq!(with(None, Some(Networkd::default())), Level::Warn);
        let matching = Networkd { matching: vec!["all.network".into()], ..good };
        assert_eq!(with(None, Some(matching)), Level::Warn);
    }

    #[test]
    fn patterns() {
        for (pattern, matches) in [
            ("*", true),
            ("c*", true),
            ("cali*", true),
            ("cali12", true),
            ("eth*", false),
            ("cal", false),
            ("en*", false),
            ("?ali*", true),
        ] {
            assert_eq!(pattern_matches(pattern, "cali"), matches, "{pattern}");
        }
    }
}
