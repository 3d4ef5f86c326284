//! Waits until the agent says that policy is in force, and says meanwhile what it waits for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::api::client;
use crate::exec::Exec;
use crate::status::document::{Overall, StatusDocument};
use crate::terminal::Progress;

/// Between two questions.
const STEP: Duration = Duration::from_millis(200);
/// Between two questions to systemd.
const SYSTEMD_STEP: Duration = Duration::from_secs(1);
/// A host that was just started lacks this and that for a moment: BIRD, a pod's interface.
const SETTLE: Duration = Duration::from_secs(5);
/// So often may systemd start an agent that ends at once.
const STARTS: u32 = 2;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The agent's socket.
    pub(super) socket: PathBuf,
    /// The process that is about to end: its answers say nothing.
    pub(super) not: Option<u32>,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// Everything is in force.
    Ready(Box<StatusDocument>),
    /// Policy is in force, and something is wrong: one line each.
    Degraded(String),
    /// The time is over; what was waited for last, where an agent answered.
    Late(Option<String>),
    /// It will not come.
    Failed(String),
}

/// Asks agent and systemd until it is decided.
pub(super) async fn wait(place: &Place, exec: &Exec, limit: Duration) -> Waited {
    let mut progress = Progress::new(0);
    let ended = ask(place, exec, limit, &mut progress).await;
    progress.end();
    ended
}

async fn ask(place: &Place, exec: &Exec, limit: Duration, progress: &mut Progress) -> Waited {
    let begun = Instant::now();
    let first = restarts(exec).await;
    let (mut said, mut reason) = (String::new(), None);
    let (mut looked, mut degraded): (Instant, Option<Instant>) = (begun, None);
    loop {
        let status = client::status(&place.socket).await.ok();
        let status = status.filter(|status| Some(status.pid) != place.not);
        let now = match &status {
            None => "waiting for the agent to start".to_owned(),
            Some(status) => {
                let problems = problems(status);
                match status.state {
                    Overall::Ready => return Waited::Ready(Box::new(status.clone())),
                    Overall::Starting => {
                        degraded = None;
                        let what = waits_for(status);
                        reason = Some(what.clone());
                        format!("waiting for {what}")
                    }
                    Overall::Degraded => {
                        let since = *degraded.get_or_insert_with(Instant::now);
                        if since.elapsed() >= SETTLE || begun.elapsed() >= limit {
                            return Waited::Degraded(problems);
                        }
                        format!("in force, but: {}", problems.lines().next().unwrap_or_default())
                    }
                }
            }
        };
        if now != said {
            progress.waiting(&now);
            said = now;
        }
        if begun.elapsed() >= limit {
            return Waited::Late(reason);
        }
        if status.is_none() && looked.elapsed() >= SYSTEMD_STEP {
            looked = Instant::now();
            if let Some(why) = failed(exec, first).await {
                return Waited::Failed(why);
            }
        }
        tokio::time::sleep(STEP).await;
    }
}

/// What an agent that is starting lacks.
fn waits_for(status: &StatusDocument) -> String {
    if let Some(waiting) = &status.datastore.waiting {
        return format!("the datastore: {waiting}");
    }
    if !status.datastore.in_sync {
        return "the datastore's first answer".to_owned();
    }
    let late = status.parts.iter().find(|part| part.applied.is_none());
    let problem = late.and_then(|part| part.problems.first());
    match (late, problem) {
        (_, Some(problem)) => format!("{}: {}", problem.subject, problem.message),
        (Some(part), None) => format!("{}: not programmed yet", part.name),
        (None, None) => "the last parts".to_owned(),
    }
}

/// Everything that somebody has to look at, one line each.
fn problems(status: &StatusDocument) -> String {
    let parts = status.parts.iter().flat_map(|part| &part.problems);
    let problems = parts.chain(&status.notices);
    let mut lines: Vec<String> =
        problems.map(|problem| format!("{}: {}", problem.subject, problem.message)).collect();
    lines.extend(status.datastore.waiting.iter().map(|waiting| format!("datastore: {waiting}")));
    lines.extend(status.bgp_error.iter().map(|error| format!("BGP: {error}")));
    lines.extend(
        status
            .datastore
            .rejected
            .iter()
            .map(|rejected| format!("{}: {}", rejected.key, rejected.reason)),
    );
    if lines.is_empty() {
        lines.push("`calico-agent status` says what".to_owned());
    }
    lines.join("\n")
}

/// How often systemd has started the agent again.
async fn restarts(exec: &Exec) -> u32 {
    property(exec, "NRestarts").await.and_then(|text| text.parse().ok()).unwrap_or_default()
}

async fn property(exec: &Exec, name: &str) -> Option<String> {
    let args = ["show", "--value", "-p", name, "calico-agent.service"];
    let output = exec.run("systemctl", &args, b"").await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Why it does not start, when it does not.
async fn failed(exec: &Exec, first: u32) -> Option<String> {
    let state = property(exec, "ActiveState").await?;
    let again = restarts(exec).await.saturating_sub(first);
    if state != "failed" && again < STARTS {
        return None;
    }
    let args = ["-u", "calico-agent", "-p", "err", "-n", "5", "-o", "cat", "--no-pager", "-q"];
    let journal = exec.run("journalctl", &args, b"").await.ok();
    let said = journal.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let said = said.filter(|said| !said.is_empty());
    let said = said.unwrap_or_else(|| "journalctl -u calico-agent says why".to_owned());
    Some(format!("the agent does not start:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_agent_the_time_is_over_some_day() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { socket: dir.path().join("agent.sock"), not: None };
        // Nothing starts on a host without systemd, and there is no unit to fail.
        let exec = Exec::new(Duration::from_secs(1));
        let waited = wait(&place, &exec, Duration::from_millis(300)).await;
        assert!(matches!(waited, Waited::Late(None)), "{waited:?}");
    }
}
