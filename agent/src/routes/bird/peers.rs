//! Says in the journal when a BGP session comes or goes: BIRD's own journal does so only where its
//! log asks for it, and never with a field by which one peer is found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::control::{BgpSession, sessions};
use crate::telemetry::event;

/// How often BIRD is asked. A session that went and came between two questions is up since another time.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many questions in a row a new session may have been down before that is said: it takes a few
/// seconds to come.
const PATIENCE: u32 = 3;
/// BIRD makes the time of day of a span of time when it is asked, which is never quite the same.
const SAME: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Asks forever. What cannot be asked is not told here: `status` says that BIRD does not answer.
pub async fn follow(socket: PathBuf) {
    let mut peers = Peers::default();
    let mut clock = Clock::now();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Ok(now) = sessions(&socket).await else { continue };
        let before = std::mem::replace(&mut clock, Clock::now());
        for (session, news) in peers.look(&now, before.agrees_with(&clock)) {
            let (peer, address, info) = (&session.name, session.address, &session.info);
            match news {
                News::Up => {
                    tracing::info!(event = event::PEER_UP, peer, %address, "BGP session is established");
                }
                News::Down => tracing::warn!(
                    event = event::PEER_DOWN,
                    peer,
                    %address,
                    state = info,
                    "BGP session is not established"
                ),
                News::Again => tracing::warn!(
                    event = event::PEER_DOWN,
                    peer,
                    %address,
                    since = session.since,
                    "BGP session was down for a moment, and is established again"
                ),
                News::Gone => {
                    tracing::info!(event = event::PEER_DOWN, peer, %address, "BGP session is gone");
                }
            }
        }
    }
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Up,
    Down,
    /// It went and came since the last question.
    Again,
    /// It is not in BIRD's configuration any more.
    Gone,
}

/// The time of day beside one that nobody sets.
struct Clock(SystemTime, Instant);

impl Clock {
    fn now() -> Self {
        Self(SystemTime::now(), Instant::now())
    }

    /// True when nobody set the time of day in between: BIRD's "since" moves with it.
    fn agrees_with(&self, later: &Self) -> bool {
        let ran = later.1.saturating_duration_since(self.1);
        let should = self.0 + ran;
        let apart = should.duration_since(later.0).or_else(|_| later.0.duration_since(should));
        apart.is_ok_and(|apart| apart < SAME)
    }
}

/// `17:05:09.123`, as BIRD says it for the last twenty hours. `None`: longer ago.
fn time_of_day(since: &str) -> Option<Duration> {
    let mut parts = since.split(':');
    let mut number = || parts.next()?.parse::<u32>().ok();
    let (hours, minutes) = (number()?, number()?);
    let seconds = parts.next()?.parse().ok()?;
    let minutes = Duration::from_secs(3600 * u64::from(hours) + 60 * u64::from(minutes));
    Some(minutes + Duration::try_from_secs_f64(seconds).ok()?)
}

/// True when `now` is another moment than `before`.
fn is_later(before: &str, now: &str) -> bool {
    // What happened just now has a time.
    let Some(now) = time_of_day(now) else { return false };
    time_of_day(before).is_none_or(|before| {
        let apart = now.abs_diff(before);
        // Just before midnight and just after it.
        apart > SAME && apart < DAY.saturating_sub(SAME)
    })
}

#[derive(Clone, Debug)]
struct Known {
    session: BgpSession,
    /// How many questions in a row it was down.
    down: u32,
    /// It was said that it is up.
    told_up: bool,
}

/// The sessions as they were at the last question.
#[derive(Debug, Default)]
struct Peers(BTreeMap<String, Known>);

