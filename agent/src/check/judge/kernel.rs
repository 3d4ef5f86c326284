//! What the kernel can do: what our own rules, sets, routes and parameters need, and what became of
//! trying it.

use crate::check::finding::{Finding, Findings, Group};

/// How it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Written in a network namespace that existed for that only: the kernel is the same.
    Namespace,
    /// Not written: there is no right to make a namespace. The tools were asked whether they would.
    Dry(String),
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Works,
    /// It does not, and what was said.
    Refused(String),
    /// It could not be tried.
    NotTried,
}

/// How much depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it.
    Always,
    /// What does not work without it.
    For(&'static str),
}

/// One thing that the agent does to a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Where: `IPv4 table filter`, `IPv6 address sets`, `routes`.
    pub area: String,
    /// What: `conntrack`, `hash:net,iface`.
    pub what: String,
    /// How much depends on it.
    pub need: Need,
    /// What became of it.
    pub outcome: Outcome,
}

/// Everything that was tried.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    /// How.
    pub trial: Trial,
    /// What.
    pub tried: Vec<Tried>,
}

/// Judges the kernel: one line for all that works in an area, one for each thing that does not.
pub fn judge(facts: &KernelFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Kernel);
    let how = match &facts.trial {
        Trial::Namespace => "",
        Trial::Dry(_) => " (asked, not written)",
    };
    let mut areas: Vec<&str> = Vec::new();
    for tried in &facts.tried {
        if !areas.contains(&tried.area.as_str()) {
            areas.push(&tried.area);
        }
    }
    let mut untried = Vec::new();
    for area in areas {
        let here = || facts.tried.iter().filter(move |tried| tried.area == area);
        let names = |wanted: fn(&Outcome) -> bool| {
            let names: Vec<&str> = here()
                .filter(|tried| wanted(&tried.outcome))
                .map(|tried| tried.what.as_str())
                .collect();
            names.join(", ")
        };
        for tried in here() {
            let Outcome::Refused(said) = &tried.outcome else { continue };
            let what = format!("{area}: {}", tried.what);
            match tried.need {
                Need::Always => out.fail(
                    what,
                    format!("does not work: {said}"),
                    "boot a kernel that has it, or load its module (modules-load.d): policy cannot be enforced without it",
                ),
                Need::For(use_) => out.warn(
                    what,
                    format!("does not work: {said}"),
                    format!("boot a kernel that has it, or load its module (modules-load.d): {use_} needs it"),
                ),
            }
        }
        let works = names(|outcome| *outcome == Outcome::Works);
        if !works.is_empty() {
            out.ok(area, format!("{works}{how}"));
        }
        if here().any(|tried| tried.outcome == Outcome::NotTried) {
            untried.push(area);
        }
    }
    if let Trial::Dry(why) = &facts.trial
        && !untried.is_empty()
    {
        out.warn(
            "not tried",
            format!("{} (no namespace to try them in: {why})", untried.join(", ")),
            "run `calico-agent check` as root, outside of the unit, to have them tried",
        );
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    fn tried(area: &str, what: &str, need: Need, outcome: Outcome) -> Tried {
        Tried { area: area.into(), what: what.into(), need, outcome }
    }

    fn lines(facts: &KernelFacts) -> Vec<(Level, String)> {
        let short = |f: Finding| (f.level, format!("{}: {}", f.what, f.finding));
        judge(facts).into_iter().map(short).collect()
    }

    #[test]
    fn what_works_is_one_line_an_area_and_what_does_not_one_each() {
        let no = || Outcome::Refused("no such match".into());
        let facts = KernelFacts {
            trial: Trial::Namespace,
            tried: vec![
                tried("a", "set", Need::Always, Outcome::Works),
                tried("a", "mark", Need::Always, Outcome::Works),
                tried("b", "set", Need::Always, no()),
                tried("b", "LOG", Need::For("logging"), no()),
            ],
        };
        assert_eq!(
            lines(&facts),
            [
                (Level::Ok, "a: set, mark".to_owned()),
                (Level::Fail, "b: set: does not work: no such match".to_owned()),
                (Level::Warn, "b: LOG: does not work: no such match".to_owned()),
            ]
        );
    }

    #[test]
    fn what_could_not_be_tried_is_said_once() {
        let facts = KernelFacts {
            trial: Trial::Dry("not permitted".into()),
            tried: vec![
                tried("a", "set", Need::Always, Outcome::Works),
                tried("b", "x", Need::Always, Outcome::NotTried),
                tried("b", "y", Need::Always, Outcome::NotTried),
                tried("c", "z", Need::Always, Outcome::NotTried),
            ],
        };
        assert_eq!(
            lines(&facts),
            [
                (Level::Ok, "a: set (asked, not written)".to_owned()),
                (
                    Level::Warn,
                    "not tried: b, c (no namespace to try them in: not permitted)".to_owned()
                ),
            ]
        );
    }
}
