//! BIRD: whether it runs, reads our file, and talks to the other hosts.

use std::path::PathBuf;

use crate::check::finding::{Finding, Findings, Group};
use crate::routes::bird::{BgpSession, BirdStatus};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct BirdFacts {
    /// The file that the agent writes.
    pub config: PathBuf,
    /// It is there.
    pub configured: bool,
    /// The control socket.
    pub socket: PathBuf,
    /// What it said about itself; `None`: nobody listens.
    pub status: Option<Result<BirdStatus, String>>,
    /// The file that it was started with, when that could be told.
    pub reads: Option<PathBuf>,
    /// Its sessions.
    pub sessions: Vec<BgpSession>,
}

impl BirdFacts {
    /// There are sessions, and all are up.
    pub fn all_established(&self) -> bool {
        !self.sessions.is_empty() && self.sessions.iter().all(BgpSession::is_established)
    }
}

/// Judges it.
pub fn judge(facts: &BirdFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Bird);
    let socket = facts.socket.display();
    match &facts.status {
        None if !facts.configured => {
            let config = facts.config.display();
            out.ok("bird", format!("not configured yet; the agent writes {config}"));
        }
        None => out.warn(
            "bird",
            format!("nobody answers on {socket}: routes are not exchanged with other hosts"),
            "systemctl enable calico-bird; systemctl restart calico-bird",
        ),
        Some(Err(said)) => out.warn("bird", said, "systemctl restart calico-bird"),
        Some(Ok(status)) => {
            let waits = if status.graceful_restart { "; it waits for its peers" } else { "" };
            out.ok("bird", format!("{} runs{waits}", status.version));
        }
    }
    let running = matches!(facts.status, Some(Ok(_)));
    match &facts.reads {
        Some(reads) if *reads != facts.config => out.fail(
            "configuration",
            format!("it reads {}, not {}", reads.display(), facts.config.display()),
            format!("start it with `-c {}`, as calico-bird.service does", facts.config.display()),
        ),
        Some(_) => out.ok("configuration", format!("it reads {}", facts.config.display())),
        None if running && !facts.configured => out.warn(
            "configuration",
            format!("{} is not there, so it reads another file", facts.config.display()),
            "start the agent, then systemctl restart calico-bird",
        ),
        None => {}
    }
    for session in facts.sessions.iter().filter(|session| !session.is_established()) {
        out.warn(
            format!("session {}", session.name),
            format!("{} is not established: {}", session.address, session.info),
            "does BIRD run there, and does its firewall let in TCP port 179 from here?",
        );
    }
    let up = facts.sessions.iter().filter(|session| session.is_established()).count();
    if up > 0 {
        out.ok("sessions", format!("{up} established"));
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};
    use crate::routes::bird::PeerType;

    fn session(info: &str) -> BgpSession {
        BgpSession {
            name: "Mesh_10_0_0_2".into(),
            peer_type: PeerType::Mesh,
            address: "10.0.0.2".parse().unwrap(),
            as_number: None,
            state: "up".into(),
            since: "now".into(),
            info: info.into(),
        }
    }

    #[test]
    fn running_or_not_and_with_which_file() {
        let ours = PathBuf::from("/var/lib/calico/bird/bird.cfg");
        let fresh = BirdFacts { config: ours.clone(), ..Default::default() };
        let runs = BirdFacts {
            configured: true,
            status: Some(Ok(BirdStatus::default())),
            reads: Some(ours),
            sessions: vec![session("Established")],
            ..fresh.clone()
        };
        assert!(runs.all_established() && !fresh.all_established());
        let other = Some(PathBuf::from("/etc/bird/bird.conf"));
        for (facts, level) in [
            (fresh.clone(), Level::Ok),
            (BirdFacts { configured: true, ..fresh }, Level::Warn),
            (runs.clone(), Level::Ok),
            (BirdFacts { reads: other, ..runs.clone() }, Level::Fail),
            (BirdFacts { reads: None, ..runs.clone() }, Level::Ok),
            (
                BirdFacts { sessions: vec![session("Active Socket: refused")], ..runs.clone() },
                Level::Warn,
            ),
            (BirdFacts { status: Some(Err("broken".into())), ..runs }, Level::Warn),
        ] {
            assert_eq!(worst(&judge(&facts)), level, "{facts:?}");
        }
    }
}