impl Peers {
    /// `clock`: the time of day went on as time did.
    fn look(&mut self, now: &[BgpSession], clock: bool) -> Vec<(BgpSession, News)> {
        let mut news = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        for session in now {
            let known = before.remove(&session.name);
            let since = known.as_ref().map(|known| known.session.since.clone());
            let (down, told_up) = known.map_or((0, false), |known| (known.down, known.told_up));
            let up = session.is_established();
            let down = if up { 0 } else { down.saturating_add(1) };
            if up && !told_up {
                news.push((session.clone(), News::Up));
            } else if up && clock && since.is_some_and(|since| is_later(&since, &session.since)) {
                news.push((session.clone(), News::Again));
            } else if !up && (told_up || down == PATIENCE) {
                news.push((session.clone(), News::Down));
            }
            let down = if told_up && !up { PATIENCE } else { down };
            let known = Known { session: session.clone(), down, told_up: up };
            self.0.insert(session.name.clone(), known);
        }
        news.extend(before.into_values().map(|known| (known.session, News::Gone)));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::PeerType;
    use super::*;

    fn session(info: &str, since: &str) -> BgpSession {
        BgpSession {
            name: "Mesh_10_0_0_1".to_owned(),
            peer_type: PeerType::Mesh,
            address: "10.0.0.1".parse().unwrap(),
            as_number: None,
            state: String::new(),
            since: since.to_owned(),
            info: info.to_owned(),
        }
    }

    fn looks(infos: &[&str]) -> Vec<Option<News>> {
        let mut peers = Peers::default();
        let look = |info: &&str| {
            let now = [session(info, "12:00:00.000")];
            let news = peers.look(if info.is_empty() { &[] } else { &now }, true);
            assert!(news.len() < 2);
            news.first().map(|(_, news)| *news)
        };
        infos.iter().map(look).collect()
    }

    #[test]
    fn a_session_is_told_when_it_comes_and_when_it_goes() {
        let told = looks(&["Established", "Established", "Active", "Active", "Established", ""]);
        let (up, down) = (Some(News::Up), Some(News::Down));
        assert_eq!(told, [up, None, down, None, up, Some(News::Gone)]);
    }

    #[test]
    fn a_new_session_may_take_its_time_and_one_that_never_comes_is_told_once() {
        assert_eq!(looks(&["Connect", "Active", "Established"]), [None, None, Some(News::Up)]);
        let told = looks(&["Connect", "Active", "Connect", "Connect", "Connect", "Connect"]);
        assert_eq!(told, [None, None, Some(News::Down), None, None, None]);
    }

    #[test]
    fn one_that_went_and_came_between_two_questions_is_told() {
        let mut peers = Peers::default();
        let mut look = |since: &str, clock| {
            let news = peers.look(&[session("Established", since)], clock);
            news.first().map(|(_, news)| *news)
        };
        assert_eq!(look("09:59:59.100", true), Some(News::Up));
        // What BIRD makes of the same moment.
        assert_eq!(look("09:59:59.103", true), None);
        assert_eq!(look("10:00:00.001", true), None);
        assert_eq!(look("10:00:08.250", true), Some(News::Again));
        assert_eq!(look("10:00:08.250", true), None);
        // Somebody set the clock.
        assert_eq!(look("11:00:08.250", false), None);
        assert_eq!(look("11:00:08.250", true), None);
        // Only the date of what is long ago is told.
        assert_eq!(look("2026-11-20", true), None);
        assert_eq!(look("2026-11-20", true), None);
        assert_eq!(look("07:30:00.000", true), Some(News::Again));
        // One that is down for longer is told as before.
        let news = peers.look(&[session("Active", "07:31:00.000")], true);
        assert_eq!(news[0].1, News::Down);
        let news = peers.look(&[session("Established", "07:31:05.000")], true);
        assert_eq!((news.len(), news[0].1), (1, News::Up));
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let (time, ran) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1000), Instant::now());
        let begin = Clock(time, ran);
        let later = |time_of_day: u64, run: u64| {
            Clock(time + Duration::from_secs(time_of_day), ran + Duration::from_secs(run))
        };
        assert!(begin.agrees_with(&later(10, 10)));
        assert!(!begin.agrees_with(&later(3610, 10)));
        assert!(!later(3610, 0).agrees_with(&later(10, 10)));
    }

    #[test]
    fn one_that_is_taken_away_and_given_back_is_new() {
        let told = looks(&["Active", "Active", "", "Active", "Active", "Active"]);
        assert_eq!(told, [None, None, Some(News::Gone), None, None, Some(News::Down)]);
    }
}
