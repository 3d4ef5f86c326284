//! The client of BIRD's control socket.
//!
//! The protocol: each line begins with a four-digit code, then `-` when more follows or a space on
//! the last line; a line that begins with a space continues the code before it; one that begins
//! with `+` is a log line. 0xxx = success, 1xxx = table rows, 2xxx = headers, 8xxx and 9xxx =
//! errors. Everything is bounded in time and in size. It starts no process and writes no file.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A question is answered within milliseconds, unless BIRD is busy with its tables.
const LIMIT: Duration = Duration::from_secs(5);
/// No answer that we ask for comes near this: a thousand peers give about 2 MB.
const MAX_REPLY: usize = 16 << 20;

/// BIRD did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: BIRD does not run.
    #[error(
        "BIRD does not answer on {} (is it running? try `systemctl restart calico-bird`)",
        path.display()
    )]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("BIRD's control socket broke")]
    Broken(#[source] io::Error),
    /// It took too long.
    #[error("BIRD did not answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is not in BIRD's protocol.
    #[error("BIRD's answer is not understood: {0:?}")]
    Malformed(String),
    /// BIRD said no.
    #[error("BIRD refuses {command:?}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// Its code, 8000 and above.
        code: u16,
        /// What it said.
        message: String,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What kind of line it is.
    pub code: u16,
    /// Its text without the code.
    pub text: String,
}

/// Asks BIRD one thing.
///
/// # Errors
/// When BIRD does not run, does not answer in time, or refuses.
pub async fn ask(socket: &Path, command: &str) -> Result<Vec<Line>, ControlError> {
    ask_within(LIMIT, socket, command).await
}

async fn ask_within(
    limit: Duration,
    socket: &Path,
    command: &str,
) -> Result<Vec<Line>, ControlError> {
    let conversation = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ControlError::Connect { path: socket.to_owned(), source })?;
        read_reply(&mut stream).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await.map_err(ControlError::Broken)?;
        read_reply(&mut stream).await
    };
    let lines = tokio::time::timeout(limit, conversation)
        .await
        .map_err(|_| ControlError::TimedOut(limit))??;
    match lines.iter().find(|line| line.code >= 8000) {
        Some(line) => Err(ControlError::Refused {
            command: command.to_owned(),
            code: line.code,
            message: line.text.clone(),
        }),
        None => Ok(lines),
    }
}

async fn read_reply(stream: &mut UnixStream) -> Result<Vec<Line>, ControlError> {
    let mut reply = Reply::default();
    let mut bytes = Vec::with_capacity(8 << 10);
    loop {
        let read = stream.read_buf(&mut bytes).await.map_err(ControlError::Broken)?;
        if read == 0 {
            return Err(ControlError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(lines) = reply.feed(&bytes)? {
            return Ok(lines);
        }
        bytes.clear();
    }
}

/// An answer that is coming in, in any portions.
#[derive(Debug, Default)]
pub struct Reply {
    /// Everything so far.
    len: usize,
    /// The beginning of a line.
    rest: Vec<u8>,
    lines: Vec<Line>,
}

impl Reply {
    /// Takes the next portion. The whole answer once its last line is there; what comes behind that
    /// is not looked at, since BIRD says nothing that it was not asked.
    ///
    /// # Errors
    /// When it is not in BIRD's protocol, or too long.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Vec<Line>>, ControlError> {
        self.len += bytes.len();
        let mut portions = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(portion) = portions.next() {
            self.rest.extend_from_slice(portion);
            // The last portion is the beginning of a line that is still to come.
            if portions.peek().is_none() {
                break;
            }
            let line = std::mem::take(&mut self.rest);
            if parse_line(&String::from_utf8_lossy(&line), &mut self.lines)? {
                return Ok(Some(std::mem::take(&mut self.lines)));
            }
        }
        if self.len > MAX_REPLY {
            return Err(ControlError::Malformed(format!("more than {MAX_REPLY} bytes")));
        }
        Ok(None)
    }
}

/// Adds a line to the answer; true when it was the last one.
fn parse_line(line: &str, lines: &mut Vec<Line>) -> Result<bool, ControlError> {
    let malformed = || ControlError::Malformed(line.to_owned());
    if line.starts_with('+') {
        return Ok(false);
    }
    if let Some(text) = line.strip_prefix(' ') {
        let code = lines.last().ok_or_else(malformed)?.code;
        lines.push(Line { code, text: text.to_owned() });
        return Ok(false);
    }
    let (code, rest) = line.split_at_checked(4).ok_or_else(malformed)?;
    let code = code.parse().map_err(|_| malformed())?;
    let (last, text) = match rest.split_at_checked(1) {
        Some(("-", text)) => (false, text),
        Some((" ", text)) => (true, text),
        _ if rest.is_empty() => (true, ""),
        _ => return Err(malformed()),
    };
    lines.push(Line { code, text: text.to_owned() });
    Ok(last)
}

/// Makes BIRD read its file again. Returns the file that it read, when it says so.
///
/// # Errors
/// As [`ask`]; a file with a mistake is `Refused`, and BIRD goes on with what it had.
pub async fn configure(socket: &Path) -> Result<Option<PathBuf>, ControlError> {
    let lines = ask(socket, "configure").await?;
    // 0003 reconfigured, 0004 in progress, 0005 queued; 0006 says that BIRD is ending.
    let Some(last) = lines.last().filter(|line| matches!(line.code, 3..=5)) else {
        let said = lines.last().map_or_else(String::new, |line| line.text.clone());
        return Err(ControlError::Malformed(said));
    };
    tracing::debug!(answer = last.text, "BIRD was told to read its configuration");
    Ok(lines
        .iter()
        .filter(|line| line.code == 2)
        .find_map(|line| line.text.strip_prefix("Reading configuration from ").map(PathBuf::from)))
}

/// What BIRD says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BirdStatus {
    /// `BIRD 2.0.12`.
    pub version: String,
    /// The router id.
    pub router_id: String,
    /// When it started, in BIRD's words.
    pub last_reboot: String,
    /// When it last read its configuration, in BIRD's words.
    pub last_reconfiguration: String,
    /// It waits for its peers after a restart.
    pub graceful_restart: bool,
}

