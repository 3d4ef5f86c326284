//! Waits until the agent says that an endpoint's policy and routes are in the kernel.
//!
//! The agent writes a file per programmed endpoint. Looking at it again and again costs a few
//! microseconds each time, less than it takes to set up inotify, and needs no directory that is
//! there already.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use calico_datastore::model::{Cidr, InterfaceName, Mac};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::protocol::{CniError, Code};

/// How long is waited when nobody says otherwise.
pub(crate) const USUAL: Duration = Duration::from_secs(10);
/// The first pause between two looks; it grows to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_micros(500);
/// See [`PAUSE_FIRST`].
const PAUSE_MOST: Duration = Duration::from_millis(10);
/// How long an agent may be away: it is being restarted, most likely.
const AWAY: Duration = Duration::from_secs(2);
/// How often is looked whether it is.
const ASK: Duration = Duration::from_millis(100);

/// What the file must be about: an earlier pod of the same name never counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The pod side's Ethernet address.
    pub(crate) mac: Mac,
    /// The host side.
    pub(crate) interface: InterfaceName,
    /// The host side's index, where known.
    pub(crate) index: Option<u32>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// When the endpoint was written: what counts for a file that says nothing (Felix 3.28).
    pub(crate) written: SystemTime,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is about this endpoint as it is now.
    Programmed,
    /// It is about an earlier one.
    Stale,
}

impl Expected {
    /// Judges a file by its content and the time of its last change.
    pub(crate) fn judge(&self, content: &[u8], modified: SystemTime) -> Judgement {
        let document = serde_json::from_slice::<Value>(content).unwrap_or_default();
        let says = document.get("interfaceName").is_some() || document.get("mac").is_some();
        let about_this = if says { self.matches(&document) } else { modified >= self.written };
        if about_this { Judgement::Programmed } else { Judgement::Stale }
    }

    fn matches(&self, document: &Value) -> bool {
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        let cidr = |value: &Value| value.as_str()?.parse::<Cidr>().ok();
        let nets = document["ipNetworks"].as_array();
        let nets: Option<Vec<_>> = nets.and_then(|list| list.iter().map(cidr).collect());
        let Some(mut nets) = nets else { return false };
        let mut wanted: Vec<_> = self.addresses.iter().copied().map(Cidr::host).collect();
        nets.sort_unstable();
        wanted.sort_unstable();
        let index = document["interfaceIndex"].as_u64();
        text("mac").parse() == Ok(self.mac)
            && text("interfaceName") == self.interface.as_str()
            && (index.is_none() || self.index.is_none() || index == self.index.map(u64::from))
            && nets == wanted
    }
}

/// Waits until the file says that the endpoint is programmed.
///
/// # Errors
/// Code 104 when that does not happen in `limit`, or when no agent answers on this host for two
/// seconds.
pub(crate) async fn wait(
    file: &Path,
    agent: &Path,
    expected: &Expected,
    limit: Duration,
) -> Result<(), CniError> {
    let began = Instant::now();
    let mut pause = PAUSE_FIRST;
    let mut asked: Option<Instant> = None;
    let mut answered = began;
    loop {
        let seen = match look(file, expected) {
            Ok(Some(Judgement::Programmed)) => return Ok(()),
            Ok(judgement) => judgement,
            Err(error) => {
                return Err(not_protected(format!("cannot read {}: {error}", file.display())));
            }
        };
        let now = Instant::now();
        if asked.is_none_or(|at| now - at >= ASK) {
            asked = Some(now);
            if answers(agent).await {
                answered = Instant::now();
            }
        }
        if answered.elapsed() >= AWAY {
            return Err(CniError::new(
                Code::NotProtected,
                "no calico-agent answers on this host",
                format!(
                    "nobody listens at {}: start it (systemctl start calico-agent), or let pods \
                     start without protection with \"policy_setup_timeout_seconds\": 0",
                    agent.display()
                ),
            ));
        }
        if began.elapsed() >= limit {
            let file = file.display();
            let why = match seen {
                Some(_) => format!("{file} is about an earlier pod"),
                None => format!("there is no {file}"),
            };
            return Err(not_protected(format!(
                "{why} after {} s; `calico-agent status` says what stands in the way",
                limit.as_secs_f32()
            )));
        }
        tokio::time::sleep(pause.min(limit.saturating_sub(began.elapsed()))).await;
        pause = (pause * 5 / 4).min(PAUSE_MOST);
    }
}

