//! Asks a running agent over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::denied::Denied;
use crate::explain::Question;
use crate::explain::document::Explanation;
use crate::explain::graph::Graph;
use crate::status::document::StatusDocument;

/// How long the agent may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers on {} (is it running? `journalctl -u calico-agent` says why not)",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is there, but not for this user.
    #[error("only root may ask the agent on {}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("cannot ask the agent")]
    Ask(#[source] hyper::Error),
    /// It took too long.
    #[error("the agent did not answer within {LIMIT:?}")]
    TimedOut,
    /// It says why it does not.
    #[error("{0}")]
    Refused(String),
    /// Its answer is not the document that was asked for.
    #[error(
        "cannot read the agent's answer (another version? try `systemctl restart calico-agent`)"
    )]
    Answer(#[source] serde_json::Error),
}

/// The agent's status document.
///
/// # Errors
/// When nobody listens on the socket or the answer cannot be read.
pub async fn status(socket: &Path) -> Result<StatusDocument, ClientError> {
    let body = tokio::time::timeout(LIMIT, get(socket, "/status"))
        .await
        .map_err(|_| ClientError::TimedOut)??;
    serde_json::from_slice(&body).map_err(ClientError::Answer)
}

/// What the agent answers to a question, as it stands.
///
/// # Errors
/// When nobody listens on the socket, or the agent says why it does not answer.
pub async fn text(socket: &Path, path: &str) -> Result<String, ClientError> {
    let body = tokio::time::timeout(LIMIT, get(socket, path))
        .await
        .map_err(|_| ClientError::TimedOut)??;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Asks for another log level; what the agent says to that.
///
/// # Errors
/// When nobody listens on the socket, or the agent says why it does not.
pub async fn log_level(
    socket: &Path,
    level: &str,
    time: Option<Duration>,
) -> Result<String, ClientError> {
    let time = time.map(|time| format!("&seconds={}", time.as_secs_f64())).unwrap_or_default();
    post(socket, &format!("/log-level?level={}{time}", escaped(level))).await
}

/// Has `agent.toml` read again; what the agent says to that, which may be nothing.
///
/// # Errors
/// When nobody listens on the socket, or the file has mistakes.
pub async fn reload(socket: &Path) -> Result<String, ClientError> {
    post(socket, "/reload").await
}

/// Packets that were denied of late, one by one; with `follow` also those that come, until `tell` says
/// no. False when it was the agent that ended.
///
/// # Errors
/// When nobody listens on the socket, the answer cannot be read, or the agent says why it knows of
/// none.
pub async fn denied(
    socket: &Path,
    follow: bool,
    mut tell: impl FnMut(Denied) -> bool,
) -> Result<bool, ClientError> {
    let path = if follow { "/denied/follow" } else { "/denied" };
    let asked = tokio::time::timeout(LIMIT, ask(socket, path));
    let mut response = asked.await.map_err(|_| ClientError::TimedOut)??;
    let mut rest = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.map_err(ClientError::Ask)?;
        let Some(data) = frame.data_ref() else { continue };
        rest.extend_from_slice(data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let denied = serde_json::from_slice(&rest[..end]).map_err(ClientError::Answer)?;
            rest.drain(..=end);
            if !tell(denied) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What policy says about a packet, and why.
///
/// # Errors
/// When nobody listens on the socket, the agent does not know the answer, or it cannot be read.
pub async fn explain(socket: &Path, question: &Question) -> Result<Explanation, ClientError> {
    let path = format!("/explain?{}", query(question));
    let body = tokio::time::timeout(LIMIT, get(socket, &path))
        .await
        .map_err(|_| ClientError::TimedOut)??;
    serde_json::from_slice(&body).map_err(ClientError::Answer)
}

/// Who reaches whom on the agent's host.
///
/// # Errors
/// As [`explain`].
pub async fn graph(socket: &Path, question: &Question) -> Result<Graph, ClientError> {
    let path = format!("/graph?{}", query(question));
    let body = tokio::time::timeout(LIMIT, get(socket, &path))
        .await
        .map_err(|_| ClientError::TimedOut)??;
    serde_json::from_slice(&body).map_err(ClientError::Answer)
}

/// The question as the query of a URL.
fn query(question: &Question) -> String {
    let Question { from, to, protocol, port, source_port, icmp_type, icmp_code, interface } =
        question;
    let all = [
        ("from", Some(from.clone())),
        ("to", Some(to.clone())),
        ("protocol", protocol.clone()),
        ("port", port.clone()),
        ("source_port", source_port.map(|port| port.to_string())),
        ("icmp_type", icmp_type.map(|kind| kind.to_string())),
        ("icmp_code", icmp_code.map(|code| code.to_string())),
        ("interface", interface.clone()),
    ];
    let said = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let pairs: Vec<_> = said.map(|(name, value)| format!("{name}={}", escaped(&value))).collect();
    pairs.join("&")
}

/// Everything but letters, digits and `-._~` as `%XX` (RFC 3986).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

async fn get(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let response = ask(socket, path).await?;
    Ok(response.into_body().collect().await.map_err(ClientError::Ask)?.to_bytes())
}

/// Tells the agent to do something; what it says to that.
async fn post(socket: &Path, path: &str) -> Result<String, ClientError> {
    let asked = tokio::time::timeout(LIMIT, send(socket, Method::POST, path));
    let response = asked.await.map_err(|_| ClientError::TimedOut)??;
    let body = response.into_body().collect().await.map_err(ClientError::Ask)?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn ask(socket: &Path, path: &str) -> Result<hyper::Response<Incoming>, ClientError> {
    send(socket, Method::GET, path).await
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
) -> Result<hyper::Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Denied { path, source },
            _ => ClientError::Connect { path, source },
        }
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ClientError::Ask)?;
    // It ends with the answer.
    tokio::spawn(connection);
    let mut request = hyper::Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request
        .headers_mut()
        .insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("agent"));
    let response = sender.send_request(request).await.map_err(ClientError::Ask)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let unknown = response.status() == hyper::StatusCode::NOT_FOUND;
    let body = response.into_body().collect().await.map_err(ClientError::Ask)?.to_bytes();
    Err(ClientError::Refused(if unknown {
        "the agent that runs is of another version and does not know the question (try `systemctl \
         restart calico-agent`)"
            .to_owned()
    } else {
        String::from_utf8_lossy(&body).trim().to_owned()
    }))
}
