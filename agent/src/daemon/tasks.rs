//! The daemon's tasks: they have names, and one that ends by itself ends the daemon.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use crate::reconcile::{self, Inputs, Reconciler};
use crate::status::overview::Part;
use crate::status::systemd::Watchdog;

/// How long the tasks may take to notice that they are to end. They do so at their next wait; one
/// that hangs must not keep the agent from being restarted.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Tasks by name. Dropping it aborts them all.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    /// A task that runs as long as the daemon.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.names.push((self.set.spawn(task).id(), name));
    }

    /// The loop of a reconciler.
    pub(super) fn reconciler<R: Reconciler + 'static>(
        &mut self,
        reconciler: R,
        inputs: Inputs,
        watchdog: &mut Watchdog,
        required: bool,
    ) -> Part {
        let (reports, report) = watch::channel(None);
        let heartbeat = watchdog.register(R::NAME);
        self.spawn(R::NAME, reconcile::run(reconciler, inputs, reports, heartbeat));
        Part { name: R::NAME, report, required }
    }

    /// The name of the next task that ends by itself. Cancel-safe.
    pub(super) async fn ended(&mut self) -> &'static str {
        let id = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                tracing::error!(%error, "a task failed");
                error.id()
            }
            None => return "last",
        };
        let name = self.names.iter().find(|(known, _)| *known == id);
        name.map_or("unknown", |(_, name)| name)
    }

    /// Ends them all.
    pub(super) async fn end(&mut self) {
        if tokio::time::timeout(END_LIMIT, self.set.shutdown()).await.is_err() {
            tracing::warn!(limit = ?END_LIMIT, "a task did not end; left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_end_that_nobody_wanted_counts() {
        let mut tasks = Tasks::default();
        tasks.spawn("for ever", std::future::pending());
        let waited = tokio::time::timeout(Duration::from_millis(50), tasks.ended()).await;
        assert!(waited.is_err(), "{waited:?}");
        tasks.spawn("short", async {});
        assert_eq!(tasks.ended().await, "short");
        tasks.spawn("panics", async { panic!("as it should in this test") });
        assert_eq!(tasks.ended().await, "panics");
        tasks.end().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_that_hangs_does_not_keep_the_rest() {
        let mut tasks = Tasks::default();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        tasks.spawn("hangs", async move {
            let _ = wait.recv();
        });
        tokio::task::yield_now().await;
        let begin = std::time::Instant::now();
        tasks.end().await;
        assert!(begin.elapsed() < END_LIMIT * 3);
        drop(release);
    }
}
