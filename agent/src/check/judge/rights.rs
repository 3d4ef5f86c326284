//! What this process may do.

use crate::check::finding::{Finding, Findings, Group};

/// Whether something can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    Yes,
    /// It is not there, and can be made.
    CanBeMade,
    /// It cannot, and why.
    No(String),
}

/// Something that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is to us.
    pub what: &'static str,
    /// Where it is.
    pub path: String,
    /// Whether it can be used as we must.
    pub access: Access,
}

/// What this process may do.
#[derive(Clone, Debug, Default)]
pub struct RightsFacts {
    /// Effective capabilities, as far as they could be read (`CapEff` of proc(5)).
    pub capabilities: Option<u64>,
    /// Directories and files.
    pub places: Vec<Place>,
}

/// Rules, sets, routes, sysctls: bit and name (capabilities(7)).
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
/// The raw socket of legacy iptables.
const NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");

impl RightsFacts {
    /// True when the kernel lets us change rules and routes, or when nobody knows.
    pub fn may_administer(&self) -> bool {
        self.has(NET_ADMIN.0)
    }

    fn has(&self, bit: u32) -> bool {
        self.capabilities.is_none_or(|bits| bits & (1 << bit) != 0)
    }
}

/// Judges rights.
pub fn judge(facts: &RightsFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Rights);
    for (bit, name) in [NET_ADMIN, NET_RAW] {
        if facts.has(bit) {
            out.ok(name, "here");
        } else {
            out.fail(name, "missing", "run as root, or as the unit calico-agent.service does");
        }
    }
    for place in &facts.places {
        match &place.access {
            Access::Yes => out.ok(place.what, format!("{} can be used", place.path)),
            Access::CanBeMade => out.ok(place.what, format!("{} can be made", place.path)),
            Access::No(why) => out.fail(
                place.what,
                format!("{} cannot be used: {why}", place.path),
                "run as root; in a unit of your own name it in ReadWritePaths=",
            ),
        }
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    #[test]
    fn capabilities_and_places() {
        let levels = |facts: &RightsFacts| -> Vec<Level> {
            judge(facts).into_iter().map(|finding| finding.level).collect()
        };
        use Level::{Fail, Ok};
        for (capabilities, expected) in [
            (Some(u64::MAX), [Ok, Ok]),
            (None, [Ok, Ok]),
            (Some(1 << 12), [Ok, Fail]),
            (Some(1 << 13), [Fail, Ok]),
            (Some(0), [Fail, Fail]),
        ] {
            let facts = RightsFacts { capabilities, places: vec![] };
            assert_eq!(levels(&facts), expected, "{capabilities:?}");
            assert_eq!(facts.may_administer(), expected[0] == Ok);
        }
        let place = |access| Place { what: "state directory", path: "/x".into(), access };
        let places =
            vec![place(Access::Yes), place(Access::CanBeMade), place(Access::No("no".into()))];
        let facts = RightsFacts { capabilities: None, places };
        assert_eq!(levels(&facts)[2..], [Ok, Ok, Fail]);
    }
}
