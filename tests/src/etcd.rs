//! One real etcd in a namespace, and reading and writing it.
//!
//! A client lives for one call: a connection belongs to the namespace in which it was made.

mod history;
mod listen;
mod v2;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};

pub use self::history::Version;
pub use self::listen::Heard;
use crate::netns::{Netns, Place, enter};
use crate::process::{Command, Process};
use crate::run::Run;
use crate::wait;

/// etcd refuses more operations than this in one transaction.
const MAX_OPERATIONS: usize = 128;
const LIMIT: Duration = Duration::from_secs(5);
/// How long one of several members may take: the next one is asked then.
const MEMBER_LIMIT: Duration = Duration::from_millis(1500);

/// An etcd of one member, whose data survives [`Etcd::stop`] and [`Etcd::start`]; or the way to a
/// cluster whose members somebody else runs ([`crate::etcd_cluster`]).
#[derive(Debug)]
pub struct Etcd {
    netns: String,
    command: Option<Command>,
    log: PathBuf,
    /// With commas between, as `ETCD_ENDPOINTS` has them.
    endpoints: String,
    /// The member that answered last is asked first.
    first: AtomicUsize,
    process: Option<Process>,
}

impl Etcd {
    /// An etcd that will listen on `address` inside `ns`; not started yet.
    pub fn new(run: &Run, ns: &Netns, address: IpAddr) -> Self {
        let client = format!("http://{address}:2379");
        let peer = format!("http://{address}:2380");
        let args = [
            ("--name", "demo"),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("demo={peer}")),
        ];
        let command = ns
            .command("etcd")
            .args(args.iter().flat_map(|(key, value)| [*key, *value]))
            .args(["--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(run.dir().join("etcd"));
        let log = run.dir().join("etcd.log");
        Self { command: Some(command), log, ..Self::of(ns, client) }
    }

    /// The same with its v2 API, as a host of Calico up to 2.6 needs it.
    #[must_use]
    pub fn with_v2(mut self) -> Self {
        self.command = self.command.map(|command| command.args(["--enable-v2"]));
        self
    }

    /// The way to members that run elsewhere: their client URLs with commas between. Reads and
    /// writes are made from inside `ns`, of the first member that answers.
    pub fn of(ns: &Place, endpoints: String) -> Self {
        Self {
            netns: ns.name().to_owned(),
            command: None,
            log: PathBuf::new(),
            endpoints,
            first: AtomicUsize::new(0),
            process: None,
        }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn start(&mut self) -> Result<()> {
        let command = self.command.as_ref().context("the members are somebody else's")?;
        self.process = Some(command.start(&self.log)?);
        let answer =
            wait::until("answer of etcd", Duration::from_secs(10), || self.get("health").map(Some));
        answer.map(drop).with_context(|| format!("see {}", self.log.display()))
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop()?;
        }
        Ok(())
    }

    /// Lets it run on when this value goes.
    pub fn keep(&mut self) {
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }

    /// Its client URLs, with commas between; valid in every namespace on the wire.
    pub fn endpoint(&self) -> &str {
        &self.endpoints
    }

    /// Writes one key. Returns the revision.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put(&self, key: &str, value: &str) -> Result<i64> {
        self.put_all(&[(key.to_owned(), value.to_owned())])
    }

    /// Writes keys, up to 128 at one revision. Returns the last revision.
    ///
    /// # Errors
    /// When etcd does not take them.
    pub fn put_all(&self, pairs: &[(String, String)]) -> Result<i64> {
        let parts = pairs.len().div_ceil(MAX_OPERATIONS);
        self.with_time_for(parts, async |mut client| {
            let mut revision = 0;
            for part in pairs.chunks(MAX_OPERATIONS) {
                let puts = part.iter().map(|(k, v)| TxnOp::put(k.as_str(), v.as_str(), None));
                let answer = client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            Ok(revision)
        })
    }

    /// Writes one key once, although an answer may get lost and a member that hangs may do long after
    /// what it was asked: who is late finds another revision of the key than it was told to replace.
    /// No two calls may write the same value. Returns the revision.
    ///
    /// # Errors
    /// When etcd does not take it, or another writer was quicker.
    pub fn replace(&self, key: &str, value: &str) -> Result<i64> {
        let revision = self.with(async |mut client| {
            let answer = client.get(key, None).await?;
            let kv = answer.kvs().first();
            if let Some(kv) = kv.filter(|kv| kv.value() == value.as_bytes()) {
                return Ok(Some(kv.mod_revision()));
            }
            let known = kv.map_or(0, etcd_client::KeyValue::mod_revision);
            let same = Compare::mod_revision(key, CompareOp::Equal, known);
            let put = TxnOp::put(key, value, None);
            let answer = client.txn(Txn::new().when([same]).and_then([put])).await?;
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            Ok(answer.succeeded().then_some(revision))
        })?;
        revision.with_context(|| format!("{key} has changed meanwhile"))
    }

    /// Deletes keys and writes others, all at one revision, which is returned.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn exchange(&self, deletes: &[String], puts: &[(String, String)]) -> Result<i64> {
        self.with(async |mut client| {
            let deletes = deletes.iter().map(|key| TxnOp::delete(key.as_str(), None));
            let puts = puts.iter().map(|(k, v)| TxnOp::put(k.as_str(), v.as_str(), None));
            let all: Vec<_> = deletes.chain(puts).collect();
            let answer = client.txn(Txn::new().and_then(all)).await?;
            Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
        })
    }

