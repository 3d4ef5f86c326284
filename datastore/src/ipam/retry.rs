//! Conditional writes that know what became of them, and patience with other writers.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::IpamError;
use crate::store::{Seen, Store, StoreError, Stored};

/// How often a write is tried while others are faster.
pub(super) const TRIES: u32 = 100;

/// How often a write is tried when the store does not say whether it happened.
const UNSURE_TRIES: u32 = 2;

/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Counts the conflicts over one key.
#[derive(Debug)]
pub(super) struct Tries {
    key: String,
    tried: u32,
}

impl Tries {
    pub(super) fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), tried: 0 }
    }

    /// Pauses after a conflict: at once first, then for up to a while that grows with every
    /// conflict and differs between writers.
    ///
    /// # Errors
    /// After too many of them.
    pub(super) async fn again(&mut self) -> Result<(), IpamError> {
        self.tried += 1;
        if self.tried >= TRIES {
            return Err(IpamError::Conflicts { key: self.key.clone(), tries: self.tried });
        }
        if self.tried > 1 {
            let most = (Duration::from_millis(1) * self.tried).min(PAUSE_MAX);
            let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
            // Every new state is seeded by the system: random enough to part two writers.
            let pause = RandomState::new().hash_one(self.tried) % micros;
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
        Ok(())
    }
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It happened.
    Done,
    /// Somebody else wrote before.
    Conflict,
}

/// Writes `key` if it is still as it was read (`None`: absent).
///
/// A write that is answered with an error may have happened all the same, or may happen yet. So it
/// is read again: when nothing changed, the same write under the same condition is repeated, and
/// of all its copies only one can happen. When something did, `landed` tells from the value
/// whether it was us.
pub(super) async fn swap<S: Store>(
    store: &S,
    key: &str,
    read: Option<i64>,
    value: &[u8],
    landed: impl Fn(&[u8]) -> bool,
) -> Result<Outcome, StoreError> {
    write(store, key, read, None, value, landed).await
}

/// Writes `key` if it is absent, and nothing else under a prefix but what was seen there. A conflict
/// is one or the other. Else as [`swap`]; nobody else ever writes the same value.
pub(super) async fn create_beside<S: Store>(
    store: &S,
    key: &str,
    seen: &Seen,
    value: &[u8],
) -> Result<Outcome, StoreError> {
    write(store, key, None, Some(seen), value, |now| now == value).await
}

async fn write<S: Store>(
    store: &S,
    key: &str,
    read: Option<i64>,
    seen: Option<&Seen>,
    value: &[u8],
    landed: impl Fn(&[u8]) -> bool,
) -> Result<Outcome, StoreError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let answer = match (read, seen) {
            (None, None) => store.create(key, value).await,
            (None, Some(seen)) => store.create_beside(key, value, seen).await,
            (Some(revision), _) => store.replace(key, value, revision).await,
        };
        let error = match answer {
            Ok(true) => return Ok(Outcome::Done),
            Ok(false) if tried == 1 => return Ok(Outcome::Conflict),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        match (store.get(key).await, error) {
            // It is not the key that kept us, but what has come beside it: that stays as it is,
            // however often the same is tried.
            (Ok(None), None) if seen.is_some() => return Ok(Outcome::Conflict),
            (Ok(now), error) if revision(&now) == read => {
                if let Some(error) = error.filter(|_| tried >= UNSURE_TRIES) {
                    return Err(error);
                }
            }
            (Ok(Some(now)), _) if landed(&now.value) => return Ok(Outcome::Done),
            (Ok(_), _) => return Ok(Outcome::Conflict),
            (Err(_), Some(error)) | (Err(error), None) if tried >= UNSURE_TRIES => {
                return Err(error);
            }
            (Err(_), _) => {}
        }
    }
}

/// Removes `key` if it is still as it was read. When the answer is an error it is read again: gone
/// is gone.
pub(super) async fn remove<S: Store>(
    store: &S,
    key: &str,
    read: i64,
) -> Result<Outcome, StoreError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match store.delete_if(key, read).await {
            Ok(true) => return Ok(Outcome::Done),
            Ok(false) if tried == 1 => return Ok(Outcome::Conflict),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        match (store.get(key).await, error) {
            (Ok(None), _) => return Ok(Outcome::Done),
            (Ok(now), error) if revision(&now) == Some(read) => {
                if let Some(error) = error.filter(|_| tried >= UNSURE_TRIES) {
                    return Err(error);
                }
            }
            (Ok(_), _) => return Ok(Outcome::Conflict),
            (Err(_), Some(error)) | (Err(error), None) if tried >= UNSURE_TRIES => {
                return Err(error);
            }
            (Err(_), _) => {}
        }
    }
}

fn revision(stored: &Option<Stored>) -> Option<i64> {
    stored.as_ref().map(|stored| stored.revision)
}
