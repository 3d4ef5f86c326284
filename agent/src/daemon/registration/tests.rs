use std::future::ready;
use std::sync::Mutex;

use calico_datastore::layout::v3::keys;
use calico_datastore::store::memory::Memory;

use super::*;
use crate::node::registration::tests::calico_01;

const ADDRESS: [u8; 4] = [172, 18, 18, 101];

/// An uplink that has its address from a time on.
fn from(up: Duration) -> impl Fn() -> std::future::Ready<Result<Vec<HostAddress>, AddressError>> {
    let start = tokio::time::Instant::now();
    move || {
        let address = HostAddress { address: ADDRESS.into(), prefix_len: 24 };
        let up = start.elapsed() >= up;
        ready(Ok(Some(address).filter(|_| up).into_iter().collect()))
    }
}

struct Rig {
    store: Memory,
    read: watch::Sender<SourceStatus>,
    result: watch::Receiver<Registration>,
}

impl Rig {
    /// The stored address and what is wrong.
    fn now(&self) -> (String, Vec<String>) {
        let node = self.store.text(&keys::node(&"calico-01".into())).unwrap_or_default();
        let address = node.split("ipv4Address\":\"").nth(1).unwrap_or_default();
        let address = address.split('"').next().unwrap_or_default().to_owned();
        let problems = self.result.borrow().problems.clone();
        (address, problems.into_iter().map(|problem| problem.message).collect())
    }
}

/// Runs the task beside a test.
async fn beside<F>(store: Memory, interfaces: impl Fn() -> F, test: impl AsyncFnOnce(&Rig))
where
    F: Future<Output = Result<Vec<HostAddress>, AddressError>>,
{
    let dir = tempfile::tempdir().unwrap();
    let nodename = dir.path().join("nodename");
    let host = Host { identity: calico_01(), nodename, may_initialise_later: false };
    let (read, read_rx) = watch::channel(SourceStatus::default());
    let (result_tx, result) = watch::channel(Registration::default());
    let rig = Rig { store, read, result };
    tokio::select! {
        () = keep(&rig.store, host, interfaces, read_rx, result_tx) => panic!("it ended"),
        () = test(&rig) => {}
    }
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

fn right() -> (String, Vec<String>) {
    ("172.18.18.101/24".to_owned(), Vec::new())
}

#[tokio::test(start_paused = true)]
async fn an_address_that_came_while_the_store_was_away_is_no_problem() {
    let store = Memory::default();
    store.fail(4);
    let test = async |rig: &Rig| {
        seconds(5).await;
        assert_eq!(rig.now(), right());
        assert!(rig.result.borrow().done);
    };
    beside(store, from(Duration::from_millis(500)), test).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_after_the_registration_gets_its_length() {
    let test = async |rig: &Rig| {
        seconds(20).await;
        let (address, problems) = rig.now();
        assert_eq!((&*address, problems.len()), ("172.18.18.101/32", 1), "{problems:?}");
        seconds(20).await;
        assert_eq!(rig.now(), right());
        // Nothing is left to look for.
        rig.store.take_writes();
        seconds(100).await;
        assert_eq!(rig.store.take_writes(), [""; 0]);
    };
    beside(Memory::default(), from(Duration::from_secs(25)), test).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_never_comes_is_asked_of_nobody_but_the_kernel() {
    let asked = Mutex::new(0);
    let none = || {
        *asked.lock().unwrap() += 1;
        ready(Err(AddressError::TimedOut))
    };
    let test = async |rig: &Rig| {
        seconds(1).await;
        assert_eq!(rig.store.take_writes().len(), 3);
        let before = rig.now();
        assert_eq!(before.1.len(), 1, "{before:?}");
        seconds(100).await;
        assert_eq!((rig.now(), rig.store.take_writes()), (before, vec![]));
    };
    beside(Memory::default(), none, test).await;
    let asked = *asked.lock().unwrap();
    assert!((10..13).contains(&asked), "asked {asked} times in 100 s");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_wiped_meanwhile_is_not_declared_ready() {
    let test = async |rig: &Rig| {
        seconds(20).await;
        for key in rig.store.keys() {
            rig.store.delete(&key).await.unwrap();
        }
        seconds(20).await;
        assert_eq!(rig.store.keys(), [""; 0]);
        assert!(rig.now().1[0].contains("no ClusterInformation"), "{:?}", rig.now());
        // Somebody restores it, and it is read again.
        let ready = r#"{"spec":{"datastoreReady":true}}"#;
        rig.store.create(keys::READY_KEY, ready.as_bytes()).await.unwrap();
        rig.read.send_modify(|status| status.listings = 2);
        seconds(5).await;
        assert_eq!(rig.now(), right());
    };
    beside(Memory::default(), from(Duration::from_secs(25)), test).await;
}
