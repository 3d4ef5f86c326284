//! The control of whatever comes from etcd: a watch of the same keys, in the same run, that does
//! nothing with what it hears.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use calico_e2e::etcd::{Etcd, Heard};

/// A watch, and what it heard.
pub(crate) struct Control {
    events: Receiver<Heard>,
    heard: HashMap<String, Instant>,
}

impl Control {
    /// Listens for every key of endpoints.
    pub(crate) fn listen(etcd: &Etcd) -> Result<Self> {
        let events = etcd.listen("/calico/resources/v3/projectcalico.org/workloadendpoints/")?;
        Ok(Self { events, heard: HashMap::new() })
    }

    /// When the last write of a key was heard.
    pub(crate) fn heard(&mut self, key: &str, limit: Duration) -> Result<Instant> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.heard.remove(key) {
                return Ok(at);
            }
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Heard { key, at }) => drop(self.heard.insert(key, at)),
                Err(RecvTimeoutError::Timeout) => bail!("the control heard nothing of {key}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the control's watch ended"),
            }
        }
    }

    /// Forgets what came before.
    pub(crate) fn forget(&mut self) {
        while self.events.try_recv().is_ok() {}
        self.heard.clear();
    }
}
