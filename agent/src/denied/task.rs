//! Reads the packet log as long as the settings want it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::book::Book;
use super::reader::{Reader, ReaderError};
use crate::config::Settings;
use crate::desired::DesiredState;
use crate::reconcile::Problem;
use crate::routes::monitor::Links;
use crate::status::systemd::Heartbeat;
use crate::telemetry::chain;

/// How soon what failed is tried again: who read the group may be gone then.
const RETRY: Duration = Duration::from_secs(5);

/// What the task looks at.
#[derive(Debug)]
pub struct Inputs {
    /// The names of what drops, and of endpoints.
    pub desired: watch::Receiver<Option<Arc<DesiredState>>>,
    /// Whether, and from which group.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The names of interfaces.
    pub links: watch::Receiver<Links>,
    /// The watchdog's question.
    pub heartbeat: Heartbeat,
}

/// Reads until an input ends. `problems`: why it cannot.
pub async fn run(mut inputs: Inputs, book: Book, problems: watch::Sender<Vec<Problem>>) {
    loop {
        let wanted = group(&inputs.settings.borrow_and_update());
        let mut work = pin!(async {
            let Some(group) = wanted else { return std::future::pending().await };
            // What rules of the run before report has no name until then.
            let mut known = inputs.desired.clone();
            if known.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let error = read(group, &inputs.desired, &inputs.links, &book, &problems).await;
            tell(&problems, Some(&error));
            sleep(RETRY).await;
        });
        loop {
            tokio::select! {
                // The work is pinned outside and dropped only when the settings say so.
                () = &mut work => break,
                changed = inputs.settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if group(&inputs.settings.borrow_and_update()) != wanted {
                        tell(&problems, None);
                        break;
                    }
                }
                () = inputs.heartbeat.beat() => {}
            }
        }
    }
}

fn group(settings: &Settings) -> Option<u16> {
    settings.denied_log.then_some(settings.denied_log_group)
}

async fn read(
    group: u16,
    desired: &watch::Receiver<Option<Arc<DesiredState>>>,
    links: &watch::Receiver<Links>,
    book: &Book,
    problems: &watch::Sender<Vec<Problem>>,
) -> ReaderError {
    match Reader::open(group, desired.clone(), links.clone(), book.clone()).await {
        Ok(mut reader) => {
            tell(problems, None);
            match reader.run().await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        }
        Err(error) => error,
    }
}

fn tell(problems: &watch::Sender<Vec<Problem>>, error: Option<&ReaderError>) {
    let now: Vec<Problem> = error
        .map(|error| Problem { subject: "denied packets".to_owned(), message: chain(error) })
        .into_iter()
        .collect();
    problems.send_if_modified(|last| {
        if *last == now {
            return false;
        }
        if let Some(problem) = now.first() {
            tracing::warn!(reason = problem.message, "denied packets are not told");
        }
        *last = now;
        true
    });
}
