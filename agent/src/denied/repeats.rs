//! Equal packets are told once and then counted. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::document::Denied;

/// How long equal packets are counted before they are told again.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// How many kinds are counted at a time, of all endpoints together.
const ROOM: usize = 1_000;

/// How many kinds are told of what one policy denies one endpoint in a window; the rest is counted. A
/// pod that scans others must not hide what is denied to them, nor what else is denied to it.
const LINES: u32 = 20;

/// What makes packets equal: all but the time, the source port of who opened the connection, and
/// how many they are.
fn kind(denied: &Denied) -> Denied {
    Denied { time: String::new(), source_port: None, packets: 0, ..denied.clone() }
}

/// An endpoint with its interface, a direction, and what denied it.
type Whose = (Option<String>, Option<String>, String, String);

fn whose(denied: &Denied) -> Whose {
    let Denied { endpoint, interface, direction, by, .. } = denied.clone();
    (endpoint, interface, direction, by)
}

/// Of one of them.
#[derive(Debug, Default)]
struct Told {
    lines: u32,
    /// The last packet that was not told and is of no kind that was, with how many there were.
    untold: Option<Denied>,
}

/// What was seen in the present window.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    begin: Option<Instant>,
    /// The last of each kind, with how many came after the one that was told.
    seen: HashMap<Denied, Denied>,
    told: HashMap<Whose, Told>,
    lost: bool,
    untold: u64,
}

/// What is told at the end of a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Kinds of which more came than the one that was told, and what was not told of an endpoint.
    pub(super) again: Vec<Denied>,
    /// Packets of which not even that can be told: there were too many endpoints.
    pub(super) untold: u64,
    /// The kernel dropped reports.
    pub(super) lost: bool,
}

impl Repeats {
    /// Takes a packet; true when it is to be told now.
    pub(super) fn take(&mut self, now: Instant, denied: &Denied) -> bool {
        self.begin.get_or_insert(now);
        let kind = kind(denied);
        if let Some(last) = self.seen.get_mut(&kind) {
            let packets = last.packets + denied.packets;
            *last = Denied { packets, ..denied.clone() };
            return false;
        }
        let whose = whose(denied);
        if self.told.len() >= ROOM && !self.told.contains_key(&whose) {
            self.untold += denied.packets;
            return false;
        }
        let told = self.told.entry(whose).or_default();
        if self.seen.len() < ROOM && told.lines < LINES {
            told.lines += 1;
            self.seen.insert(kind, Denied { packets: 0, ..denied.clone() });
            return true;
        }
        let before = told.untold.as_ref().map_or(0, |last| last.packets + last.others);
        told.untold = Some(Denied { others: before, ..denied.clone() });
        false
    }

    /// The kernel dropped reports.
    pub(super) fn lost(&mut self, now: Instant) {
        self.begin.get_or_insert(now);
        self.lost = true;
    }

    /// When the window ends.
    pub(super) fn due(&self) -> Option<Instant> {
        self.begin.map(|begin| begin + WINDOW)
    }

    /// Ends the window.
    pub(super) fn end(&mut self) -> Summary {
        let Self { seen, told, lost, untold, .. } = std::mem::take(self);
        let equal = seen.into_values().filter(|denied| denied.packets > 0);
        let mut again: Vec<Denied> =
            equal.chain(told.into_values().filter_map(|told| told.untold)).collect();
        again.sort_by(|a, b| (&a.time, &a.by, a.packets).cmp(&(&b.time, &b.by, b.packets)));
        Summary { again, untold, lost }
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
            others: 0,
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
    fn a_scan_is_told_in_part_and_hides_nobody_else() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let told = (1..=60_000).filter(|port| repeats.take(now, &denied(9, *port))).count();
        assert_eq!(told, LINES as usize);
        let other = Denied { endpoint: Some("rkt/db/eth0".to_owned()), ..denied(8, 80) };
        assert!(repeats.take(now, &other), "another endpoint");
        assert!(repeats.take(now, &Denied { direction: "egress".to_owned(), ..denied(8, 80) }));
        assert!(repeats.take(now, &Denied { by: "policy web".to_owned(), ..denied(8, 80) }));
        let summary = repeats.end();
        assert_eq!(summary.untold, 0);
        let others = 60_000 - u64::from(LINES) - 1;
        assert_eq!(summary.again, [Denied { others, ..denied(9, 60_000) }]);
    }

    #[test]
    fn endpoints_without_number_take_no_room_without_end() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let of = |n: u32| Denied { endpoint: Some(format!("rkt/{n}/eth0")), ..denied(1, 80) };
        let told = (0..5_000).filter(|n| repeats.take(now, &of(*n))).count();
        assert_eq!(told, ROOM);
        assert_eq!(repeats.end().untold, 4_000);
    }

    #[test]
    fn what_the_kernel_dropped_is_told_once_a_window() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        repeats.lost(now);
        repeats.lost(now);
        assert_eq!(repeats.due(), Some(now + WINDOW));
        assert!(repeats.end().lost);
        assert_eq!(repeats.end(), Summary::default());
    }
}
