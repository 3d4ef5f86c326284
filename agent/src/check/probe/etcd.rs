//! Asks every member of the datastore by itself.

use std::time::Instant;

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config, EtcdError};
use calico_datastore::layout::v3;

use crate::check::judge::etcd::{Answer, Member, Silence};

/// The members, and what is wrong with the configuration as a whole.
pub async fn probe(config: &Etcd3Config) -> (Vec<Member>, Option<String>) {
    if let Err(error) = Etcd3::new(config.clone()) {
        return (Vec::new(), Some(error.chain()));
    }
    let asked = config.endpoints.iter().map(|endpoint| async {
        let config = Etcd3Config { endpoints: vec![endpoint.clone()], ..config.clone() };
        let answer = ask(config)
            .await
            .map_err(|error| Silence { said: error.chain(), refused: error.is_refused() });
        Member { endpoint: endpoint.clone(), answer }
    });
    (futures::future::join_all(asked).await, None)
}

/// Each call is bounded in time by the client.
async fn ask(config: Etcd3Config) -> Result<Answer, EtcdError> {
    let client = Etcd3::new(config)?;
    let layout = v3::LAYOUT;
    // The first one connects.
    client.get(layout.ready_key).await?;
    let begin = Instant::now();
    let stored = client.get(layout.ready_key).await?;
    let latency = begin.elapsed();
    // What a role must let us read as well.
    for prefix in layout.prefixes {
        client.get(prefix).await?;
    }
    let ready = stored.map(|stored| layout.is_ready(Some(&stored.value)));
    // With access control only root may ask; it is not needed for anything.
    let version = client.version().await.ok();
    Ok(Answer { latency, version, ready })
}
