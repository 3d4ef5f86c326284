//! Asks a running agent over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::denied::Denied;
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
    /// It does not know the question.
    #[error("the agent answers {0} (another version? try `systemctl restart calico-agent`)")]
    Other(hyper::StatusCode),
    /// It has no answer, and says why.
    #[error("{0}")]
    Unread(String),
    /// Its answer is not a status document.
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
    let status = response.status();
    if status != hyper::StatusCode::OK && status != hyper::StatusCode::SERVICE_UNAVAILABLE {
        return Err(ClientError::Other(status));
    }
    if status == hyper::StatusCode::SERVICE_UNAVAILABLE {
        let reason = response.into_body().collect().await.map_err(ClientError::Ask)?.to_bytes();
        return Err(ClientError::Unread(String::from_utf8_lossy(&reason).into_owned()));
    }
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

async fn get(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let response = ask(socket, path).await?;
    Ok(response.into_body().collect().await.map_err(ClientError::Ask)?.to_bytes())
}

async fn ask(socket: &Path, path: &str) -> Result<hyper::Response<Incoming>, ClientError> {
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
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request
        .headers_mut()
        .insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("agent"));
    sender.send_request(request).await.map_err(ClientError::Ask)
}
