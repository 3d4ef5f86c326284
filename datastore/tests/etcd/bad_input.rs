//! Values that do not parse, kinds that nobody knows, values that are large.

use calico_datastore::model::{Name, ResourceId, Update};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_value_is_refused_with_its_key_and_accepted_when_mended() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    writer.put(&profile_key("good"), &value(1)).await.unwrap();
    writer.put(&profile_key("bad"), b"{\"v\":").await.unwrap();
    let mut reader = etcd.follow();
    let batch = reader.changes().await;
    assert_eq!(reader.profiles().keys().collect::<Vec<_>>(), ["good"], "all others work");
    assert_eq!(batch.rejections.len(), 1);
    assert_eq!(batch.rejections[0].key, profile_key("bad"));
    let id = ResourceId::Profile(Name::from("bad"));
    assert_eq!(batch.rejections[0].id.as_ref(), Some(&id));

    writer.put(&profile_key("bad"), &value(2)).await.unwrap();
    let batch = reader.changes().await;
    assert_eq!(batch.accepted, [profile_key("bad")]);
    assert_eq!(reader.profiles()["bad"], "2");

    writer.put(&profile_key("good"), &[0xff, 0xfe]).await.unwrap();
    let batch = reader.changes().await;
    let gone = Update::Profile(Name::from("good"), None);
    assert_eq!(batch.updates, [gone], "an object that no longer parses counts as absent");
    assert_eq!(batch.rejections[0].key, profile_key("good"));
    writer.delete(&profile_key("good")).await.unwrap();
    assert_eq!(reader.changes().await.accepted, [profile_key("good")]);
    assert!(reader.rejected.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_kinds_are_counted_and_odd_keys_are_harmless() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    for name in ["a", "b"] {
        writer.put(&format!("{RESOURCES}bgppeers/{name}"), b"{}").await.unwrap();
    }
    let mut raw = etcd.raw().await;
    raw.put([RESOURCES.as_bytes(), &[0xff, 0x00]].concat(), "x", None).await.unwrap();
    let mut reader = etcd.follow();
    reader.changes().await;
    assert_eq!(reader.unsupported["bgppeers"], 2);
    raw.put([RESOURCES.as_bytes(), &[0xff, 0x01]].concat(), "x", None).await.unwrap();
    writer.delete(&format!("{RESOURCES}bgppeers/a")).await.unwrap();
    reader.changes().await;
    assert_eq!(reader.unsupported["bgppeers"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_read_whatever_a_page_holds() {
    let Some(etcd) = etcd().await else { return };
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    // 100 MiB in the first page: more than one message may hold.
    let large = "x".repeat(1 << 20);
    for i in 0..100 {
        writer.put(&profile_key(format!("l{i}")), &value(&large)).await.unwrap();
    }
    let mut reader = etcd.follow();
    let batch = reader.changes().await;
    assert_eq!(batch.updates.len(), 101);
    writer.put(&profile_key("m"), &value(&large)).await.unwrap();
    reader.changes().await;
    assert_eq!(reader.profiles()["m"].len(), 1 << 20);
}
