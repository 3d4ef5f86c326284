//! Equal packets are told once and then counted. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::document::Denied;

/// How long equal packets are counted before they are told again.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// How many different ones are counted at a time. A port scan has more: those are told by number.
const ROOM: usize = 1_000;

/// How many lines are told in a window; the rest is counted.
const LINES: u32 = 100;

/// What makes packets equal: all but the time, the source port of who opened the connection, and
/// how many they are.
type Key = Denied;

fn key(denied: &Denied) -> Key {
    Denied { time: String::new(), source_port: None, packets: 0, ..denied.clone() }
}

/// What was seen in the present window.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    begin: Option<Instant>,
    /// The last of each kind, with how many came after the one that was told.
    seen: HashMap<Key, Denied>,
    lines: u32,
    untold: u64,
}

/// What is told at the end of a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Kinds of which more came than the one that was told.
    pub(super) again: Vec<Denied>,
    /// Packets of which nothing was told.
    pub(super) untold: u64,
}

impl Repeats {
    /// Takes a packet; true when it is to be told now.
    pub(super) fn take(&mut self, now: Instant, denied: &Denied) -> bool {
        self.begin.get_or_insert(now);
        let key = key(denied);
        if let Some(last) = self.seen.get_mut(&key) {
            let packets = last.packets + denied.packets;
            *last = Denied { packets, ..denied.clone() };
            return false;
        }
        if self.seen.len() >= ROOM || self.lines >= LINES {
            self.untold += denied.packets;
            return false;
        }
        self.lines += 1;
        self.seen.insert(key, Denied { packets: 0, ..denied.clone() });
        true
    }

    /// When the window ends.
    pub(super) fn due(&self) -> Option<Instant> {
        self.begin.map(|begin| begin + WINDOW)
    }

    /// Ends the window.
    pub(super) fn end(&mut self) -> Summary {
        let mut again: Vec<Denied> = std::mem::take(&mut self.seen)
            .into_values()
            .filter(|denied| denied.packets > 0)
            .collect();
        again.sort_by(|a, b| (&a.time, &a.by, a.packets).cmp(&(&b.time, &b.by, b.packets)));
        let untold = std::mem::take(&mut self.untold);
        (self.begin, self.lines) = (None, 0);
        Summary { again, untold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(source_port: u16, destination_port: u16) -> Denied {
        Denied {
            time: format!("t{source_port}"),
            direction: "ingress".to_owned(),
            endpoint: Some("rkt/web/eth0".to_owned()),
            interface: Some("cali1".to_owned()),
            tier: None,
            policy: None,
            profile: None,
            by: "nothing allows it".to_owned(),
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: "tcp".to_owned(),
            source_port: Some(source_port),
            destination_port: Some(destination_port),
            icmp: None,
            packets: 1,
        }
    }

    #[test]
    fn the_first_is_told_and_the_others_are_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert_eq!(repeats.due(), None);
        assert!(repeats.take(now, &denied(1, 80)));
        assert!(!repeats.take(now, &denied(2, 80)), "another connection to the same port");
        assert!(repeats.take(now, &denied(3, 81)));
        assert!(!repeats.take(now, &denied(4, 80)));
        assert_eq!(repeats.due(), Some(now + WINDOW));
        let summary = repeats.end();
        assert_eq!(summary.untold, 0);
        assert_eq!(summary.again, [Denied { packets: 2, ..denied(4, 80) }]);
        // A new window.
        assert_eq!(repeats.due(), None);
        assert!(repeats.take(now, &denied(5, 80)));
        assert_eq!(repeats.end(), Summary::default());
    }

    #[test]
    fn a_scan_is_told_in_part_and_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let told = (1..=60_000).filter(|port| repeats.take(now, &denied(9, *port))).count();
        assert_eq!(told, LINES as usize);
        assert_eq!(repeats.end(), Summary { again: Vec::new(), untold: 60_000 - told as u64 });
    }
}
