//! Finds the shared cases and fixtures, which are replayed in place.

#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use serde_json::Value;

/// The file as JSON, or `None` (and a line saying so) when the shared directory is absent.
pub(crate) fn load(file: &str) -> Option<Value> {
    let Some(directory) = std::env::var_os("CALICO_SHARED") else {
        println!("skipped: CALICO_SHARED is not set");
        return None;
    };
    let path = std::path::Path::new(&directory).join(file);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_slice(&text).unwrap())
}

/// A JSON string.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string"))
}
