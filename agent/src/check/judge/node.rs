//! Who this host is.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

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
