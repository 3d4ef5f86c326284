//! The real task over a store in memory, with a directory of rkt and records on a disk.

use std::collections::BTreeMap;
use std::fs;

use calico_cni::attachment::Stage;
use calico_datastore::ipam::{Ipam, Owner, Request};
use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::endpoint::{self, EndpointEdit};
use calico_datastore::layout::v3::write::{Birth, pool};
use calico_datastore::model::Cidr;
use calico_datastore::store::memory::Memory;
use tokio::task::JoinHandle;

use super::*;
use crate::desired::AclClass;
use crate::routes::monitor::Link;

const NODE: &str = "calico-01";
const GONE: &str = "0b61d5d2-77aa-4c1f-8a6e-3d1b2c4e5f60";
const ALIVE: &str = "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11";
const OTHER: &str = "4f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b9c0e53c14f2b";
const GRACE: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(20);

struct Rig {
    grace: Duration,
    store: Arc<Memory>,
    dir: tempfile::TempDir,
    records: Attachments,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    sync: watch::Sender<SyncState>,
    links: watch::Sender<Links>,
    states: watch::Receiver<CollectorState>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the calculation does with an endpoint that is deleted.
async fn follow(store: Arc<Memory>, desired: watch::Sender<Option<Arc<DesiredState>>>) {
    loop {
        desired.send_if_modified(|state| {
            let Some(before) = state else { return false };
            let mut now = DesiredState::clone(before);
            for id in before.endpoints.keys() {
                if store.text(&keys::workload_endpoint(id).unwrap()).is_none() {
                    now.endpoints.remove(id);
                }
            }
            let changed = now.endpoints.len() < before.endpoints.len();
            if changed {
                *state = Some(Arc::new(now));
            }
            changed
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn birth() -> Birth {
    Birth { uid: ALIVE.to_owned(), timestamp: "2026-11-21T00:00:00Z".to_owned() }
}

impl Rig {
    async fn new() -> Self {
        let store = Arc::new(Memory::default());
        let cidr = "192.168.0.0/24".parse().unwrap();
        let value = pool::create(&cidr, &birth());
        store.put(&keys::pool(&pool::name_of(&cidr)), &value, None).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        for state in ["embryo", "prepare", "prepared", "run", "exited-garbage", "garbage"] {
            fs::create_dir_all(dir.path().join("rkt/pods").join(state)).unwrap();
        }
        let records = Attachments::in_state_dir(dir.path());
        let state = DesiredState { origin: Origin::Datastore, ..DesiredState::default() };
        Self {
            grace: GRACE,
            store,
            dir,
            records,
            desired: watch::Sender::new(Some(Arc::new(state))),
            sync: watch::Sender::new(SyncState { complete: true, ..SyncState::default() }),
            links: watch::Sender::new(Links::new()),
            states: watch::channel(CollectorState::default()).1,
            tasks: vec![],
        }
    }

    fn start(&mut self) {
        let place = Place {
            node: NODE.into(),
            boot: "this".to_owned(),
            state_dir: self.dir.path().to_owned(),
            proc: PathBuf::from("/proc"),
            config: CollectorConfig {
                interval: Duration::from_millis(10),
                grace: self.grace,
                rkt_data_dir: self.dir.path().join("rkt"),
            },
        };
        let inputs = Inputs {
            desired: self.desired.subscribe(),
            sync: self.sync.subscribe(),
            links: self.links.subscribe(),
        };
        let (states, receiver) = watch::channel(CollectorState::default());
        self.states = receiver;
        let store = Arc::clone(&self.store);
        let task = run(store, place, inputs, states, Heartbeat::unasked());
        self.tasks.push(tokio::spawn(task));
        self.tasks.push(tokio::spawn(follow(Arc::clone(&self.store), self.desired.clone())));
    }

    fn ipam(&self, node: &str) -> Ipam<Arc<Memory>> {
        Ipam::new(Arc::clone(&self.store), node.into())
    }

    /// Gives a pod of a node an address.
    async fn assign(&self, handle: &str, node: &str) -> IpAddr {
        let attributes = BTreeMap::from([("node".to_owned(), node.to_owned())]);
        let owner = Owner { handle: handle.to_owned(), attributes };
        let request = Request { v4: 1, ..Request::default() };
        self.ipam(node).assign(&owner, &request).await.unwrap()[0].address
    }

    /// An endpoint in the store and in the desired state.
    async fn endpoint(&self, container: &str, interface: &str, address: IpAddr) {
        let id = endpoint::id(&NODE.into(), container, "eth0");
        let edit = EndpointEdit {
            addresses: vec![address],
            profiles: vec!["frontend".into()],
            interface: interface.parse().unwrap(),
            mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
            labels: BTreeMap::new(),
        };
        let value = endpoint::write(&id, &edit, None, &birth()).unwrap().unwrap();
        let key = keys::workload_endpoint(&id).unwrap();
        self.store.put(&key, &value, None).await.unwrap();
        let local = LocalEndpoint {
            interface: edit.interface,
            active: true,
            mac: Some(edit.mac),
            addresses: vec![Cidr::host(address)],
            nat: vec![],
            spoof: vec![],
            class: AclClass::default().id(),
        };
        self.desired.send_modify(|state| {
            let mut new = DesiredState::clone(state.as_ref().unwrap());
            new.endpoints.insert(id, Arc::new(local));
            *state = Some(Arc::new(new));
        });
    }

    fn has_endpoint(&self, container: &str) -> bool {
        let id = endpoint::id(&NODE.into(), container, "eth0");
        self.store.text(&keys::workload_endpoint(&id).unwrap()).is_some()
    }

    fn record(&self, container: &str, stage: Stage, addresses: Vec<IpAddr>) -> Attachment {
        let record = Attachment {
            container_id: container.to_owned(),
            ifname: "eth0".to_owned(),
            network: "frontend".to_owned(),
            netns: Some(format!("/var/run/netns/cni-{ALIVE}").into()),
            // Nothing here is in the kernel.
            host_name: None,
            handle: format!("frontend.{container}"),
            addresses,
            node: NODE.to_owned(),
            boot: "this".to_owned(),
            stage,
            delegated: None,
        };
        self.records.store(&record).unwrap();
        record
    }

    /// A pod as an ADD leaves it.
    async fn pod(&self, container: &str) -> IpAddr {
        let address = self.assign(&format!("frontend.{container}"), NODE).await;
        self.endpoint(container, &format!("cali{}", &container[..8]), address).await;
        self.record(container, Stage::Added, vec![address]);
        address
    }

    fn in_rkt(&self, state: &str, pod: &str) -> PathBuf {
        self.dir.path().join("rkt/pods").join(state).join(pod)
    }

    async fn addresses(&self) -> Vec<IpAddr> {
        let mut all = self.ipam(NODE).of_host().await.unwrap();
        all.sort_by_key(|allocation| allocation.address);
        all.into_iter().map(|allocation| allocation.address).collect()
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&CollectorState) -> bool) {
        let waited = tokio::time::timeout(LIMIT, self.states.wait_for(reached)).await;
        assert!(waited.is_ok_and(|state| state.is_ok()), "{what}: {:?}", self.states.borrow());
    }

    /// Nothing is collected in the time of some grace periods.
    async fn nothing_for_long(&self) {
        tokio::time::sleep(GRACE * 4).await;
        assert_eq!(self.states.borrow().collected, 0);
    }
}

#[tokio::test]
async fn what_is_left_behind_goes_and_what_lives_beside_it_stays() {
    let mut rig = Rig::new().await;
    fs::create_dir(rig.in_rkt("run", ALIVE)).unwrap();
    let lives = rig.pod(ALIVE).await;
    // With a record; without one; and an address alone.
    let other = "11111111-2222-4333-8444-555555555555";
    let third = "66666666-7777-4888-8999-000000000000";
    rig.pod(GONE).await;
    rig.pod(other).await;
    rig.records.remove(other, "eth0").unwrap();
    rig.assign(&format!("frontend.{third}"), NODE).await;
    // A killed ADD of another runtime, beside a pod of it that lives.
    let killed = rig.assign(&format!("frontend.{OTHER}"), NODE).await;
    rig.record(OTHER, Stage::Adding { pid: u32::MAX, started: 1 }, vec![killed]);
    let theirs = OTHER.replace('4', "5");
    let kept = rig.pod(&theirs).await;
    // An ADD that was killed before it had written anything down.
    drop(rig.records.lock(third, Duration::ZERO).unwrap());
    // Of others.
    let kube = rig.assign(&format!("k8s-pod-network.{GONE}"), NODE).await;
    let tunnel = rig.assign("ipip-tunnel-addr-calico-01", NODE).await;
    let remote = rig.assign(&format!("frontend.{GONE}x"), "calico-02").await;

    rig.start();
    rig.until("all four", |state| state.collected == 4 && state.suspected.is_empty()).await;
    let mut expected = vec![lives, kept, kube, tunnel];
    expected.sort();
    assert_eq!(rig.addresses().await, expected);
    assert_eq!(rig.ipam("calico-02").of_host().await.unwrap()[0].address, remote);
    assert!(rig.has_endpoint(ALIVE) && rig.has_endpoint(&theirs));
    assert!(!rig.has_endpoint(GONE) && !rig.has_endpoint(other));
    let left = rig.records.list().unwrap().attachments;
    let left: Vec<_> = left.iter().map(|record| &*record.container_id).collect();
    assert_eq!(left, [&*theirs, ALIVE]);
    let files = fs::read_dir(rig.records.dir()).unwrap().count();
    assert_eq!(files, 2, "a lock was left");
    assert_eq!(rig.states.borrow().problems, []);
    assert_eq!(rig.states.borrow().pods, Some(1));
}

#[tokio::test]
async fn a_stopped_pod_stays_until_it_is_removed() {
    let mut rig = Rig::new().await;
    fs::create_dir(rig.in_rkt("run", GONE)).unwrap();
    let address = rig.pod(GONE).await;
    rig.start();
    rig.nothing_for_long().await;
    fs::rename(rig.in_rkt("run", GONE), rig.in_rkt("exited-garbage", GONE)).unwrap();
    rig.nothing_for_long().await;
    assert_eq!(rig.addresses().await, [address]);
    fs::remove_dir(rig.in_rkt("exited-garbage", GONE)).unwrap();
    rig.until("the end", |state| state.collected == 1).await;
    assert_eq!(rig.addresses().await, [] as [IpAddr; 0]);
}

#[tokio::test]
async fn nothing_goes_without_rkts_directory_or_the_datastore() {
    let mut rig = Rig::new().await;
    rig.pod(GONE).await;
    let pods = rig.dir.path().join("rkt/pods");
    let away = rig.dir.path().join("away");
    fs::rename(&pods, &away).unwrap();
    rig.start();
    rig.nothing_for_long().await;
    assert_eq!(rig.states.borrow().pods, None);
    // Not ready, or read anew after a wipe: what was in sync before does not count.
    rig.sync.send_modify(|sync| sync.waiting = Some("not ready".to_owned()));
    fs::rename(&away, &pods).unwrap();
    rig.until("no look", |state| !state.looks).await;
    rig.nothing_for_long().await;
    assert!(rig.has_endpoint(GONE));
    // A policy from disk is not what the datastore says.
    let stored = DesiredState {
        origin: Origin::Stored { since: 0 },
        ..DesiredState::clone(rig.desired.borrow().as_ref().unwrap())
    };
    let known = rig.desired.send_replace(Some(Arc::new(stored)));
    rig.sync.send_modify(|sync| sync.waiting = None);
    rig.nothing_for_long().await;
    rig.desired.send_replace(known);
    rig.until("the end", |state| state.collected == 1).await;
}

#[tokio::test]
async fn a_suspicion_ends_with_the_sync() {
    let mut rig = Rig::new().await;
    // Much longer than what a busy machine may keep us from going on.
    rig.grace = GRACE * 10;
    rig.pod(GONE).await;
    rig.start();
    for _ in 0..4 {
        rig.until("suspected", |state| state.suspected.len() == 1).await;
        tokio::time::sleep(rig.grace / 3).await;
        rig.sync.send_modify(|sync| sync.waiting = Some("etcd is away".to_owned()));
        rig.until("no look", |state| !state.looks && state.suspected.is_empty()).await;
        rig.sync.send_modify(|sync| sync.waiting = None);
    }
    // Longer than the grace period by now, but never for so long at a time.
    assert_eq!(rig.states.borrow().collected, 0);
    rig.until("the end", |state| state.collected == 1).await;
}

#[tokio::test]
async fn what_the_plugin_works_on_is_left_alone() {
    let mut rig = Rig::new().await;
    let address = rig.assign(&format!("frontend.{OTHER}"), NODE).await;
    let killed = Stage::Adding { pid: u32::MAX, started: 1 };
    rig.record(OTHER, killed, vec![address]);
    let lock = rig.records.lock(OTHER, Duration::ZERO).unwrap().unwrap();
    rig.start();
    rig.nothing_for_long().await;
    // What it did meanwhile.
    rig.record(OTHER, Stage::Added, vec![address]);
    drop(lock);
    rig.nothing_for_long().await;
    assert_eq!(rig.addresses().await, [address]);
    // A process that lives: this one.
    rig.record(OTHER, Stage::adding_now(), vec![address]);
    rig.nothing_for_long().await;
    rig.record(OTHER, Stage::Failed, vec![address]);
    rig.until("the end", |state| state.collected == 1).await;
    assert_eq!(rig.addresses().await, [] as [IpAddr; 0]);
}

#[tokio::test]
async fn what_fails_is_said_and_tried_again() {
    let mut rig = Rig::new().await;
    rig.pod(GONE).await;
    rig.start();
    rig.until("suspected", |state| state.suspected.len() == 1).await;
    rig.store.fail(u32::MAX);
    rig.until("a problem", |state| {
        let subject = format!("collector: endpoint cni/default/{GONE}/eth0");
        state.problems.iter().any(|problem| problem.subject == subject)
    })
    .await;
    assert!(rig.records.load(GONE, "eth0").unwrap().is_some(), "the record is kept");
    rig.store.fail(0);
    rig.until("the end", |state| state.collected == 1 && state.problems.is_empty()).await;
    assert!(!rig.has_endpoint(GONE));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_said_and_keeps_what_is_its_own() {
    let mut rig = Rig::new().await;
    let (broken, gone) = (rig.pod(GONE).await, "11111111-2222-4333-8444-555555555555");
    fs::write(rig.records.dir().join(format!("{GONE}_eth0.json")), "{").unwrap();
    rig.pod(gone).await;
    rig.start();
    rig.until("the other", |state| state.collected == 1).await;
    tokio::time::sleep(GRACE * 4).await;
    assert_eq!(rig.states.borrow().collected, 1);
    assert_eq!(rig.addresses().await, [broken]);
    assert_eq!(rig.states.borrow().problems.len(), 1);
}

#[tokio::test]
async fn an_interface_that_is_used_keeps_its_endpoint() {
    let mut rig = Rig::new().await;
    let address = rig.assign(&format!("frontend.{GONE}"), NODE).await;
    rig.endpoint(GONE, "cali0", address).await;
    let link = Link { index: 7, up: true, mac: None, mtu: 1500, ..Link::default() };
    rig.links.send_replace(Links::from_iter([("cali0".parse().unwrap(), link)]));
    rig.start();
    rig.nothing_for_long().await;
    rig.links.send_replace(Links::new());
    rig.until("the end", |state| state.collected == 1).await;
    assert_eq!(rig.addresses().await, [] as [IpAddr; 0]);
}
