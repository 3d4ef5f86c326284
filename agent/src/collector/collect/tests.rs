//! What goes with a thing and what is others', over a store in memory.

use std::collections::BTreeMap;

use calico_cni::attachment::Stage;
use calico_datastore::ipam::{Owner, Request};
use calico_datastore::layout::v3::keys;
use calico_datastore::layout::v3::write::endpoint::{self, EndpointEdit};
use calico_datastore::layout::v3::write::{Birth, pool};
use calico_datastore::store::memory::Memory;

use super::*;

const NODE: &str = "calico-01";
const GONE: &str = "0b61d5d2-77aa-4c1f-8a6e-3d1b2c4e5f60";

struct Rig {
    collector: Collector<Arc<Memory>>,
    _dir: tempfile::TempDir,
}

fn birth() -> Birth {
    Birth { uid: GONE.to_owned(), timestamp: "2026-11-21T00:00:00Z".to_owned() }
}

impl Rig {
    async fn new() -> Self {
        let store = Arc::new(Memory::default());
        let cidr = "192.168.0.0/24".parse().unwrap();
        let value = pool::create(&cidr, &birth());
        store.put(&keys::pool(&pool::name_of(&cidr)), &value, None).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let attachments = Arc::new(Attachments::in_state_dir(dir.path()));
        Self { collector: Collector { store, node: NODE.into(), attachments }, _dir: dir }
    }

    async fn assign(&self, handle: &str) -> IpAddr {
        let attributes = BTreeMap::from([("node".to_owned(), NODE.to_owned())]);
        let owner = Owner { handle: handle.to_owned(), attributes };
        let request = Request { v4: 1, ..Request::default() };
        self.collector.ipam().assign(&owner, &request).await.unwrap()[0].address
    }

    /// An endpoint of the pod that is gone, without a record.
    async fn endpoint(&self, ifname: &str, network: &str, address: IpAddr) -> Endpoint {
        let id = endpoint::id(&NODE.into(), GONE, ifname);
        let edit = EndpointEdit {
            addresses: vec![address],
            profiles: vec![network.into()],
            interface: format!("cali{ifname}").parse().unwrap(),
            mac: "ca:fe:1d:52:bb:e1".parse().unwrap(),
            labels: BTreeMap::new(),
        };
        let value = endpoint::write(&id, &edit, None, &birth()).unwrap().unwrap();
        let key = keys::workload_endpoint(&id).unwrap();
        self.collector.store.put(&key, &value, None).await.unwrap();
        Endpoint { id, interface: edit.interface, mac: Some(edit.mac), addresses: vec![address] }
    }

    fn record(&self, ifname: &str, network: &str, addresses: Vec<IpAddr>) {
        let record = Attachment {
            container_id: GONE.to_owned(),
            ifname: ifname.to_owned(),
            network: network.to_owned(),
            netns: None,
            host_name: None,
            handle: format!("{network}.{GONE}"),
            addresses,
            node: NODE.to_owned(),
            boot: "this".to_owned(),
            stage: Stage::Added,
            delegated: None,
        };
        self.collector.attachments.store(&record).unwrap();
    }

    async fn collect(&self, thing: Thing) -> Outcome {
        self.collector.collect(&thing, BTreeSet::new()).await.unwrap()
    }

    async fn addresses(&self) -> BTreeSet<IpAddr> {
        self.collector.allocations().await.unwrap().into_iter().map(|a| a.address).collect()
    }
}

#[track_caller]
fn check_collected(outcome: Outcome, expected: &[IpAddr]) {
    match outcome {
        Outcome::Collected { addresses, .. } => {
            let addresses: BTreeSet<_> = addresses.into_iter().collect();
            assert_eq!(addresses, expected.iter().copied().collect());
        }
        Outcome::Left(why) => panic!("{why}"),
    }
}

/// Whichever of the two networks comes first by name.
#[tokio::test]
async fn an_endpoint_without_a_record_leaves_its_siblings_theirs() {
    for [own, other] in [["alpha", "beta"], ["beta", "alpha"]] {
        let rig = Rig::new().await;
        let mine = rig.assign(&format!("{own}.{GONE}")).await;
        let theirs = rig.assign(&format!("{other}.{GONE}")).await;
        let eth0 = rig.endpoint("eth0", own, mine).await;
        // Its interface is there, say.
        let eth1 = rig.endpoint("eth1", other, theirs).await;
        check_collected(rig.collect(Thing::Endpoint(eth0)).await, &[mine]);
        assert_eq!(rig.addresses().await, [theirs].into(), "{own}");
        check_collected(rig.collect(Thing::Endpoint(eth1)).await, &[theirs]);
        assert_eq!(rig.addresses().await, [].into(), "{own}");
    }
}

#[tokio::test]
async fn an_endpoint_without_a_record_takes_every_handle_that_is_nobody_elses() {
    let rig = Rig::new().await;
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|network| format!("{network}.{GONE}"));
    let mine = rig.assign(&a).await;
    // Of a DEL that gave only half of it back.
    let rest = rig.assign(&b).await;
    let recorded = rig.assign(&c).await;
    let (theirs, beside) = (rig.assign(&d).await, rig.assign(&d).await);
    let eth0 = rig.endpoint("eth0", "a", mine).await;
    rig.record("eth1", "c", vec![recorded]);
    rig.endpoint("eth2", "d", theirs).await;
    check_collected(rig.collect(Thing::Endpoint(eth0)).await, &[mine, rest, beside]);
    assert_eq!(rig.addresses().await, [recorded, theirs].into());
}

#[tokio::test]
async fn addresses_alone_are_left_to_an_add_of_their_container() {
    let rig = Rig::new().await;
    let handle = format!("a.{GONE}");
    rig.assign(&handle).await;
    let judged = rig.collector.allocations().await.unwrap();
    let thing = || Thing::Addresses { handle: handle.clone(), allocations: judged.clone() };
    let lock = rig.collector.attachments.lock(GONE, Duration::ZERO).unwrap().unwrap();
    assert!(matches!(rig.collect(thing()).await, Outcome::Left(_)));
    drop(lock);
    rig.record("eth0", "a", vec![]);
    assert!(matches!(rig.collect(thing()).await, Outcome::Left(_)));
    rig.collector.attachments.remove(GONE, "eth0").unwrap();
    check_collected(rig.collect(thing()).await, &[judged[0].address]);
    assert_eq!(rig.addresses().await, [].into());
    let files = std::fs::read_dir(rig.collector.attachments.dir()).unwrap().count();
    assert_eq!(files, 0, "a lock was left");
}

/// What the store refuses is tried again as long as it is there: somebody gives the right one day.
#[tokio::test]
async fn what_is_refused_stays_whole() {
    let rig = Rig::new().await;
    let mine = rig.assign(&format!("a.{GONE}")).await;
    rig.endpoint("eth0", "a", mine).await;
    rig.record("eth0", "a", vec![mine]);
    let record = rig.collector.attachments.load(GONE, "eth0").unwrap().unwrap();
    let thing = Thing::Record(Box::new(record));
    for _ in 0..3 {
        rig.collector.store.refuse(u32::MAX);
        let error = rig.collector.collect(&thing, BTreeSet::new()).await.unwrap_err();
        assert!(matches!(error, CollectError::Step(TeardownError::Endpoint { .. })), "{error}");
        rig.collector.store.refuse(0);
        assert_eq!(rig.addresses().await, [mine].into());
    }
    check_collected(rig.collect(thing).await, &[mine]);
}
