//! What is said to people at a terminal, and to the programs in its place.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Env;
use crate::paths::Paths;
use crate::startup;
use crate::telemetry::{self, chain};

/// Writes to standard output; a closed pipe (`| head`) is not an error.
pub fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes to standard output; false when nobody reads it any more.
pub fn heard(text: &str) -> bool {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Says what is wrong, on standard error.
#[expect(clippy::print_stderr, reason = "the command line's errors go to people")]
pub fn complain(text: &str) {
    eprint!("{}", telemetry::complaint(&Env::of_process(), text));
}

/// The environment that the agent's unit would run in, for a command that is typed by hand; with a
/// complaint for each file of it that says nothing although it is there.
pub fn environment(paths: &Paths) -> Env {
    startup::environment(paths, Env::of_process(), |error| complain(&chain(&error)))
}

/// The runtime of a command that asks and answers. `None`, with a complaint: there can be none.
pub fn small_runtime() -> Option<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.inspect_err(|error| complain(&error.to_string())).ok()
}

/// How far something is, on standard error: a bar where that is a terminal, else a line for each
/// thing.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
}

impl Progress {
    /// Nothing of `total` things is done; 0: nobody knows how many there are.
    pub fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = match total {
                0 => "{spinner} {elapsed} {msg}",
                _ => "{bar:30} {pos}/{len} {wide_msg}",
            };
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(total as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, total, done: 0 }
    }

    /// One more is done.
    pub fn step(&mut self, what: &str) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done as u64);
                bar.set_message(what.to_owned());
            }
            None => line(&format!("[{}/{}] {what}", self.done, self.total)),
        }
    }

    /// What is waited for now.
    pub fn waiting(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => line(what),
        }
    }

    /// The bar goes.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress is for people")]
fn line(text: &str) {
    eprintln!("{text}");
}
