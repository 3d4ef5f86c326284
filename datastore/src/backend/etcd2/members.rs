//! The members of the cluster, and which one is talked to.
//!
//! One at a time serves everything. It is chosen when it has answered a read that goes through the
//! cluster's log, so a dead, stalled or cut-off one is passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::Method;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::config::ROOT;
use super::connection::{Ask, Connection, Endpoint, authorization};
use super::error::Etcd2Error;
use crate::backend::etcd3::{CONNECT_TIMEOUT, Etcd3Config};

/// How much earlier than the next member a member is tried.
const STAGGER: Duration = Duration::from_millis(150);

/// The configuration, and where the search for a member begins.
#[derive(Debug)]
pub(super) struct Members {
    endpoints: Vec<Endpoint>,
    config: Etcd3Config,
    authorization: Option<Arc<str>>,
    start: AtomicUsize,
}

impl Members {
    /// Checks what can be checked without talking to anybody.
    pub(super) fn new(config: Etcd3Config) -> Result<Self, Etcd2Error> {
        let endpoints = config.endpoints.iter().map(|url| Endpoint::parse(url));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Etcd2Error::NoEndpoint);
        }
        if config.cert.is_some() != config.key.is_some() {
            return Err(Etcd2Error::HalfIdentity);
        }
        if config.ca_cert.is_none()
            && let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.tls)
        {
            return Err(Etcd2Error::NoAuthority(endpoint.url.to_string()));
        }
        let user = config.username.as_ref().zip(config.password.as_ref());
        let authorization = user.map(|(user, password)| authorization(user, password).into());
        Ok(Self { endpoints, config, authorization, start: AtomicUsize::new(0) })
    }

    /// A connection to the first member to answer, each tried a little after the one before.
    pub(super) async fn connect(&self) -> Result<Connection, Etcd2Error> {
        let tls = self.tls().await?;
        let count = self.endpoints.len();
        let start = self.start.load(Ordering::Relaxed);
        let mut tries: FuturesUnordered<_> = (0..count)
            .zip(0_u32..)
            .map(|(offset, turn)| {
                let tls = tls.as_ref();
                async move {
                    let index = (start + offset) % count;
                    tokio::time::sleep(STAGGER * turn).await;
                    Ok::<_, Etcd2Error>((index, self.probe(&self.endpoints[index], tls).await?))
                }
            })
            .collect();
        let mut failure = Etcd2Error::NoEndpoint;
        while let Some(tried) = tries.next().await {
            match tried {
                Ok((index, connection)) => {
                    self.start.store(index, Ordering::Relaxed);
                    tracing::debug!(endpoint = %connection.endpoint.url, "etcd member chosen");
                    return Ok(connection);
                }
                // A refusal says more than silence.
                Err(error) if failure.is_refused() => tracing::debug!(reason = error.chain()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A connection to the member that served last, without asking it anything.
    pub(super) async fn another(&self, like: &Endpoint) -> Result<Connection, Etcd2Error> {
        let tls = self.tls().await?;
        self.open(like, tls.as_ref()).await
    }

    /// A member failed: the next search begins with another one.
    pub(super) fn pass_over(&self, endpoint: &Endpoint) {
        if let Some(index) = self.endpoints.iter().position(|other| other == endpoint) {
            self.start.store((index + 1) % self.endpoints.len(), Ordering::Relaxed);
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
    ) -> Result<Connection, Etcd2Error> {
        let open = Connection::open(endpoint, tls, self.authorization.clone());
        let late = |_| silent("connect to", endpoint);
        tokio::time::timeout(CONNECT_TIMEOUT, open).await.map_err(late)?
    }

    /// Connects and asks something, which need not exist. Being refused is an answer too.
    async fn probe(
        &self,
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
    ) -> Result<Connection, Etcd2Error> {
        let mut connection = self.open(endpoint, tls).await?;
        let ask = Ask {
            op: "read",
            key: ROOT,
            method: Method::GET,
            query: "quorum=true".to_owned(),
            body: None,
        };
        let asked = async { connection.begin(&ask).await?.finish(&ask, CONNECT_TIMEOUT).await };
        let late = |_| silent("get an answer from", endpoint);
        match tokio::time::timeout(CONNECT_TIMEOUT, asked).await.map_err(late)? {
            Ok(_) => {}
            Err(Etcd2Error::Fault { fault, .. }) if !fault.is_unavailable() => {}
            Err(error) => return Err(error),
        }
        // The answer was read to its end; the connection notes that a moment later.
        Ok(connection)
    }

    /// The files are read for each connection, so they may be renewed.
    async fn tls(&self) -> Result<Option<TlsConnector>, Etcd2Error> {
        let Some(ca) = &self.config.ca_cert else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca).await? {
            roots.add(certificate).map_err(Etcd2Error::Tls)?;
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Etcd2Error::Tls)?
            .with_root_certificates(roots);
        let config = match (&self.config.cert, &self.config.key) {
            (Some(cert), Some(key)) => {
                let (chain, pem) = (certificates(cert).await?, read(key).await?);
                let own = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| Etcd2Error::Pem {
                    path: key.clone(),
                    source: std::io::Error::other(error),
                })?;
                builder.with_client_auth_cert(chain, own).map_err(Etcd2Error::Tls)?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

fn silent(op: &'static str, endpoint: &Endpoint) -> Etcd2Error {
    Etcd2Error::Timeout { op, key: endpoint.url.to_string(), after: CONNECT_TIMEOUT }
}

async fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, Etcd2Error> {
    let pem = read(path).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let failed = |source| Etcd2Error::Pem { path: path.to_owned(), source };
    let found = found.map_err(|error| failed(std::io::Error::other(error)))?;
    if found.is_empty() {
        return Err(failed(std::io::Error::other("there is no certificate in it")));
    }
    Ok(found)
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>, Etcd2Error> {
    tokio::fs::read(path)
        .await
        .map_err(|source| Etcd2Error::Pem { path: path.to_path_buf(), source })
}
