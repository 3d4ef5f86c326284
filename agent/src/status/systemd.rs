//! Speaks with systemd: ready, what it is doing, and that we live (`sd_notify(3)`).
//!
//! Nothing waits for systemd. Its socket takes a few messages (`net.unix.max_dgram_qlen`) and then whoever
//! writes to it sleeps until it has read them, which takes as long as it has other work: so a thread
//! of its own writes, and what is new meanwhile takes the place of what was not sent yet.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

pub use super::watchdog::{Heartbeat, Watchdog};

/// Between two messages that only say what it is doing: each is work for systemd, and for whoever listens
/// to it.
const PACE: Duration = Duration::from_secs(1);
/// How long the end of the agent waits until systemd knows of it.
const GRACE: Duration = Duration::from_secs(1);

/// The line to systemd. Does nothing when systemd did not start us.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is to be sent.
    unsent: Unsent,
    /// What it is doing, as it was said last.
    status: String,
    /// There is a thread that sends.
    has_sender: bool,
    /// It is sending.
    is_sending: bool,
}

#[derive(Debug, Default)]
struct Unsent {
    ready: bool,
    alive: bool,
    stopping: bool,
    status: Option<String>,
}

impl Unsent {
    fn is_none(&self) -> bool {
        !self.is_urgent() && self.status.is_none()
    }

    fn is_urgent(&self) -> bool {
        self.ready || self.alive || self.stopping
    }

    /// What could not be sent; what is newer stays.
    fn put_back(&mut self, older: Self) {
        self.ready |= older.ready;
        self.alive |= older.alive;
        self.stopping |= older.stopping;
        self.status = self.status.take().or(older.status);
    }

    fn states(&self) -> Vec<NotifyState<'_>> {
        let flags = [
            (self.ready, NotifyState::Ready),
            (self.alive, NotifyState::Watchdog),
            (self.stopping, NotifyState::Stopping),
        ];
        let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, state)| state);
        flags.chain(self.status.as_deref().map(NotifyState::Status)).collect()
    }
}

impl Notifier {
    /// `READY=1`: only after the first complete apply.
    pub fn ready(&self) {
        self.say(|state| state.unsent.ready = true);
    }

    /// `STATUS=`: what it is doing, for `systemctl status`. Sent when it differs from the last, once a second
    /// at most.
    pub fn status(&self, text: &str) {
        self.say(|state| {
            if state.status != text {
                text.clone_into(&mut state.status);
                state.unsent.status = Some(text.to_owned());
            }
        });
    }

    /// `STOPPING=1`: the end has begun. Returns when systemd was told, or after a second.
    pub fn stopping(&self) {
        self.say(|state| state.unsent.stopping = true);
        let state = self.line.lock();
        if state.has_sender {
            let busy = |state: &mut State| state.is_sending || !state.unsent.is_none();
            drop(self.line.news.wait_timeout_while(state, GRACE, busy));
        }
    }

    /// `WATCHDOG=1`: everything lives.
    pub fn alive(&self) {
        self.say(|state| state.unsent.alive = true);
    }

