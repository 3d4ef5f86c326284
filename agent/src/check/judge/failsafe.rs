//! Fail-safe ports: a list of somebody's own may leave out what the agent lives on.

use calico_datastore::model::Protocol;

use crate::check::finding::{Finding, Findings, Group};
use crate::config::{Failsafe, Settings};

/// The port of BGP.
const BGP: u16 = 179;
/// The port of SSH.
const SSH: u16 = 22;

/// Says what a host endpoint would close. `etcd`: the URLs of the datastore.
pub fn judge(settings: &Settings, etcd: &[String]) -> Vec<Finding> {
    let mut out = Findings::of(Group::Configuration);
    let mut missing = |list: &[Failsafe], name: &str, what: &str, port: u16| {
        let there = list.iter().any(|one| one.protocol == Protocol::TCP && one.port == port);
        if !there {
            let said = format!("{what} (tcp:{port}) is not in it");
            let advice = "add it, or have a policy for it before a host endpoint comes into force";
            out.warn(name, said, advice);
        }
    };
    let (inbound, outbound) = (&settings.failsafe_inbound, &settings.failsafe_outbound);
    missing(inbound, "FailsafeInboundHostPorts", "SSH", SSH);
    missing(inbound, "FailsafeInboundHostPorts", "BGP", BGP);
    let mut ports: Vec<u16> = etcd.iter().filter_map(|url| port_of(url)).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        missing(outbound, "FailsafeOutboundHostPorts", "etcd", port);
    }
    out.done()
}

/// The port behind the host of a URL.
fn port_of(url: &str) -> Option<u16> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next()?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    #[test]
    fn the_default_lists_have_all_and_others_are_told_what_they_lack() {
        let etcd = ["http://192.0.2.1:2379".to_owned(), "https://[2001:db8::1]:2379/".to_owned()];
        assert!(judge(&Settings::default(), &etcd).is_empty());
        let elsewhere = ["http://etcd:4001".to_owned()];
        assert_eq!(worst(&judge(&Settings::default(), &elsewhere)), Level::Warn);
        let none = Settings {
            failsafe_inbound: vec![Failsafe::any(Protocol::UDP, SSH)],
            failsafe_outbound: Vec::new(),
            ..Settings::default()
        };
        assert_eq!(judge(&none, &etcd).len(), 3);
        assert_eq!(judge(&none, &[]).len(), 2, "without etcd");
    }
}
