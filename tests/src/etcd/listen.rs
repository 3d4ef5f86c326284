//! A watch that only says when it heard of which key.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result};
use etcd_client::{Client, WatchOptions};

use super::Etcd;
use crate::netns::enter;

/// A key was written or deleted.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The key.
    pub key: String,
    /// When the news came.
    pub at: Instant,
}

impl Etcd {
    /// Hears of every write below `prefix` from now on, until the receiver is dropped.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn listen(&self, prefix: &str) -> Result<Receiver<Heard>> {
        let (heard, events) = channel();
        let (ready, begun) = channel();
        let (netns, endpoints) = (self.netns.clone(), self.endpoints.clone());
        let prefix = prefix.to_owned();
        std::thread::spawn(move || {
            let outcome = enter(&netns, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(watch(&endpoints, &prefix, &heard, &ready))
            });
            // Before it began somebody waits for it; after that the end of the channel says it.
            let _ = ready.send(outcome);
        });
        begun.recv().context("the watch ended")??;
        Ok(events)
    }
}

async fn watch(
    endpoints: &str,
    prefix: &str,
    heard: &Sender<Heard>,
    ready: &Sender<Result<()>>,
) -> Result<()> {
    let all: Vec<&str> = endpoints.split(',').collect();
    let mut client = Client::connect(all, None).await?;
    let mut stream = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
    let _ = ready.send(Ok(()));
    while let Some(response) = stream.message().await? {
        let at = Instant::now();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            if heard.send(Heard { key, at }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
