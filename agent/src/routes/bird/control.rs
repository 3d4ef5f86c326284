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
    let mut bytes = Vec::new();
    let mut lines = Vec::new();
    let mut parsed = 0;
    loop {
        let read = stream.read_buf(&mut bytes).await.map_err(ControlError::Broken)?;
        if read == 0 {
            return Err(ControlError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        while let Some(len) = bytes[parsed..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&bytes[parsed..parsed + len]).into_owned();
            parsed += len + 1;
            if parse_line(&line, &mut lines)? {
                return Ok(lines);
            }
        }
        if bytes.len() > MAX_REPLY {
            return Err(ControlError::Malformed(format!("more than {MAX_REPLY} bytes")));
        }
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
    let mut status = BirdStatus::default();
    for Line { code, text } in ask(socket, "show status").await? {
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
    Ok(status)
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

fn parse_sessions(lines: &[Line]) -> Vec<BgpSession> {
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
mod tests {
    use super::*;

    const REPLY: &str = "2002-Name       Proto      Table      State  Since         Info\n\
        1002-device1    Device     ---        up     00:25:58.989  \n\
        1006-\n\
        1002-Mesh_10_0_0_2 BGP        ---        up     00:26:03.001  Established   \n\
        1006-  Description:    Mesh: calico-02\n\
        \x20  BGP state:          Established\n\
        \x20    Neighbor address: 10.0.0.2\n\
        \x20    Neighbor AS:      65001\n\
        \x20  Channel ipv4\n\
        \n\
        1002-Node_fd00__2_port_1790 BGP        ---        start  2026-11-20  Active        Socket: Connection refused\n\
        1006-  BGP state:          Active\n\
        \x20    Neighbor AS:      64512\n\
        \x20\n\
        1002-mine       BGP        ---        up     00:26:03.001  Established\n\
        1006-  BGP state:          Established\n\
        \x20    Neighbor address: 10.0.0.9\n\
        0000 \n";

    fn lines(reply: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut last = false;
        for line in reply.lines().filter(|line| !line.is_empty()) {
            assert!(!last, "a line behind the last one: {line}");
            last = parse_line(line, &mut lines).unwrap();
        }
        assert!(last, "no last line");
        lines
    }

    #[test]
    fn sessions_are_read_and_others_left_out() {
        let sessions = parse_sessions(&lines(REPLY));
        assert_eq!(sessions.len(), 2);
        let [mesh, node] = &sessions[..] else { panic!("{sessions:?}") };
        assert_eq!(mesh.name, "Mesh_10_0_0_2");
        assert_eq!((mesh.peer_type, mesh.as_number), (PeerType::Mesh, Some(65001)));
        assert_eq!((mesh.state.as_str(), mesh.since.as_str()), ("up", "00:26:03.001"));
        assert!(mesh.is_established());
        assert_eq!(node.peer_type, PeerType::Node);
        assert_eq!(node.address, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(node.info, "Active Socket: Connection refused");
        assert!(!node.is_established());
    }

    #[test]
    fn names_are_those_of_the_original() {
        assert_eq!(protocol_name("Mesh", "10.0.0.2".parse().unwrap()), "Mesh_10_0_0_2");
        assert_eq!(protocol_name("Mesh", "fd00::2".parse().unwrap()), "Mesh_fd00__2");
    }

    #[test]
    fn what_is_not_bird_is_refused() {
        for line in ["", "abc", "12", "0001xBIRD", " continues nothing", "\u{e9}\u{e9}\u{e9}"] {
            assert!(parse_line(line, &mut Vec::new()).is_err(), "{line:?} was accepted");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(&dir.path().join("bird.ctl"), "show status").await.unwrap_err();
        assert!(matches!(error, ControlError::Connect { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_silent_peer_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bird.ctl");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let limit = Duration::from_millis(50);
        let error = ask_within(limit, &path, "show status").await.unwrap_err();
        assert!(matches!(error, ControlError::TimedOut(_)), "{error:?}");
    }
}
