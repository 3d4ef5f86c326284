//! Polls that get stuck between the head of their answer and its end. etcd cannot be told to do that,
//! so here a member is played.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use calico_datastore::backend::etcd3::Etcd3Config;
use calico_datastore::layout::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::*;

/// The index of the first snapshot, which has the profile `a`.
const LISTED: i64 = 9;

/// In the list of what was asked: a snapshot, and the ready key, with which everything begins.
const SNAPSHOT: i64 = 0;
const READY: i64 = -1;

/// What comes behind the head of a poll.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Nothing,
    Half,
    All,
}

/// What happens after the first snapshot.
#[derive(Clone, Copy)]
struct Script {
    /// What the head of every poll says, and the index of a second snapshot, which has `b` too.
    index: i64,
    /// The index at which `b` came: the poll that asks for just that is told.
    event: i64,
    /// To polls right after the snapshot, and to those a while later.
    says: (Says, Says),
}

struct Member {
    config: Etcd3Config,
    /// The indexes that polls asked for, among [`SNAPSHOT`] and [`READY`].
    asked: Arc<Mutex<Vec<i64>>>,
    task: JoinHandle<()>,
}

impl Member {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoints = vec![format!("http://{}", listener.local_addr().unwrap())];
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listed = Arc::new(Mutex::new(None));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let talk = Talk { stream, script, asked: Arc::clone(&log), listed: listed.clone() };
                tokio::spawn(talk.run());
            }
        });
        Self { config: Etcd3Config { endpoints, ..Etcd3Config::default() }, asked, task }
    }

    /// What polls asked for after the first snapshot, until everything began anew.
    fn asked(&self) -> Vec<i64> {
        let asked = self.asked.lock().unwrap();
        let after = asked.iter().copied().skip_while(|index| *index != SNAPSHOT).skip(1);
        after.take_while(|index| *index != READY).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection.
struct Talk {
    stream: TcpStream,
    script: Script,
    asked: Arc<Mutex<Vec<i64>>>,
    /// When the first snapshot was read.
    listed: Arc<Mutex<Option<Instant>>>,
}

impl Talk {
    async fn run(mut self) {
        while let Some(target) = self.request().await {
            let done = match target.split_once("waitIndex=") {
                Some((_, index)) => self.poll(index.parse().unwrap()).await,
                None => self.read(&target).await,
            };
            if !done {
                return;
            }
        }
    }

    /// The path and query of the next request, of which none has a body.
    async fn request(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        head.split(' ').nth(1).map(str::to_owned)
    }

    async fn read(&mut self, target: &str) -> bool {
        let is_snapshot = target.contains("recursive=true");
        let first = {
            let mut listed = self.listed.lock().unwrap();
            let first = listed.is_none();
            if is_snapshot {
                listed.get_or_insert_with(Instant::now);
                self.asked.lock().unwrap().push(SNAPSHOT);
            } else if target.contains(v1::READY_KEY) {
                self.asked.lock().unwrap().push(READY);
            }
            first
        };
        let index = if first { LISTED } else { self.script.index };
        let ready = node(v1::READY_KEY, "true", 3);
        let node = if target.contains(v1::READY_KEY) {
            ready
        } else {
            let mut nodes = vec![ready, node(&tags("a"), "[]", 4)];
            if !first {
                nodes.push(node(&tags("b"), "[]", self.script.event));
            }
            format!(r#"{{"key":"/calico","dir":true,"nodes":[{}]}}"#, nodes.join(","))
        };
        let body = format!(r#"{{"action":"get","node":{node}}}"#);
        let length = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.say(&(head(index) + &length)).await
    }

    async fn poll(&mut self, index: i64) -> bool {
        let since = *self.listed.lock().unwrap();
        self.asked.lock().unwrap().push(index);
        let says = match self.script.says {
            _ if index != self.script.event => Says::Nothing,
            (soon, _) if since.is_none_or(|at| at.elapsed() < Duration::from_millis(500)) => soon,
            (_, later) => later,
        };
        let body = node(&tags("b"), "[]", self.script.event);
        let body = format!(r#"{{"action":"set","node":{body}}}"#);
        let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let mut text = head(self.script.index) + "Transfer-Encoding: chunked\r\n\r\n";
        text += match says {
            Says::Nothing => "",
            Says::Half => &chunk[..chunk.len() / 2],
            Says::All => &chunk,
        };
        if !self.say(&text).await || says == Says::All {
            return says == Says::All;
        }
        // The connection lives on.
        let _ = self.stream.read_u8().await;
        false
    }

    async fn say(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).await.is_ok()
    }
}

fn head(index: i64) -> String {
    let headers = format!("X-Etcd-Cluster-Id: 7e27\r\nX-Etcd-Index: {index}\r\n");
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}")
}

fn node(key: &str, value: &str, index: i64) -> String {
    let value = serde_json::Value::from(value);
    format!(r#"{{"key":"{key}","value":{value},"modifiedIndex":{index},"createdIndex":{index}}}"#)
}

/// Follows such a member until it knows both profiles; returns what was asked, and the listings.
async fn follow(script: Script) -> (Vec<i64>, u64) {
    let member = Member::start(script).await;
    let mut reader = Reader::start(member.config.clone());
    reader.until_profiles(&["a"]).await;
    reader.until_profiles(&["a", "b"]).await;
    (member.asked(), reader.listings())
}

/// The head comes, and says that the store is ahead; the event behind it gets stuck. It is asked for
/// again, and nothing beyond it before.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_gets_stuck_is_asked_for_again() {
    // Little ahead, and far.
    for index in [20, 500] {
        let says = (Says::Nothing, Says::All);
        let (asked, listings) = follow(Script { index, event: 10, says }).await;
        assert!(asked.iter().all(|index| *index <= 11), "{asked:?}");
        assert_eq!(listings, 1);
    }
}

/// An event of which half has come is no idle poll.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_event_is_a_listing() {
    let says = (Says::Half, Says::Half);
    let (asked, listings) = follow(Script { index: 20, event: 10, says }).await;
    assert!(asked.iter().all(|index| *index == 10), "{asked:?}");
    assert_eq!(listings, 2);
}

/// Far ahead, and two polls are silent: what happened was somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn two_silent_polls_pass_over_the_events_of_others() {
    let says = (Says::All, Says::All);
    let (asked, listings) = follow(Script { index: 500, event: 501, says }).await;
    let after: Vec<i64> = asked.iter().copied().filter(|index| *index != 10).collect();
    assert_eq!((after.first(), listings), (Some(&501), 1), "{asked:?}");
    assert!(asked.iter().filter(|index| **index == 10).count() >= 2, "{asked:?}");
}
