//! Sends log events to the journal by its native protocol.
//!
//! Every field is a field of the journal (`CALICO_ENDPOINT=`), and is shown in the message too:
//! a plain `journalctl -u calico-agent` must say *why* something failed, and the fields alone,
//! which is all that the crate `tracing-journald` makes of them, are invisible there.
//!
//! Three things are made of fields that are not shown: `event` is the message id (`event.rs`), a
//! `subject` that is an object of the datastore is a field of its kind too (`object.rs`), and
//! what fails again for the same reason is left out (`collapse.rs`).
//!
//! Protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::fmt::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::collapse::{Collapse, Line};
use super::{event, object};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// A journal that does not read must not stop the agent: what cannot be sent in this time is lost.
const LIMIT: Duration = Duration::from_millis(500);

/// What is left of a message that does not fit into one datagram.
const SHORT: usize = 4096;

/// The layer.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    collapse: Mutex<Collapse>,
}

impl Journal {
    /// Connects to the journal.
    pub(super) fn connect(path: &Path) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(Self { socket, collapse: Mutex::default() })
    }

    fn send(&self, level: Level, target: &str, fields: &Fields) {
        let mut text = fields.to_string();
        // What fails may fail each time that it is tried; what is done is said each time, and so is
        // what somebody waits for who has just saved a file.
        if level <= Level::WARN && fields.event() != Some(event::BAD_SETTING) {
            let mut collapse = self.collapse.lock().unwrap_or_else(PoisonError::into_inner);
            match collapse.ask(Instant::now(), target, &text, &fields.pairs) {
                Line::Leave => return,
                Line::Say(0) => {}
                Line::Say(1) => text.push_str(" (left out once since)"),
                Line::Say(count) => {
                    let _ = write!(text, " (left out {count} times since)");
                }
            }
        }
        let mut payload = head(level, target, fields.event());
        put(&mut payload, "MESSAGE", &text);
        for (name, value) in &fields.pairs {
            put(&mut payload, &format!("CALICO_{}", journal_name(name)), value);
        }
        if let Some((name, value)) = fields.object() {
            put(&mut payload, &format!("CALICO_{}", journal_name(name)), value);
        }
        if self.socket.send(&payload).is_err() {
            // Too long for a datagram, most likely: its beginning says more than nothing.
            text.truncate((0..=SHORT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
            let mut payload = head(level, target, fields.event());
            put(&mut payload, "MESSAGE", &text);
            let _ = self.socket.send(&payload);
        }
    }
}

fn head(level: Level, target: &str, event: Option<&str>) -> Vec<u8> {
    // syslog(3): error, warning, informational, debug.
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    let mut payload = Vec::with_capacity(512);
    put(&mut payload, "PRIORITY", priority);
    put(&mut payload, "SYSLOG_IDENTIFIER", "calico-agent");
    put(&mut payload, "TARGET", target);
    if let Some(id) = event.and_then(event::message_id) {
        put(&mut payload, "MESSAGE_ID", id);
    }
    payload
}

/// Appends a field: as a line, or with its length when the value has lines of its own.
fn put(payload: &mut Vec<u8>, name: &str, value: &str) {
    payload.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        payload.push(b'\n');
        payload.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        payload.push(b'=');
    }
    payload.extend_from_slice(value.as_bytes());
    payload.push(b'\n');
}

/// The journal takes only upper case, digits and underscores.
fn journal_name(name: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(upper).collect()
}

/// The fields of an event or a span.
#[derive(Clone, Debug, Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, String)>,
}

