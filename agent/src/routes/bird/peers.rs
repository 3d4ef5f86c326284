//! Says in the journal when a BGP session comes or goes: BIRD's own journal does so only where its
//! log asks for it, and never with a field by which one peer is found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::control::{BgpSession, sessions};
use crate::telemetry::event;

/// How often BIRD is asked. A session that goes and comes between two questions is not seen.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many questions in a row a new session may have been down before that is said: it takes a few
/// seconds to come.
const PATIENCE: u32 = 3;

/// Asks forever. What cannot be asked is not told here: `status` says that BIRD does not answer.
pub async fn follow(socket: PathBuf) {
    let mut peers = Peers::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Ok(now) = sessions(&socket).await else { continue };
        for (session, news) in peers.look(&now) {
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
    /// It is not in BIRD's configuration any more.
    Gone,
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
    fn look(&mut self, now: &[BgpSession]) -> Vec<(BgpSession, News)> {
        let mut news = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        for session in now {
            let (down, told_up) = before
                .remove(&session.name)
                .map_or((0, false), |known| (known.down, known.told_up));
            let up = session.is_established();
            let down = if up { 0 } else { down.saturating_add(1) };
            if up && !told_up {
                news.push((session.clone(), News::Up));
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

    fn session(info: &str) -> BgpSession {
        BgpSession {
            name: "Mesh_10_0_0_1".to_owned(),
            peer_type: PeerType::Mesh,
            address: "10.0.0.1".parse().unwrap(),
            as_number: None,
            state: String::new(),
            since: String::new(),
            info: info.to_owned(),
        }
    }

    fn looks(infos: &[&str]) -> Vec<Option<News>> {
        let mut peers = Peers::default();
        let look = |info: &&str| {
            let now = [session(info)];
            let news = peers.look(if info.is_empty() { &[] } else { &now });
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
    fn one_that_is_taken_away_and_given_back_is_new() {
        let told = looks(&["Active", "Active", "", "Active", "Active", "Active"]);
        assert_eq!(told, [None, None, Some(News::Gone), None, None, Some(News::Down)]);
    }
}
