//! Signals: SIGTERM and SIGINT end the agent, SIGHUP reads `agent.toml` again.
//!
//! One thread owns them; tokio's own signal handling stays off, so that there is one owner.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The end.
    Terminate,
    /// The configuration file changed.
    Reload,
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
                let signal = if signal == SIGHUP { Signal::Reload } else { Signal::Terminate };
                // A full queue holds what is asked already; a closed one ends the thread.
                if tx.is_closed() {
                    return;
                }
                let _ = tx.try_send(signal);
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