    /// Deletes one key. Returns the revision.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn delete(&self, key: &str) -> Result<i64> {
        self.with(async |mut client| {
            let answer = client.delete(key, None).await?;
            Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
        })
    }

    /// Deletes everything that begins with `prefix`.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn delete_prefix(&self, prefix: &str) -> Result<()> {
        // There may be thousands.
        self.with_time_for(4, async |mut client| {
            client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.map(drop)
        })
    }

    /// The value of one key.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.read(key, None)?.pop().map(|(_, value)| value))
    }

    /// The seconds that are left of the lease on which a key hangs; `None`: it has no lease.
    ///
    /// # Errors
    /// When there is no such key, or etcd does not answer.
    pub fn ttl(&self, key: &str) -> Result<Option<i64>> {
        let left = self.with(async |mut client| {
            let answer = client.get(key, None).await?;
            Ok(match answer.kvs().first().map(etcd_client::KeyValue::lease) {
                Some(0) => Some(None),
                Some(lease) => Some(Some(client.lease_time_to_live(lease, None).await?.ttl())),
                None => None,
            })
        })?;
        left.with_context(|| format!("no key {key}"))
    }

    /// All keys below `prefix` with their values, in order.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn get_prefix(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.read(prefix, Some(&GetOptions::new().with_prefix()))
    }

    /// A connection that stays open, for writes that are timed.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn writer(&self) -> Result<Writer> {
        // Connected inside the namespace by the first call; the socket stays there.
        enter(&self.netns, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = runtime.block_on(async {
                let all: Vec<&str> = self.endpoints.split(',').collect();
                let mut client = Client::connect(all, None).await?;
                client.get("health", None).await.map(|_| client)
            })?;
            Ok(Writer { runtime, client })
        })
    }

    fn read(&self, key: &str, options: Option<&GetOptions>) -> Result<Vec<(String, String)>> {
        self.with(async |client| {
            // A hundred thousand endpoints are 70 MB.
            let mut client = client.kv_client().max_decoding_message_size(usize::MAX);
            let answer = client.get(key, options.cloned()).await?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(answer.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect())
        })
    }

    fn with<T: Send>(
        &self,
        work: impl AsyncFn(Client) -> Result<T, etcd_client::Error> + Send,
    ) -> Result<T> {
        self.with_time_for(1, work)
    }

    /// Of so many requests each may take as long as one.
    fn with_time_for<T: Send>(
        &self,
        requests: usize,
        work: impl AsyncFn(Client) -> Result<T, etcd_client::Error> + Send,
    ) -> Result<T> {
        enter(&self.netns, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let all: Vec<&str> = self.endpoints.split(',').collect();
            let limit = if all.len() == 1 { LIMIT } else { MEMBER_LIMIT };
            let limit = limit * u32::try_from(requests.max(1))?;
            let first = self.first.load(Ordering::Relaxed);
            let mut result = Err(anyhow::anyhow!("no endpoint"));
            for index in (0..all.len()).map(|offset| (first + offset) % all.len()) {
                let call = async { work(Client::connect([all[index]], None).await?).await };
                let answer = runtime.block_on(async { tokio::time::timeout(limit, call).await });
                result = match answer {
                    Ok(Ok(value)) => {
                        self.first.store(index, Ordering::Relaxed);
                        return Ok(value);
                    }
                    Ok(Err(error)) => Err(error).context("etcd"),
                    Err(_) => Err(anyhow::anyhow!("etcd did not answer in time")),
                };
            }
            result
        })
    }
}

/// See [`Etcd::writer`].
pub struct Writer {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Writer {
    /// Writes one key.
    ///
    /// # Errors
    /// When etcd does not take it.
    pub fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let Self { runtime, client } = self;
        let put = async { tokio::time::timeout(LIMIT, client.put(key, value, None)).await };
        runtime.block_on(put).context("etcd is too slow")??;
        Ok(())
    }
}