fn not_protected(details: String) -> CniError {
    CniError::new(Code::NotProtected, "the pod's policy is not in the kernel", details)
}

fn look(file: &Path, expected: &Expected) -> std::io::Result<Option<Judgement>> {
    // One file for both, so that content and time belong together.
    let read = || -> std::io::Result<(Vec<u8>, SystemTime)> {
        let mut open = std::fs::File::open(file)?;
        let mut content = vec![];
        std::io::Read::read_to_end(&mut open, &mut content)?;
        Ok((content, open.metadata()?.modified()?))
    };
    match read() {
        Ok((content, modified)) => Ok(Some(expected.judge(&content, modified))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether somebody listens.
pub(crate) async fn answers(agent: &Path) -> bool {
    let connect = UnixStream::connect(PathBuf::from(agent));
    matches!(tokio::time::timeout(AWAY, connect).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected {
            mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
            interface: "calic89f2f35-1b".parse().unwrap(),
            index: Some(7),
            addresses: vec!["192.168.0.0".parse().unwrap(), "fd80::1".parse().unwrap()],
            written: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        }
    }

    const CONTENT: &str = r#"{"mac":"ca:fe:1d:52:bb:e1","interfaceName":"calic89f2f35-1b","interfaceIndex":7,"ipNetworks":["192.168.0.0/32","fd80::1/128"],"profiles":["frontend"]}"#;

    #[test]
    fn only_this_very_pod_counts() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(200);
        let judge = |text: &str| expected().judge(text.as_bytes(), late);
        assert_eq!(judge(CONTENT), Judgement::Programmed);
        let reordered = CONTENT
            .replace(r#""192.168.0.0/32","fd80::1/128""#, r#""fd80::1/128","192.168.0.0/32""#)
            .replace(r#""interfaceIndex":7,"#, "");
        assert_eq!(judge(&reordered), Judgement::Programmed);
        for (from, to) in [
            ("bb:e1", "bb:e2"),
            ("-1b", "-1c"),
            ("Index\":7", "Index\":8"),
            ("192.168.0.0/32", "192.168.0.1/32"),
            (r#","fd80::1/128""#, ""),
            ("fd80::1/128\"", "fd80::1/128\",\"10.0.0.1/32\""),
            ("\"ca:fe:1d:52:bb:e1\"", "null"),
        ] {
            let other = CONTENT.replace(from, to);
            assert_ne!(other, CONTENT);
            assert_eq!(judge(&other), Judgement::Stale, "{other}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_counts_by_its_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for content in ["", "{}\n", "{"] {
            assert_eq!(expected().judge(content.as_bytes(), at(99)), Judgement::Stale);
            assert_eq!(expected().judge(content.as_bytes(), at(101)), Judgement::Programmed);
        }
    }

    #[tokio::test]
    async fn waits_for_its_own_file_and_no_longer_than_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("cni x eth0"), dir.path().join("agent.sock"));
        let _agent = tokio::net::UnixListener::bind(&socket).unwrap();
        let limit = Duration::from_millis(50);
        let error = wait(&file, &socket, &expected(), limit).await.unwrap_err();
        assert!(error.details.contains("there is no "), "{error}");
        std::fs::write(&file, CONTENT.replace("bb:e1", "bb:e2")).unwrap();
        let error = wait(&file, &socket, &expected(), limit).await.unwrap_err();
        assert!(error.details.contains("about an earlier pod"), "{error}");
        let write = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let new = dir.path().join(".new");
            std::fs::write(&new, CONTENT).unwrap();
            std::fs::rename(&new, &file).unwrap();
        };
        let long = Duration::from_secs(20);
        let expected = expected();
        let (waited, ()) = tokio::join!(wait(&file, &socket, &expected, long), write);
        assert_eq!(waited, Ok(()));
    }

    #[tokio::test]
    async fn without_an_agent_the_wait_is_short_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let limit = Duration::from_secs(60);
        let nobody = dir.path().join("agent.sock");
        let error = wait(&dir.path().join("x"), &nobody, &expected(), limit).await.unwrap_err();
        assert_eq!(error.code, Code::NotProtected as u32);
        assert!(error.msg.contains("no calico-agent answers"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        // But what an agent that is away now has programmed before counts.
        std::fs::write(dir.path().join("x"), CONTENT).unwrap();
        assert_eq!(wait(&dir.path().join("x"), &nobody, &expected(), limit).await, Ok(()));
    }
}
