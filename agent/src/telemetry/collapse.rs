//! A line that says again what the last one about the same thing said is left out, and counted. Pure.
//!
//! "The same thing" is what a line's fields name (an endpoint, a chain), not only the line before: two
//! tables that are refused in turn are collapsed too, and an endpoint that goes up and down is not.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// How long the same is left out; then it is said once more, with how often it was left out.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// How many things are remembered; then all are forgotten, which costs some lines too many.
const ROOM: usize = 1024;

/// Fields that tell how it is about something, not what it is about.
const HOW: [&str; 4] = ["reason", "error", "generation", "count"];

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Say it; of the same as many were left out before.
    Say(u64),
    /// Leave it out.
    Leave,
}

#[derive(Debug)]
struct Last {
    text: u64,
    said: Instant,
    left_out: u64,
}

/// What was said last about each thing.
#[derive(Debug, Default)]
pub(super) struct Collapse {
    last: HashMap<u64, Last>,
}

impl Collapse {
    /// Asks for a line: where it comes from, its whole text, and its fields.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        target: &str,
        text: &str,
        fields: &[(&'static str, String)],
    ) -> Line {
        let about = fields.iter().filter(|(name, _)| !HOW.contains(name));
        let thing = hash((target, about.collect::<Vec<_>>()));
        let text = hash(text);
        if self.last.len() >= ROOM && !self.last.contains_key(&thing) {
            self.last.clear();
        }
        let last = self.last.entry(thing).or_insert(Last { text: !text, said: now, left_out: 0 });
        let same = last.text == text;
        if same && now.saturating_duration_since(last.said) < WINDOW {
            last.left_out += 1;
            return Line::Leave;
        }
        let left_out = if same { last.left_out } else { 0 };
        *last = Last { text, said: now, left_out: 0 };
        Line::Say(left_out)
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: &str) -> Vec<(&'static str, String)> {
        vec![("endpoint", endpoint.to_owned()), ("reason", "x".to_owned())]
    }

    #[test]
    fn the_same_about_one_thing_is_said_once_in_a_window() {
        let (mut collapse, start) = (Collapse::default(), Instant::now());
        let mut ask = |seconds, text: &str, endpoint| {
            collapse.ask(start + Duration::from_secs(seconds), "t", text, &of(endpoint))
        };
        assert_eq!(ask(0, "down", "a"), Line::Say(0));
        assert_eq!(ask(1, "down", "a"), Line::Leave);
        // Another thing, though it says the same, and between the two.
        assert_eq!(ask(1, "down", "b"), Line::Say(0));
        assert_eq!(ask(59, "down", "a"), Line::Leave);
        assert_eq!(ask(60, "down", "a"), Line::Say(2));
        assert_eq!(ask(61, "down", "a"), Line::Leave);
    }

    #[test]
    fn what_goes_to_and_fro_is_said_each_time() {
        let (mut collapse, now) = (Collapse::default(), Instant::now());
        for _ in 0..3 {
            for text in ["up", "down"] {
                assert_eq!(collapse.ask(now, "t", text, &of("a")), Line::Say(0), "{text}");
            }
        }
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let (mut collapse, now) = (Collapse::default(), Instant::now());
        for number in 0..3 * ROOM {
            assert_eq!(collapse.ask(now, "t", "up", &of(&number.to_string())), Line::Say(0));
            assert!(collapse.last.len() <= ROOM);
        }
        let newest = (3 * ROOM - 1).to_string();
        assert_eq!(collapse.ask(now, "t", "up", &of(&newest)), Line::Leave);
    }
}