/// The field that says which event a line is.
const EVENT: &str = "event";

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn event(&self) -> Option<&str> {
        self.get(EVENT)
    }

    /// The object that the subject is, unless a field names it already.
    fn object(&self) -> Option<(&'static str, &str)> {
        let (field, name) = object::of_subject(self.get("subject")?)?;
        self.get(field).is_none().then_some((field, name))
    }

    fn set(&mut self, field: &Field, value: String) {
        let name = field.name();
        if name == "message" {
            self.message = value;
        } else if let Some(pair) = self.pairs.iter_mut().find(|(known, _)| *known == name) {
            pair.1 = value;
        } else {
            self.pairs.push((name, value));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl fmt::Display for Fields {
    /// `message name=value name="value with spaces"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let shown = self.pairs.iter().filter(|(name, _)| *name != EVENT);
        for (i, (name, value)) in shown.enumerate() {
            if i > 0 || !self.message.is_empty() {
                f.write_char(' ')?;
            }
            if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"') {
                write!(f, "{name}={value:?}")?;
            } else {
                write!(f, "{name}={value}")?;
            }
        }
        Ok(())
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // The event's own words first; of a span and its parents only what they add.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.pairs {
                    if !fields.pairs.iter().any(|(known, _)| known == name) {
                        fields.pairs.push((name, value.clone()));
                    }
                }
            }
        }
        let metadata = event.metadata();
        self.send(*metadata.level(), metadata.target(), &fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::capture::Captured;

    fn received(log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::begin();
        log();
        captured.lines()
    }

    #[test]
    fn fields_are_in_the_journal_and_in_the_message() {
        let datagrams = received(|| {
            let span = tracing::info_span!("apply", generation = 7, endpoint = "outer");
            let _in = span.enter();
            tracing::warn!(endpoint = "cni/a", reason = %"no such device", "not programmed");
        });
        let expected = "PRIORITY=4\nSYSLOG_IDENTIFIER=calico-agent\n\
             TARGET=calico_agent::telemetry::journal::tests\n\
             MESSAGE=not programmed endpoint=cni/a reason=\"no such device\" generation=7\n\
             CALICO_ENDPOINT=cni/a\nCALICO_REASON=no such device\nCALICO_GENERATION=7\n";
        assert_eq!(datagrams, [expected]);
    }

    #[test]
    fn an_event_has_its_message_id_and_an_object_its_field() {
        let datagrams = received(|| {
            tracing::warn!(event = event::NOTICE, subject = "Profile web", "is missing");
            tracing::warn!(event = event::NOTICE, subject = "Profile web", "is missing");
            tracing::warn!(subject = "Profile web", profile = "other", "is missing");
        });
        let id = event::message_id(event::NOTICE).unwrap();
        let expected = format!(
            "PRIORITY=4\nSYSLOG_IDENTIFIER=calico-agent\n\
             TARGET=calico_agent::telemetry::journal::tests\nMESSAGE_ID={id}\n\
             MESSAGE=is missing subject=\"Profile web\"\n\
             CALICO_EVENT=notice\nCALICO_SUBJECT=Profile web\nCALICO_PROFILE=web\n"
        );
        assert_eq!(datagrams.len(), 2, "{datagrams:?}");
        assert_eq!(datagrams[0], expected);
        assert!(!datagrams[1].contains("CALICO_PROFILE=web"), "{datagrams:?}");
    }

    #[test]
    fn only_what_fails_again_is_left_out() {
        let lines = |log: fn()| received(|| (0..3).for_each(|_| log())).len();
        assert_eq!(lines(|| tracing::debug!("again")), 3);
        assert_eq!(lines(|| tracing::info!("read agent.toml again")), 3);
        assert_eq!(lines(|| tracing::error!(event = event::BAD_SETTING, "again")), 3);
        assert_eq!(lines(|| tracing::warn!("again")), 1);
        assert_eq!(lines(|| tracing::error!("again")), 1);
    }

    #[test]
    fn a_value_with_lines_cannot_forge_a_field() {
        let datagrams = received(|| tracing::info!(policy = "x\nPRIORITY=0", "seen"));
        let forged = "CALICO_POLICY\n\u{c}\0\0\0\0\0\0\0x\nPRIORITY=0\n";
        assert!(datagrams[0].ends_with(forged), "{datagrams:?}");
        assert!(datagrams[0].contains("MESSAGE=seen policy=\"x\\nPRIORITY=0\"\n"));
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_off_not_lost() {
        let long = "\u{e9}".repeat(1 << 20);
        let datagrams = received(|| tracing::info!("{long}"));
        assert_eq!(datagrams.len(), 1);
        assert!(datagrams[0].contains("MESSAGE=\u{e9}\u{e9}"), "cut off at the wrong place");
        assert!(datagrams[0].len() < 2 * SHORT);
    }
}
