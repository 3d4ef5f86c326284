//! Waiting with a bound, saying what was waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `check` every 10 ms until it answers `Some`, at most `limit`.
///
/// # Errors
/// When the time is over: names `what`, and the last error of `check` if it had one.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        crate::run::stop_if_interrupted();
        if Instant::now() >= end {
            match last {
                Some(error) => return Err(error.context(format!("no {what} within {limit:?}"))),
                None => bail!("no {what} within {limit:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// As [`until`] for a plain condition.
///
/// # Errors
/// When the time is over.
pub fn until_true(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || Ok(check().then_some(())))
}
