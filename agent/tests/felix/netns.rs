//! A network namespace that lives as long as a thread.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A namespace. Work is done inside by its own thread; processes and threads that the work starts
/// are inside too. It is gone when this value is dropped, also after a failure.
pub(crate) struct Netns {
    /// The thread's id, by which `ip link set netns` finds the namespace.
    pub(crate) tid: i32,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = sync_channel::<Job>(1);
        let (tell, told) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run as root");
            tell.send(nix::unistd::gettid().as_raw()).expect("the maker waits");
            for job in queue {
                job();
            }
        });
        let tid = told.recv().expect("a namespace");
        let netns = Self { tid, jobs: Some(jobs), thread: Some(thread) };
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs `work` inside and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = sync_channel(1);
        let job: Job = Box::new(move || drop(tell.send(work())));
        self.jobs.as_ref().expect("open").send(job).expect("the thread runs");
        told.recv().expect("the work did not panic")
    }

    /// Runs a shell script inside; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || sh(&script))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a shell script where we are; it must succeed.
pub(crate) fn sh(script: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the witness is not the code under test")]
    let output =
        std::process::Command::new("sh").args(["-ec", script]).output().expect("sh starts");
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
