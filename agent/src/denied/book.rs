//! What was denied of late, and who reads along.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use super::document::Denied;

/// How many are kept for who comes later.
const KEPT: usize = 500;

/// How far a reader may be behind before it loses some.
const BEHIND: usize = 1_000;

/// The last denied packets. Clones share their content.
#[derive(Clone, Debug)]
pub struct Book {
    last: Arc<Mutex<VecDeque<Denied>>>,
    readers: broadcast::Sender<Denied>,
}

impl Default for Book {
    fn default() -> Self {
        Self { last: Arc::default(), readers: broadcast::Sender::new(BEHIND) }
    }
}

/// One who reads along.
#[derive(Debug)]
pub struct Follow {
    receiver: broadcast::Receiver<Denied>,
}

impl Book {
    /// Adds one.
    pub(super) fn add(&self, denied: Denied) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(denied.clone());
        // Inside the lock: who begins to read meanwhile gets it once.
        let _ = self.readers.send(denied);
    }

    /// What is kept, oldest first, and what will come.
    pub fn read(&self) -> (Vec<Denied>, Follow) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (last.iter().cloned().collect(), Follow { receiver: self.readers.subscribe() })
    }
}

impl Follow {
    /// The next one; `None` when there will be none. What a slow reader misses is left out: the
    /// newest are what somebody looks for.
    pub async fn next(&mut self) -> Option<Denied> {
        loop {
            match self.receiver.recv().await {
                Ok(denied) => return Some(denied),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
