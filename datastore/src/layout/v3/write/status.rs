//! The values of the status keys.

use std::time::Duration;

use serde_json::json;

/// What is reported of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointStatus {
    /// Its policy and its routes are in the kernel.
    Up,
    /// They are not, for a reason that is no error.
    Down,
    /// They could not be programmed.
    Error,
}

/// The value of both keys of a host. `timestamp`: now, RFC 3339; `uptime`: of the agent; `first`:
/// the first report of this process.
pub fn host(timestamp: &str, uptime: Duration, first: bool) -> String {
    let value = json!({
        "time": timestamp,
        "uptime": uptime.as_secs_f64(),
        "first_update": first,
    });
    value.to_string()
}

/// The value of an endpoint's key.
pub fn endpoint(status: EndpointStatus) -> &'static str {
    match status {
        EndpointStatus::Up => r#"{"status":"up"}"#,
        EndpointStatus::Down => r#"{"status":"down"}"#,
        EndpointStatus::Error => r#"{"status":"error"}"#,
    }
}
