//! The member of the cluster that is talked to, and how it is chosen.
//!
//! One member at a time serves everything: pages of one listing and the watch after it are then
//! of one mind, and a dead member costs one failure instead of every second call, as it would
//! with etcd-client's own balancing. A member is chosen when it has answered a read that needs a
//! leader, so a dead, stalled or cut-off one is passed over.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;

use super::config::{
    CONNECT_TIMEOUT, Etcd3Config, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_MESSAGE_BYTES,
};
use super::error::EtcdError;

/// How much earlier than the next member a member is tried.
const STAGGER: Duration = Duration::from_millis(150);

/// Read to see whether a member answers. It need not exist, and being refused is an answer too.
const PROBE_KEY: &str = "/calico";

/// A member that answered.
#[derive(Clone)]
pub(super) struct Session {
    id: u64,
    pub(super) endpoint: Arc<str>,
    pub(super) client: Client,
}

/// Keeps the session and replaces it when it fails.
pub(super) struct Sessions {
    config: Etcd3Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Session>,
    /// Sessions made so far.
    made: u64,
    /// Where the search for a member starts: not at the one that failed last.
    start: usize,
}

impl Sessions {
    /// Checks what can be checked without talking to anybody.
    pub(super) fn new(config: Etcd3Config) -> Result<Self, EtcdError> {
        if config.endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        if config.cert.is_some() != config.key.is_some() {
            return Err(EtcdError::HalfIdentity);
        }
        if config.ca_cert.is_none()
            && let Some(endpoint) = config.endpoints.iter().find(|e| is_tls(e))
        {
            return Err(EtcdError::NoAuthority { endpoint: endpoint.clone() });
        }
        Ok(Self { config, state: Mutex::default() })
    }

    /// The current session, or a new one. Callers bound it in time; giving up is safe.
    pub(super) async fn get(&self) -> Result<Session, EtcdError> {
        let mut state = self.state.lock().await;
        if let Some(session) = &state.current {
            return Ok(session.clone());
        }
        let (index, client) = self.choose(state.start).await?;
        state.made += 1;
        state.start = index;
        let endpoint = Arc::from(self.config.endpoints[index].as_str());
        tracing::debug!(%endpoint, "etcd member chosen");
        let session = Session { id: state.made, endpoint, client };
        state.current = Some(session.clone());
        Ok(session)
    }

    /// A session failed: the next call chooses anew, beginning with another member.
    pub(super) async fn discard(&self, session: &Session) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| current.id == session.id) {
            state.current = None;
            state.start = (state.start + 1) % self.config.endpoints.len();
        }
    }

    /// The first member to answer, each tried a little after the one before.
    async fn choose(&self, start: usize) -> Result<(usize, Client), EtcdError> {
        let count = self.config.endpoints.len();
        let mut tries: FuturesUnordered<_> = (0..count)
            .zip(0_u32..)
            .map(|(offset, turn)| async move {
                let index = (start + offset) % count;
                tokio::time::sleep(STAGGER * turn).await;
                self.connect(&self.config.endpoints[index]).await.map(|client| (index, client))
            })
            .collect();
        let mut failure = EtcdError::NoEndpoint;
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(found) => return Ok(found),
                // A refusal says more than silence.
                Err(error) if failure.is_refused() => tracing::debug!(reason = error.chain()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect(&self, endpoint: &str) -> Result<Client, EtcdError> {
        let options = self.options(endpoint).await?;
        let connect = async {
            let client = Client::connect([endpoint], Some(options)).await?;
            // Connecting is lazy: only a read shows that anybody is there.
            let probe = GetOptions::new().with_count_only();
            match client.kv_client().get(PROBE_KEY, Some(probe)).await {
                Ok(_) => Ok(client),
                Err(etcd_client::Error::GRpcStatus(status))
                    if status.message().contains("permission denied") =>
                {
                    Ok(client)
                }
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(source)) => Err(EtcdError::Connect { endpoint: endpoint.to_owned(), source }),
            Err(_) => {
                Err(EtcdError::Silent { endpoint: endpoint.to_owned(), after: CONNECT_TIMEOUT })
            }
        }
    }

    async fn options(&self, endpoint: &str) -> Result<ConnectOptions, EtcdError> {
        let config = &self.config;
        // Pings go out while a call or a watch is open. Without one etcd would take them for
        // abuse and close the connection.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
            .with_require_leader(true);
        if let (Some(user), Some(password)) = (&config.username, &config.password) {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        if is_tls(endpoint) {
            let mut tls = TlsOptions::new();
            if let Some(path) = &config.ca_cert {
                tls = tls.ca_certificate(Certificate::from_pem(read(path).await?));
            }
            if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
                tls = tls.identity(Identity::from_pem(read(cert).await?, read(key).await?));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

impl Session {
    pub(super) fn kv(&self) -> etcd_client::KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(super) fn watch(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("https://")
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, EtcdError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| EtcdError::Pem { path: path.to_path_buf(), source })
}
