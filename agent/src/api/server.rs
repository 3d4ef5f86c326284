//! Answers on the socket.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;
use tokio::net::UnixListener;

use crate::denied::Denied;
use crate::explain::document::Explanation;
use crate::explain::graph::Graph;
use crate::explain::{self, ExplainError, Question, World, here, running};
use crate::reload::Reloader;
use crate::status::document::{HangingLoop, Overall, StatusDocument};
use crate::status::overview::Overview;
use crate::telemetry::level::Switch;

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct ServerError {
    /// The socket.
    path: PathBuf,
    /// Why.
    #[source]
    source: std::io::Error,
}

/// Opens the socket, in place of one that an earlier run left behind. Mode 0600.
///
/// Whoever calls it holds the run directory ([`crate::lock`]), so the one in place is nobody's.
///
/// # Errors
/// When the directory cannot be written.
pub fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let error = |source| ServerError { path: path.to_owned(), source };
    // Made under another name: nobody may open it before its mode is right, and it takes the
    // other's place in one step.
    let temporary = path.with_extension("sock.new");
    match std::fs::remove_file(&temporary) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(error)?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&temporary, mode).map_err(error)?;
    std::fs::rename(&temporary, path).map_err(error)?;
    Ok(listener)
}

/// Serves until the task is dropped.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: UnixListener,
    overview: Arc<Overview>,
    switch: Switch,
    reloader: Arc<Reloader>,
) -> std::io::Result<()> {
    let level = Router::new().route("/log-level", post(log_level)).with_state(switch);
    let reload = Router::new().route("/reload", post(reload)).with_state(reloader);
    let router = Router::new()
        .route("/status", get(status))
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/denied", get(denied))
        .route("/denied/follow", get(denied_from_now_on))
        .route("/explain", get(explain))
        .route("/graph", get(graph))
        .with_state(overview)
        .merge(level)
        .merge(reload);
    axum::serve(listener, router).await
}

async fn status(State(overview): State<Arc<Overview>>) -> Json<StatusDocument> {
    Json(overview.document().await)
}

/// What is refused, and why.
type Refusal = (StatusCode, String);

async fn explain(
    State(overview): State<Arc<Overview>>,
    Query(question): Query<Question>,
) -> Result<Json<Explanation>, Refusal> {
    answered(&overview, move |mut world| {
        here::look(&mut world, &question);
        explain::explain(&question, &world)
    })
    .await
}

async fn graph(
    State(overview): State<Arc<Overview>>,
    Query(question): Query<Question>,
) -> Result<Json<Graph>, Refusal> {
    answered(&overview, move |world| running::graph(&question, world)).await
}

/// Answers from what is known now, beside the tasks of the agent: large sets take their time.
async fn answered<T: Send + 'static>(
    overview: &Overview,
    answer: impl FnOnce(World) -> Result<T, ExplainError> + Send + 'static,
) -> Result<Json<T>, Refusal> {
    let world = running::world(overview).await;
    let world = world.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let answered = tokio::task::spawn_blocking(move || answer(world)).await;
    let answered =
        answered.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    answered.map(Json).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// The level that is asked for, and for how long.
#[derive(Debug, Deserialize)]
struct Level {
    level: String,
    seconds: Option<f64>,
}

async fn log_level(
    State(switch): State<Switch>,
    Query(Level { level, seconds }): Query<Level>,
) -> Result<String, Refusal> {
    let time = seconds.map(Duration::try_from_secs_f64).transpose();
    let time = time.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let said = switch.ask(&level, time);
    said.map(|said| said + "\n").map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// Nothing is to be said where nothing waits for a restart.
async fn reload(State(reloader): State<Arc<Reloader>>) -> Result<String, Refusal> {
    let waiting = reloader.reload().map_err(|error| {
        let said = format!("{}\nnothing changed: what was read before counts", error.lines());
        (StatusCode::BAD_REQUEST, said)
    })?;
    Ok(match waiting.join(", ") {
        keys if keys.is_empty() => keys,
        keys => format!("these changed and count only after a restart of the agent: {keys}\n"),
    })
}

async fn ready(State(overview): State<Arc<Overview>>) -> (StatusCode, &'static str) {
    match overview.overall() {
        Overall::Starting => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        Overall::Ready | Overall::Degraded => (StatusCode::OK, "ready\n"),
    }
}

async fn live(State(overview): State<Arc<Overview>>) -> (StatusCode, String) {
    let hanging = overview.hanging();
    if hanging.is_empty() {
        return (StatusCode::OK, "live\n".to_owned());
    }
    let lines = hanging
        .iter()
        .map(|HangingLoop { name, seconds }| format!("{name}: no sign of life for {seconds} s\n"));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

/// One line of JSON for each packet that was denied of late.
async fn denied(State(overview): State<Arc<Overview>>) -> Response {
    if let Some(reason) = overview.denied_unread() {
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    }
    let (kept, _) = overview.book.read();
    kept.iter().map(line).collect::<String>().into_response()
}

/// The same, and those that come.
async fn denied_from_now_on(State(overview): State<Arc<Overview>>) -> Response {
    if let Some(reason) = overview.denied_unread() {
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    }
    let (kept, follow) = overview.book.read();
    let first = kept.iter().map(line).collect::<String>();
    let coming = stream::unfold(follow, async |mut follow| {
        let denied = follow.next().await?;
        Some((line(&denied), follow))
    });
    // Who follows is not left waiting for what nobody tells any more.
    let end = Box::pin(async move { overview.denied_unread_from_now_on().await });
    let lines = stream::once(std::future::ready(first)).chain(coming.take_until(end));
    Body::from_stream(lines.map(Ok::<_, Infallible>)).into_response()
}

fn line(denied: &Denied) -> String {
    // Text and numbers only: there is nothing that JSON cannot say.
    serde_json::to_string(denied).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests;
