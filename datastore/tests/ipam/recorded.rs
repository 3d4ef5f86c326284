//! Stores as real writers left them: read, changed, and compared value by value.

use std::sync::Arc;

use calico_datastore::ipam::Request;
use calico_datastore::layout::v3::write::handle::HandleDocument;
use calico_datastore::store::memory::Memory;
use serde_json::{Value, json};
use shared::{load, text};

use super::*;

/// The recorded store, its variants put over it.
fn recorded() -> Option<Arc<Memory>> {
    let (base, variants) = (load("fixtures/v3-rkt.json")?, load("fixtures/v3-variants.json")?);
    let entries: Vec<_> = [&base, &variants]
        .into_iter()
        .flat_map(|store| store.as_array().unwrap())
        .map(|entry| (text(&entry["key"]), text(&entry["value"])))
        .collect();
    Some(Arc::new(Memory::with(&entries)))
}

fn json_of(store: &Memory, key: &str) -> Value {
    serde_json::from_str(&store.text(key).unwrap()).unwrap()
}

fn on(store: &Arc<Memory>, host: &str) -> Ipam<Arc<Memory>> {
    Ipam::new(store.clone(), Name::from(host))
}

#[tokio::test]
async fn every_block_and_handle_survives_being_changed_and_changed_back() {
    let Some(store) = recorded() else { return };
    let (mut blocks, mut handles) = (0, 0);
    for key in store.keys() {
        let before = store.text(&key).unwrap();
        if let Some(cidr) = keys::cidr_of_block(&key) {
            let read = |text: &str| BlockDocument::open(cidr, text.as_bytes()).unwrap();
            let mut block = read(&before);
            let last = block.free().last().unwrap();
            assert_eq!(block.assign(&[last], "x.1", &BTreeMap::new()), [last]);
            let mut block = read(std::str::from_utf8(&block.finish()).unwrap());
            assert_eq!(block.held_by("x.1"), [last]);
            assert_eq!(block.release(&[last], "x.1"), [last]);
            let after = String::from_utf8(block.finish()).unwrap();
            let number = |text: &str| {
                serde_json::from_str::<Value>(text).unwrap()["sequenceNumber"].as_u64()
            };
            let expected = match number(&before) {
                Some(n) => before.replace(
                    &format!(r#""sequenceNumber":{n}"#),
                    &format!(r#""sequenceNumber":{}"#, n + 2),
                ),
                None => before.clone(),
            };
            assert_eq!(after, expected, "{key}");
            blocks += 1;
        }
        if let Some(id) = keys::id_of_handle(&key) {
            let mut handle = HandleDocument::open(id, before.as_bytes()).unwrap();
            let block = "10.255.0.0/26".parse().unwrap();
            handle.set(block, 1);
            handle.set(block, 0);
            assert_eq!(String::from_utf8(handle.finish()).unwrap(), before, "{key}");
            handles += 1;
        }
    }
    assert_eq!((blocks, handles), (5, 6));
}

#[tokio::test]
async fn a_pod_joins_and_leaves_a_recorded_world() {
    let Some(store) = recorded() else { return };
    let key = "/calico/ipam/v2/assignment/ipv4/block/192.168.0.0-26";
    let before = json_of(&store, key);
    let ipam = on(&store, "calico-01");
    let request = Request { v4: 1, v6: 1, ..Request::default() };
    let given = ipam.assign(&owner("calico-01", "frontend.new"), &request).await.unwrap();
    let addresses: Vec<_> = given.iter().map(|given| given.address.to_string()).collect();
    assert_eq!(addresses, ["192.168.0.3", "fd80:24e2:f998:72d6::2"]);
    let after = json_of(&store, key);
    assert_eq!(after["sequenceNumber"], 4);
    assert_eq!(after["sequenceNumberForAllocation"], json!({"0": 0, "1": 1, "2": 2, "3": 3}));
    assert_eq!(after["attributes"][3]["handle_id"], "frontend.new");
    assert_eq!(
        after["attributes"].as_array().unwrap()[..3],
        before["attributes"].as_array().unwrap()[..]
    );
    assert_eq!(
        store.text("/calico/ipam/v2/handle/frontend.new").unwrap(),
        r#"{"block":{"192.168.0.0/26":1,"fd80:24e2:f998:72d6::/122":1},"deleted":false}"#
    );
    assert_eq!(ipam.release_handle("frontend.new").await.unwrap().len(), 2);
    assert_eq!(store.text("/calico/ipam/v2/handle/frontend.new"), None);
    let back = json_of(&store, key);
    assert_eq!(back["attributes"], before["attributes"]);
    assert_eq!(back["sequenceNumberForAllocation"], before["sequenceNumberForAllocation"]);
}

#[tokio::test]
async fn who_has_what_in_a_recorded_world() {
    let Some(store) = recorded() else { return };
    let here = on(&store, "calico-01").of_host().await.unwrap();
    let found: Vec<_> = here.iter().map(|found| found.address.to_string()).collect();
    let expected = [
        "192.168.0.0",
        "192.168.0.1",
        "192.168.0.2",
        "fd80:24e2:f998:72d6::",
        "fd80:24e2:f998:72d6::1",
    ];
    assert_eq!(found, expected);
    assert_eq!(here[2].attributes["type"], "ipipTunnelAddress");
    let there = on(&store, "calico-02").of_host().await.unwrap();
    let borrowed = there.iter().find(|found| found.handle.as_deref() == Some("net1.c0ffee"));
    assert_eq!(borrowed.unwrap().address.to_string(), "192.168.10.69");
    assert_eq!(there.len(), 6);
    let handles = on(&store, "calico-01").handles("frontend.").await.unwrap();
    assert_eq!(
        handles,
        [
            "frontend.c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11",
            "frontend.e5c1a9f4-02d8-4f1b-a6e7-8b9c0d1e2f04"
        ]
    );
    let of_handle = on(&store, "calico-02").of_handle(&handles[0]).await.unwrap();
    assert_eq!(of_handle.len(), 2, "from any host");
    // The tutorial's address is taken, by whom is said.
    let wanted = ["192.168.0.0".parse().unwrap()];
    let error = on(&store, "calico-02")
        .assign_exactly(&owner("calico-02", "frontend.x"), &wanted)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "192.168.0.0 is taken by frontend.c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11"
    );
}
