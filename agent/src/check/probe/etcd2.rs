//! Asks every member of the datastore by itself, by etcd's v2 API.

use std::time::Instant;

use calico_datastore::backend::etcd2::{Etcd2, Etcd2Error};
use calico_datastore::backend::etcd3::Etcd3Config;
use calico_datastore::layout::v1;

use crate::check::judge::etcd::{Answer, Member, Silence};

/// The members, and what is wrong with the configuration as a whole.
pub async fn probe(config: &Etcd3Config) -> (Vec<Member>, Option<String>) {
    if let Err(error) = Etcd2::new(config.clone()) {
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

/// Each call is bounded in time by the client. The API does not say which version etcd is of, and
/// nothing that depends on it is done there.
async fn ask(config: Etcd3Config) -> Result<Answer, Etcd2Error> {
    let client = Etcd2::new(config)?;
    let layout = v1::LAYOUT;
    // The first one connects.
    client.get(layout.ready_key).await?;
    let begin = Instant::now();
    let stored = client.get(layout.ready_key).await?;
    let latency = begin.elapsed();
    // What a role must let us read as well.
    for prefix in layout.prefixes {
        client.get(prefix.trim_end_matches('/')).await?;
    }
    let ready = stored.map(|stored| layout.is_ready(Some(stored.value.as_bytes())));
    Ok(Answer { latency, version: None, ready })
}
