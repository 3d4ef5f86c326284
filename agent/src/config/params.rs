//! A parameter: its name, what it takes, its default. All of them are in [`PARAMS`].
//!
//! What a name *means* is in [`Settings`]; which *source* wins is decided in `resolve`.

use std::borrow::Cow;

use super::kind::Kind;
use super::settings::Settings;

mod table;

pub use self::table::PARAMS;

/// What a value that cannot be read leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBad {
    /// The next lower source is asked, in the end the default.
    NextSource,
    /// The last good value stays in force, at the start the default; lower sources are not asked.
    /// These are the parameters where Felix refuses to start: falling through to a value that
    /// nobody chose for this host could open it.
    KeepLast,
}

/// A parameter.
#[derive(Debug)]
pub struct Param {
    /// Felix's name: `DefaultEndpointToHostAction`.
    pub name: &'static str,
    /// What it takes and where that lands.
    pub kind: Kind,
    /// The default as one would write it. Empty: none.
    pub default: &'static str,
    /// What the literal `none` stands for; `None`: it is refused.
    pub none: Option<&'static str>,
    /// What a bad value leads to.
    pub on_bad: OnBad,
    /// One sentence or two for people.
    pub doc: &'static str,
}

/// A value that a parameter does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not allowed for {name}: it takes {allowed}")]
pub struct BadValue {
    /// The parameter.
    pub name: &'static str,
    /// What was written.
    pub value: String,
    /// What it takes.
    pub allowed: String,
}

impl Param {
    /// Puts `value` into `settings`. Surrounding spaces do not count; `none` in any case stands
    /// for [`Param::none`].
    ///
    /// # Errors
    /// When the parameter does not take the value; `settings` is unchanged then.
    pub fn apply(&self, value: &str, settings: &mut Settings) -> Result<(), BadValue> {
        let bad = || BadValue { name: self.name, value: value.to_owned(), allowed: self.allowed() };
        let text = value.trim();
        let text =
            if text.eq_ignore_ascii_case("none") { self.none.ok_or_else(bad)? } else { text };
        self.kind.apply(text, settings).ok_or_else(bad)
    }

    /// The values it takes, for people.
    pub fn allowed(&self) -> String {
        let mut text = self.kind.allowed();
        match self.none {
            Some("") => text.push_str(", or none"),
            Some(none) => text.push_str(&format!(", or none (= {none})")),
            None => {}
        }
        text
    }

    /// Its name in `agent.toml`: `default_endpoint_to_host_action`.
    pub fn snake_case(&self) -> String {
        snake_case(self.name)
    }

    /// The parameter of this name, in any case, with or without underscores.
    pub fn find(name: &str) -> Option<&'static Self> {
        let wanted = folded(name);
        PARAMS.iter().find(|param| folded(param.name) == wanted)
    }
}

/// A name without what does not tell names apart: case and underscores.
pub(super) fn folded(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// `IptablesNATOutgoingInterfaceFilter` → `iptables_nat_outgoing_interface_filter`.
fn snake_case(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut snake = String::with_capacity(name.len() + 8);
    for (i, byte) in bytes.iter().enumerate() {
        let after_lower = i > 0 && !bytes[i - 1].is_ascii_uppercase();
        let before_lower = bytes.get(i + 1).is_some_and(u8::is_ascii_lowercase);
        if i > 0 && byte.is_ascii_uppercase() && (after_lower || before_lower) {
            snake.push('_');
        }
        snake.push(byte.to_ascii_lowercase().into());
    }
    snake
}

/// The name that is most like `name`, when one is close enough to be meant: at most a third of its
/// letters differ.
pub(super) fn nearest<'a>(
    name: &str,
    known: impl Iterator<Item = Cow<'a, str>>,
) -> Option<Cow<'a, str>> {
    let wanted = folded(name);
    let (distance, found) = known
        .map(|candidate| (edit_distance(&wanted, &folded(&candidate)), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= wanted.len()).then_some(found)
}

/// How many letters must be put in, taken out or changed to make `b` of `a` (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
