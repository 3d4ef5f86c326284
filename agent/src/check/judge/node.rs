//! Who this host is.

use std::net::IpAddr;

use calico_datastore::model::Name;

use crate::check::finding::{Finding, Findings, Group};
use crate::node::name::NameSource;

/// Its name.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// What the agent would call it, or why it could not.
    pub name: Result<(Name, NameSource), String>,
    /// What an earlier run called it.
    pub kept: Option<String>,
}

/// Judges the name.
pub fn judge(facts: &NodeFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Node);
    let (name, from) = match &facts.name {
        Ok(found) => found,
        Err(error) => {
            out.fail("name", error, "set NODENAME in /etc/calico/calico.env");
            return out.done();
        }
    };
    let kept = facts.kept.as_deref().map(str::trim).filter(|kept| !kept.is_empty());
    if name.as_str() == "localhost" || name.as_str().starts_with("localhost.") {
        out.fail(
            "name",
            format!("{name} (from {from}): every host without a name of its own is called that, and two of them take each other's endpoints and routes"),
            "give the host a name (hostnamectl set-hostname), or set NODENAME; remove the nodename file of an earlier run",
        );
    } else if let Some(kept) = kept.filter(|kept| *kept != name.as_str()) {
        out.warn(
            "name",
            format!("{name} (from {from}), but it was {kept} before: endpoints stored under that name are no longer this host's"),
            "set NODENAME to the old name, or move the endpoints",
        );
    } else if *from == NameSource::System {
        out.warn(
            "name",
            format!("{name} (from {from}): it changes when the host gets another one"),
            "set NODENAME to be sure of it",
        );
    } else {
        out.ok("name", format!("{name} (from {from})"));
    }
    out.done()
}

/// Judges the addresses that were given for this host (`IP`, `IP6`). `present`: those of its
/// interfaces; `None`: they could not be read.
pub fn judge_addresses(
    given: &[(&'static str, IpAddr)],
    present: Option<&[IpAddr]>,
) -> Vec<Finding> {
    let mut out = Findings::of(Group::Node);
    let Some(present) = present else { return out.done() };
    for (variable, address) in given {
        if present.contains(address) {
            out.ok("address", format!("{address}"));
            continue;
        }
        out.warn(
            "address",
            format!("{variable}={address}, but no interface of this host has it: other hosts do not reach its pods"),
            format!("set {variable} to an address of this host, or give it to an interface"),
        );
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    #[test]
    fn an_address_that_no_interface_has() {
        let [here, elsewhere] = ["172.18.18.101", "172.18.18.102"].map(|ip| ip.parse().unwrap());
        let levels = |given: &[(&'static str, IpAddr)], present: Option<&[IpAddr]>| {
            judge_addresses(given, present).into_iter().map(|f| f.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[("IP", here)], Some(&[here])), [Level::Ok]);
        assert_eq!(levels(&[("IP", elsewhere)], Some(&[here])), [Level::Warn]);
        assert_eq!(levels(&[("IP", elsewhere)], None), []);
        assert_eq!(levels(&[], Some(&[here])), []);
        let found = judge_addresses(&[("IP6", elsewhere)], Some(&[]));
        assert!(found[0].finding.starts_with("IP6=172.18.18.102, but no interface"));
    }

    #[test]
    fn names() {
        for (name, from, kept, level) in [
            ("calico-01", NameSource::Configured, None, Level::Ok),
            ("calico-01", NameSource::File, Some("calico-01\n"), Level::Ok),
            ("calico-01", NameSource::Configured, Some("other"), Level::Warn),
            ("calico-01", NameSource::System, None, Level::Warn),
            ("localhost", NameSource::Configured, None, Level::Fail),
            ("localhost.localdomain", NameSource::File, Some("localhost.localdomain"), Level::Fail),
            ("localhost-1", NameSource::Variable, None, Level::Ok),
        ] {
            let name = Ok((Name::from(name), from));
            let facts = NodeFacts { name, kept: kept.map(str::to_owned) };
            let found = judge(&facts);
            assert_eq!((found.len(), found[0].level), (1, level), "{facts:?}");
        }
        let facts = NodeFacts { name: Err("bad".into()), kept: None };
        assert_eq!(judge(&facts)[0].level, Level::Fail);
    }
}
