//! The file: a header (one line), the content (many lines), a trailer (one line), each a JSON
//! document, so that people can read it and `jq` can, too.
//!
//! ```text
//! {"format":"calico-agent policy","version":2,"node":"calico-01","boot":"…","written":"…","revision":42}
//! {
//! "felix":{…},
//! …
//! }
//! {"sha256":"…"}
//! ```
//!
//! The content is the canonical text of a desired state: the same for equal states, so two hosts'
//! or two runs' files are compared by what is between the first line and the last
//! ([`content_of`]; in a shell `sed '1d;$d'`). The trailer's hash is of every byte before it: what
//! is cut off, or has one bit wrong, is not used. Nothing here does I/O but on what it is given.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use calico_datastore::model::Name;
use calico_datastore::timestamp::{parse_rfc3339, rfc3339};
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use sha2::{Digest as _, Sha256};

use super::content::{Content, Dangling};
use super::{StoreSettings, StoredPolicy};
use crate::desired::DesiredState;

/// What every such file begins with.
const FORMAT: &str = "calico-agent policy";
/// The version that is written. What means something else, or is missing, is another version; a field that is
/// new and may be absent is not: an older agent refuses a file that has it, and waits for the datastore.
const VERSION: u32 = 2;
/// The oldest version that is read: it has no host endpoints.
const OLDEST: u32 = 1;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The first line is not one of ours.
    #[error("its first line is not the header of a stored policy")]
    Header(#[source] serde_json::Error),
    /// The first line is that of something else.
    #[error("it is a {0:?}, not a stored policy")]
    OtherFormat(String),
    /// Another version of the agent wrote it.
    #[error("it is of version {0}; this agent knows versions {OLDEST} to {VERSION}")]
    OtherVersion(u32),
    /// The time in the header is no time.
    #[error("its header says it was written at {0:?}, which is no time")]
    Time(String),
    /// The end is missing.
    #[error("its end is missing: it was cut off")]
    Truncated,
    /// The bytes are not those that were written.
    #[error("its checksum is wrong: it was changed or damaged")]
    Checksum,
    /// The content is not what the header promises.
    #[error("its content cannot be read")]
    Content(#[source] serde_json::Error),
    /// The content does not hold together.
    #[error("its content does not hold together")]
    Dangling(#[source] Dangling),
}

/// What can be read of every version.
#[derive(Debug, Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    node: String,
    boot: String,
    written: String,
    revision: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    sha256: String,
}

/// What is to be written: references to values that others own.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The host.
    pub node: Name,
    /// The boot.
    pub boot: String,
    /// Now.
    pub written: SystemTime,
    /// What is in force.
    pub state: Arc<DesiredState>,
    /// What the datastore says about settings.
    pub settings: StoreSettings,
}

/// Writes the file's text to `out`; returns its length in bytes. The memory that it takes does not
/// grow with the members of sets.
///
/// # Errors
/// What `out` says.
pub fn write(draft: &Draft, out: impl Write) -> io::Result<u64> {
    let mut out = Hashing { out, hash: Sha256::new(), length: 0 };
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        node: draft.node.to_string(),
        boot: draft.boot.clone(),
        written: rfc3339(draft.written),
        revision: draft.state.revision,
    };
    serde_json::to_writer(&mut out, &header)?;
    out.write_all(b"\n")?;
    write_content(&draft.state, &draft.settings, &mut out)?;
    let sha256 = hex(&out.hash.clone().finalize());
    serde_json::to_writer(&mut out, &Trailer { sha256 })?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(out.length)
}

/// Writes the content alone, with the line's end: what [`content_of`] finds in a file.
///
/// # Errors
/// What `out` says.
pub fn write_content(
    state: &DesiredState,
    settings: &StoreSettings,
    mut out: impl Write,
) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Lines::default());
    Content::of(state, settings).serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// Reads a file's bytes.
///
/// # Errors
/// When they are anything but what [`write()`] wrote.
pub fn read(bytes: &[u8]) -> Result<StoredPolicy, FormatError> {
    let (first, _) = split(bytes, 0).ok_or(FormatError::Truncated)?;
    let preamble: Preamble = serde_json::from_slice(first).map_err(FormatError::Header)?;
    if preamble.format != FORMAT {
        return Err(FormatError::OtherFormat(preamble.format));
    }
    if !(OLDEST..=VERSION).contains(&preamble.version) {
        return Err(FormatError::OtherVersion(preamble.version));
    }
    let (header, content, trailer) = sections(bytes).ok_or(FormatError::Truncated)?;
    let said: Trailer = serde_json::from_slice(trailer).map_err(|_| FormatError::Truncated)?;
    let covered = header.len() + 1 + content.len();
    if bytes.get(..covered).is_none_or(|covered| hex(&Sha256::digest(covered)) != said.sha256) {
        return Err(FormatError::Checksum);
    }
    let header: Header = serde_json::from_slice(header).map_err(FormatError::Header)?;
    let written =
        parse_rfc3339(&header.written).ok_or_else(|| FormatError::Time(header.written.clone()))?;
    let content: Content = serde_json::from_slice(content).map_err(FormatError::Content)?;
    let node = Name::from(header.node);
    let (state, settings) = content.state(&node).map_err(FormatError::Dangling)?;
    let state = Arc::new(DesiredState { revision: header.revision, ..state });
    Ok(StoredPolicy { node, boot: header.boot, written, state, settings })
}

/// The content of a file's bytes: everything between the first line and the last.
pub fn content_of(bytes: &[u8]) -> Option<&[u8]> {
    sections(bytes).map(|(_, content, _)| content)
}

/// Header (without its line's end), content, trailer.
fn sections(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, rest) = split(bytes, 0)?;
    let body = rest.strip_suffix(b"\n")?;
    let last = body.iter().rposition(|byte| *byte == b'\n')? + 1;
    Some((header, body.get(..last)?, body.get(last..)?))
}

/// At the first line's end after `from`.
fn split(bytes: &[u8], from: usize) -> Option<(&[u8], &[u8])> {
    let at = bytes.get(from..)?.iter().position(|byte| *byte == b'\n')? + from;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes and counts what goes through.
struct Hashing<W> {
    out: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Lists down to this depth have a line for each element: rules, members of sets. What is deeper is
/// short.
const LINES: usize = 5;

/// One line for each field of the whole, for each object, each rule, each member: `diff` shows what
/// differs.
#[derive(Debug, Default)]
struct Lines {
    depth: usize,
    filled: bool,
}

impl Lines {
    fn next(
        &mut self,
        out: &mut (impl Write + ?Sized),
        first: bool,
        most: usize,
    ) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        if self.depth <= most { out.write_all(b"\n") } else { Ok(()) }
    }

    fn end(&mut self, out: &mut (impl Write + ?Sized), sign: &[u8], most: usize) -> io::Result<()> {
        if self.filled && self.depth <= most {
            out.write_all(b"\n")?;
        }
        self.depth -= 1;
        self.filled = true;
        out.write_all(sign)
    }
}

impl Formatter for Lines {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(b"[")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first, LINES)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]", LINES)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(b"{")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first, 1)
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}", 1)
    }
}
