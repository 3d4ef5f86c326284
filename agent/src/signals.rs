//! Signals: SIGTERM and SIGINT end the agent, SIGHUP reads `agent.toml` again.
//!
//! One thread owns them; tokio's own signal handling stays off, so that there is one owner.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The end.
    Terminate,
    /// The configuration file changed.
    Reload,
}

/// Puts a signal into the queue; false: nobody listens any more.
fn pass_on(signal: i32, queue: &mpsc::Sender<Signal>) -> bool {
    if signal == SIGHUP {
        // A full queue holds a reload already, and that will read the newest file.
        !matches!(queue.try_send(Signal::Reload), Err(TrySendError::Closed(_)))
    } else {
        // The end is never lost. The thread may wait: it has nothing else to do.
        queue.blocking_send(Signal::Terminate).is_ok()
    }
}

/// The signals as they come.
#[derive(Debug)]
pub struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the handlers or the thread cannot be made.
    pub fn listen() -> std::io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let (tx, rx) = mpsc::channel(4);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if !pass_on(signal, &tx) {
                    return;
                }
            }
        })?;
        Ok(Self(rx))
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        // The thread lives as long as the receiver; should it end, so should the agent.
        self.0.recv().await.unwrap_or(Signal::Terminate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_counted_once_and_the_end_is_never_lost() {
        let (tx, mut rx) = mpsc::channel(2);
        for _ in 0..5 {
            assert!(pass_on(SIGHUP, &tx));
        }
        let thread = std::thread::spawn(move || pass_on(SIGTERM, &tx));
        let mut seen = vec![];
        while let Some(signal) = rx.blocking_recv() {
            seen.push(signal);
        }
        assert_eq!(seen, [Signal::Reload, Signal::Reload, Signal::Terminate]);
        assert!(thread.join().unwrap());
    }

    #[test]
    fn without_a_listener_the_thread_ends() {
        for signal in [SIGHUP, SIGINT] {
            let (tx, rx) = mpsc::channel(1);
            drop(rx);
            assert!(!pass_on(signal, &tx));
        }
    }

    #[tokio::test]
    async fn a_signal_of_the_kernel_arrives() {
        let mut signals = Signals::listen().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
    }
}