/// Asks BIRD about itself.
///
/// # Errors
/// As [`ask`].
pub async fn status(socket: &Path) -> Result<BirdStatus, ControlError> {
    Ok(parse_status(ask(socket, "show status").await?))
}

/// Reads the answer to `show status`.
pub fn parse_status(lines: Vec<Line>) -> BirdStatus {
    let mut status = BirdStatus::default();
    for Line { code, text } in lines {
        match code {
            1000 => status.version = text,
            24 => status.graceful_restart = true,
            1011 => {
                let fields: [(&str, &mut String); 3] = [
                    ("Router ID is ", &mut status.router_id),
                    ("Last reboot on ", &mut status.last_reboot),
                    ("Last reconfiguration on ", &mut status.last_reconfiguration),
                ];
                for (prefix, field) in fields {
                    if let Some(value) = text.strip_prefix(prefix) {
                        *field = value.to_owned();
                    }
                }
            }
            _ => {}
        }
    }
    status
}

/// Why a session exists; named as `calicoctl node status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerType {
    /// `Mesh_…`
    #[serde(rename = "node-to-node mesh")]
    Mesh,
    /// `Global_…`
    #[serde(rename = "global")]
    Global,
    /// `Node_…`
    #[serde(rename = "node specific")]
    Node,
}

impl PeerType {
    /// The words of `calicoctl node status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "node-to-node mesh",
            Self::Global => "global",
            Self::Node => "node specific",
        }
    }
}

/// A BGP session as BIRD reports it; the fields are the columns of `calicoctl node status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpSession {
    /// The protocol's name: `Mesh_172_17_8_102`.
    pub name: String,
    /// Why it exists.
    pub peer_type: PeerType,
    /// The peer's address.
    pub address: IpAddr,
    /// The peer's AS number; missing when BIRD does not say.
    pub as_number: Option<u32>,
    /// BIRD's state of the protocol: `up`, `start`, `down`.
    pub state: String,
    /// Since when, in BIRD's words: a time today, or a date.
    pub since: String,
    /// The BGP state and the last error: `Established`, `Active  Socket: Connection refused`.
    pub info: String,
}

impl BgpSession {
    /// True when routes are exchanged.
    pub fn is_established(&self) -> bool {
        self.info.split_whitespace().next() == Some("Established")
    }
}

/// BIRD's BGP sessions in order of their names' appearance.
///
/// # Errors
/// As [`ask`].
pub async fn sessions(socket: &Path) -> Result<Vec<BgpSession>, ControlError> {
    Ok(parse_sessions(&ask(socket, "show protocols all").await?))
}

/// The name of the protocol for a peer: what `calicoctl node status` takes apart again.
pub fn protocol_name(kind: &str, address: IpAddr) -> String {
    format!("{kind}_{}", address.to_string().replace(['.', ':'], "_"))
}

/// Reads the answer to `show protocols all`.
pub fn parse_sessions(lines: &[Line]) -> Vec<BgpSession> {
    let mut sessions: Vec<BgpSession> = Vec::new();
    // Details belong to the last row, which may be of another kind.
    let mut inside = false;
    for Line { code, text } in lines {
        match code {
            1002 => {
                let session = parse_row(text);
                inside = session.is_some();
                sessions.extend(session);
            }
            1006 if inside => {
                let Some(session) = sessions.last_mut() else { continue };
                match text.trim().split_once(':').map(|(key, value)| (key, value.trim())) {
                    Some(("Neighbor AS", value)) => session.as_number = value.parse().ok(),
                    Some(("Neighbor address", value)) => {
                        // Link-local addresses have `%eth0` behind them.
                        let value = value.split('%').next().unwrap_or(value);
                        session.address = value.parse().unwrap_or(session.address);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    sessions
}

/// A row of `show protocols`: name, kind, table, state, since, info.
fn parse_row(text: &str) -> Option<BgpSession> {
    let mut words = text.split_whitespace();
    let name = words.next()?;
    if words.next()? != "BGP" {
        return None;
    }
    let (_table, state, since) = (words.next()?, words.next()?, words.next()?);
    let (kind, rest) = name.split_once('_')?;
    let peer_type = match kind {
        "Mesh" => PeerType::Mesh,
        "Global" => PeerType::Global,
        "Node" => PeerType::Node,
        _ => return None,
    };
    let rest = rest.split_once("_port_").map_or(rest, |(address, _)| address);
    let address = rest.replace('_', ".").parse().or_else(|_| rest.replace('_', ":").parse());
    Some(BgpSession {
        name: name.to_owned(),
        peer_type,
        address: address.ok()?,
        as_number: None,
        state: state.to_owned(),
        since: since.to_owned(),
        info: words.collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests;