    /// The time within which systemd wants to hear from us (`WatchdogSec=`), when it does.
    pub fn watchdog_limit() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    fn say(&self, what: impl FnOnce(&mut State)) {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            self.say_by(what, sd_notify::notify);
        }
    }

    /// Notes what is to be said; `send` sends it, of the first call for all.
    fn say_by(
        &self,
        what: impl FnOnce(&mut State),
        send: impl Fn(&[NotifyState<'_>]) -> io::Result<()> + Send + 'static,
    ) {
        let mut state = self.line.lock();
        what(&mut state);
        if !state.has_sender && !state.unsent.is_none() {
            let line = Arc::clone(&self.line);
            let sender = std::thread::Builder::new().name("systemd".to_owned());
            match sender.spawn(move || line.send(send)) {
                Ok(_) => state.has_sender = true,
                Err(error) => cannot(&error),
            }
        }
        self.line.news.notify_all();
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what comes, as long as the agent lives.
    fn send(&self, send: impl Fn(&[NotifyState<'_>]) -> io::Result<()>) {
        let mut last = None;
        loop {
            let unsent = self.next(last);
            let told = send(&unsent.states());
            if unsent.status.is_some() {
                last = Some(Instant::now());
            }
            let mut state = self.lock();
            state.is_sending = false;
            let again = told.is_err();
            if let Err(error) = told {
                cannot(&error);
                // No memory, no file left: nobody would say it a second time.
                state.unsent.put_back(unsent);
            }
            drop(state);
            self.news.notify_all();
            if again {
                std::thread::sleep(PACE);
            }
        }
    }

    /// Waits for something to be sent. `last`: when it was said what it is doing.
    fn next(&self, last: Option<Instant>) -> Unsent {
        let mut state = self.lock();
        loop {
            let wait = last.map_or(Duration::ZERO, |last| PACE.saturating_sub(last.elapsed()));
            if state.unsent.is_urgent() || (state.unsent.status.is_some() && wait.is_zero()) {
                state.is_sending = true;
                return std::mem::take(&mut state.unsent);
            }
            state = if state.unsent.is_none() {
                self.news.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.news.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

fn cannot(error: &io::Error) {
    tracing::debug!(reason = %error, "systemd cannot be told");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A notifier that is said something by `say`, and what systemd would read. It sends when `gate`
    /// lets it.
    struct Mute {
        notifier: Notifier,
        sent: (Sender<String>, Receiver<String>),
        gate: (Sender<()>, Arc<Mutex<Receiver<()>>>),
    }

    impl Mute {
        fn new() -> Self {
            let (open, gate) = channel();
            let gate = (open, Arc::new(Mutex::new(gate)));
            Self { notifier: Notifier::default(), sent: channel(), gate }
        }

        fn say(&self, what: impl FnOnce(&mut State)) {
            let (sent, gate) = (self.sent.0.clone(), Arc::clone(&self.gate.1));
            self.notifier.say_by(what, move |states| {
                gate.lock().unwrap().recv().map_err(io::Error::other)?;
                let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
                sent.send(lines.join(" ")).map_err(io::Error::other)
            });
        }

        fn status(&self, text: &str) {
            self.say(|state| state.unsent.status = Some(text.to_owned()));
        }

        fn read(&self) -> String {
            self.gate.0.send(()).unwrap();
            self.sent.1.recv_timeout(SOON).unwrap()
        }
    }

    #[test]
    fn nobody_waits_for_a_systemd_that_does_not_read_and_it_hears_the_newest() {
        let mute = Mute::new();
        mute.status("first");
        while !mute.notifier.line.lock().is_sending {
            std::thread::yield_now();
        }
        for n in 0..10_000 {
            mute.status(&format!("number {n}"));
        }
        mute.say(|state| state.unsent.ready = true);
        mute.say(|state| state.unsent.alive = true);
        assert!(mute.sent.1.try_recv().is_err(), "nothing was read");
        assert_eq!(mute.read(), "STATUS=first");
        assert_eq!(mute.read(), "READY=1 WATCHDOG=1 STATUS=number 9999");
    }

    #[test]
    fn what_it_does_is_said_once_a_second_and_all_else_at_once() {
        let mute = Mute::new();
        (0..3).for_each(|_| mute.gate.0.send(()).unwrap());
        mute.status("one");
        assert_eq!(mute.sent.1.recv_timeout(SOON).unwrap(), "STATUS=one");
        let begin = Instant::now();
        mute.status("two");
        let soon = mute.sent.1.recv_timeout(PACE / 4);
        assert_eq!(soon, Err(RecvTimeoutError::Timeout));
        mute.say(|state| state.unsent.alive = true);
        let urgent = mute.sent.1.recv_timeout(SOON).unwrap();
        assert_eq!(urgent, "WATCHDOG=1 STATUS=two");
        mute.status("three");
        assert_eq!(mute.sent.1.recv_timeout(SOON).unwrap(), "STATUS=three");
        assert!(begin.elapsed() >= PACE);
    }

    #[test]
    fn what_could_not_be_sent_is_sent_again() {
        let (sent, read) = channel();
        let mut fails = true;
        let fails = Mutex::new(std::iter::from_fn(move || Some(std::mem::take(&mut fails))));
        let notifier = Notifier::default();
        let ready = |state: &mut State| {
            state.unsent.ready = true;
            state.unsent.status = Some("older".to_owned());
        };
        notifier.say_by(ready, move |states| {
            if fails.lock().unwrap().next() == Some(true) {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory));
            }
            let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
            sent.send(lines.join(" ")).map_err(io::Error::other)
        });
        assert_eq!(read.recv_timeout(SOON).unwrap(), "READY=1 STATUS=older");
    }

    #[test]
    fn the_end_waits_until_it_was_told_but_not_for_ever() {
        let mute = Mute::new();
        mute.status("busy");
        let begin = Instant::now();
        mute.notifier.stopping();
        assert!(begin.elapsed() >= GRACE, "nobody reads");
        assert_eq!(mute.read(), "STATUS=busy");
        mute.say(|state| state.unsent.stopping = true);
        mute.gate.0.send(()).unwrap();
        mute.notifier.stopping();
        assert_eq!(mute.sent.1.try_recv(), Ok("STOPPING=1".to_owned()));
    }
}
