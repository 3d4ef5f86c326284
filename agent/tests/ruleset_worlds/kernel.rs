//! The rules of iptables: rendered as text, read by the interpreter.

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_agent::felix::rendered::{Rendered, rendered};
use calico_agent::reconcile::World;
use calico_datastore::model::Family;
pub(crate) use calico_ruleset::{Outcome, Ruleset};

use crate::subject::place;

/// What the trace of a packet to a pod, and from one, says when policy was asked.
pub(crate) const ASKED: [&str; 2] = [" cali-to-wl-dispatch ", " cali-from-wl-dispatch "];

/// A rule of others that translates a destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Not only of what the host itself sends.
    pub(crate) everywhere: bool,
}

/// What was made of a world: texts, and the same read.
pub(crate) struct Made {
    /// Of IPv4 and of IPv6.
    pub(crate) texts: [Rendered; 2],
    rulesets: [Ruleset; 2],
}

fn of(family: Family) -> calico_ruleset::Family {
    match family {
        Family::V4 => calico_ruleset::Family::V4,
        Family::V6 => calico_ruleset::Family::V6,
    }
}

/// Reads a text; an error names the rule.
pub(crate) fn read(family: Family, text: &Rendered) -> Result<Ruleset, String> {
    Ruleset::parse(of(family), &text.tables, &text.sets).map_err(|error| {
        let source = std::error::Error::source(&error);
        format!("{error} {}", source.map(ToString::to_string).unwrap_or_default())
    })
}

impl Made {
    pub(crate) fn new(world: &World) -> Self {
        let texts = Family::ALL.map(|family| rendered(world, family).unwrap());
        let rulesets = Family::ALL.map(|family| {
            let text = &texts[place(family)];
            read(family, text).unwrap_or_else(|error| panic!("{error}\n{}", text.tables))
        });
        Self { texts, rulesets }
    }

    pub(crate) fn rules(&self) -> usize {
        self.rulesets.iter().map(Ruleset::len).sum()
    }

    pub(crate) fn ruleset(&self, family: Family) -> &Ruleset {
        &self.rulesets[place(family)]
    }

    /// The text of a family, with rules of others that translate behind ours.
    pub(crate) fn text_among(&self, family: Family, others: &[Translation]) -> Rendered {
        let mut text = self.texts[place(family)].clone();
        text.tables += "*nat\n";
        for Translation { from, to, everywhere } in others {
            let chains: &[&str] = if *everywhere { &["PREROUTING", "OUTPUT"] } else { &["OUTPUT"] };
            for chain in chains {
                let line = format!("--destination {from} --jump DNAT --to-destination {to}");
                writeln!(text.tables, "-A {chain} {line}").unwrap();
            }
        }
        text.tables += "COMMIT\n";
        text
    }

    /// The same, read.
    pub(crate) fn among(&self, family: Family, others: &[Translation]) -> Ruleset {
        let text = self.text_among(family, others);
        read(family, &text).unwrap_or_else(|error| panic!("{error}\n{}", text.tables))
    }
}
