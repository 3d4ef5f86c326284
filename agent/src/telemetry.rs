//! Logs: fields in the journal when systemd runs us, plain text on standard error otherwise.
//!
//! In the journal a field `endpoint` is `CALICO_ENDPOINT=`, `policy` is `CALICO_POLICY=`, so that
//! `journalctl CALICO_ENDPOINT=…` finds everything about one endpoint. What an operator waits for or is
//! woken by has a message id ([`event`]).

#[cfg(test)]
pub(crate) mod capture;
mod collapse;
pub mod event;
mod journal;
pub mod level;
mod object;
pub mod sparing;

use std::error::Error;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use self::journal::Journal;
use crate::config::Env;

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` cannot be read.
    #[error("RUST_LOG is {value:?}")]
    Filter {
        /// What it says.
        value: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in this process logs already.
    #[error("logging was set up twice")]
    Twice(#[source] TryInitError),
}

/// Where the logs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The journal, with fields.
    Journal,
    /// Standard error, as text.
    Text,
}

/// The running logs: their level can be changed. Clones share it.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    pinned: bool,
    sink: Sink,
}

impl Logs {
    /// True when `RUST_LOG` says the level, for as long as the agent runs.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Sets the level (`trace` … `error`, `off`), unless `RUST_LOG` has. Costs nothing when called
    /// with the level that holds.
    pub fn set_level(&self, level: &str) {
        if self.pinned {
            return;
        }
        let same = self.filter.with_current(|now| now.to_string() == level);
        if same.unwrap_or(false) {
            return;
        }
        if self.filter.reload(EnvFilter::new(level)).is_ok() {
            tracing::info!(level, "log level");
        }
    }

    /// Where they go.
    pub fn sink(&self) -> Sink {
        self.sink
    }
}

/// Begins logging at `level`; `RUST_LOG` goes before it for as long as the agent runs.
///
/// # Errors
/// When `RUST_LOG` is malformed, or logging was begun before.
pub fn init(env: &Env, level: &str) -> Result<Logs, TelemetryError> {
    let (filter, pinned) = match env.get("RUST_LOG") {
        Some(value) => {
            let filter = EnvFilter::builder()
                .parse(value)
                .map_err(|source| TelemetryError::Filter { value: value.to_owned(), source })?;
            (filter, true)
        }
        None => (EnvFilter::new(level), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let journal = env.get("JOURNAL_STREAM").filter(|stream| is_stderr(stream));
    // A journal that cannot be reached leaves standard error, which systemd keeps too.
    let journal = journal.and_then(|_| Journal::connect(Path::new(journal::SOCKET)).ok());
    let sink = if journal.is_some() { Sink::Journal } else { Sink::Text };
    let output = match journal {
        Some(layer) => layer.boxed(),
        None => {
            let terminal = std::io::stderr().is_terminal() && env.get("NO_COLOR").is_none();
            fmt::layer()
                .compact()
                .with_target(false)
                .with_ansi(terminal)
                .with_writer(std::io::stderr)
                .boxed()
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(output)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok(Logs { filter: handle, pinned, sink })
}

/// What is written to standard error when something is wrong before logging begins. In the journal
/// each line is an error (sd-daemon(3)), so that `journalctl -p err` finds a bad setting.
pub fn complaint(env: &Env, text: &str) -> String {
    let journal = env.get("JOURNAL_STREAM").is_some_and(is_stderr);
    complaint_of(text, if journal { "<3>" } else { "calico-agent: " })
}

fn complaint_of(text: &str, prefix: &str) -> String {
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}

/// True when `stream`, `device:inode` as systemd sets `JOURNAL_STREAM`, is our standard error. The
/// variable alone says nothing: a child of a service inherits it with another standard error.
fn is_stderr(stream: &str) -> bool {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stderr.is_ok_and(|stderr| is_file(stream, &stderr))
}

fn is_file(stream: &str, file: &File) -> bool {
    let parsed = stream.split_once(':').and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    match (parsed, file.metadata()) {
        (Some(parsed), Ok(metadata)) => parsed == (metadata.dev(), metadata.ino()),
        _ => false,
    }
}

/// An error and everything behind it in one line: `what: why: why`. An error's own text never names
/// its source, so nothing is said twice. What a program said over several lines becomes one.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        // What systemd connects is a socket.
        let (socket, _other) = UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(socket));
        let metadata = socket.metadata().unwrap();
        let (device, inode) = (metadata.dev(), metadata.ino());
        assert!(is_file(&format!("{device}:{inode}"), &socket));
        for stream in [
            format!("{device}:{}", inode + 1),
            format!("{}:{inode}", device + 1),
            format!("{inode}"),
            "a:b".to_owned(),
            String::new(),
        ] {
            assert!(!is_file(&stream, &socket), "{stream:?}");
        }
    }

    #[test]
    fn every_line_of_a_complaint_is_an_error() {
        assert_eq!(complaint_of("a:1: x\na:2: y", "<3>"), "<3>a:1: x\n<3>a:2: y\n");
        let text = complaint(&Env::default(), "no such file");
        assert_eq!(text, "calico-agent: no such file\n");
    }

    #[test]
    fn the_level_is_compared_as_it_prints() {
        for level in ["trace", "debug", "info", "warn", "error", "off"] {
            assert_eq!(EnvFilter::new(level).to_string(), level);
        }
    }
}
