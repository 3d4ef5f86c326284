//! What the plugin says besides its answer: problems on standard error, a line each, which the
//! runtime passes on; with `"log_level": "debug"` every step, with the time since the call began.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::protocol::NetConf;

/// Lets this process's log go to standard error, from the level that the configuration says.
pub(crate) fn to_stderr(conf: &NetConf) {
    let said = conf.document.get("log_level").and_then(|level| level.as_str());
    let level = level(said.unwrap_or_default());
    // Only a test that runs several calls in one process has one already.
    let _ = tracing::subscriber::set_global_default(Stderr { level, begin: Instant::now() });
}

/// The original's names. What else is said means the usual.
fn level(said: &str) -> Level {
    match said.to_ascii_lowercase().as_str() {
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "error" | "fatal" | "panic" => Level::ERROR,
        _ => Level::WARN,
    }
}

struct Stderr {
    level: Level,
    begin: Instant,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of what libraries say only trouble is worth a line.
        let ours = metadata.target().starts_with("calico");
        metadata.is_event() && *metadata.level() <= if ours { self.level } else { Level::ERROR }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("calico: {}: ", event.metadata().level()).to_lowercase());
        if *event.metadata().level() == Level::DEBUG {
            // Where the time of a call goes; `calico-bench` reads it.
            let time = self.begin.elapsed().as_secs_f64() * 1e3;
            let _ = write!(line.0, "{time:.3} ms: ");
        }
        event.record(&mut line);
        line.0.push('\n');
        // Nobody to tell when nobody listens.
        let _ = std::io::stderr().write_all(line.0.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `calico: warn: message name=value`, on one line whatever is said.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let said = match field.name() {
            "message" => format!("{value:?}"),
            name => format!(" {name}={value:?}"),
        };
        let _ = self.0.write_str(&said.replace('\n', " "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_levels() {
        let levels = ["Debug", "INFO", "", "nonsense", "Error"].map(level);
        let expected = [Level::DEBUG, Level::INFO, Level::WARN, Level::WARN, Level::ERROR];
        assert_eq!(levels, expected);
    }
}
