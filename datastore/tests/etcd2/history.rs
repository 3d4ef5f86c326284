//! etcd's history: 1000 events of the whole store.

use std::collections::BTreeMap;
use std::time::Duration;

use calico_datastore::backend::etcd3::Etcd3Config;
use calico_datastore::layout::v1;

use crate::support::*;

/// More than the history holds, of something that nobody here reads.
async fn forget_everything(etcd: &Etcd) {
    let client = client(etcd);
    for number in 0..1100 {
        client.put("/elsewhere/x", number.to_string().as_bytes(), None).await.unwrap();
    }
}

/// The way to etcd stands still while more happens than it remembers. Everything is read again, and
/// what went meanwhile is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_cleared_is_made_up_for() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[]"), (&tags("b"), "[]"), (&tags("c"), "[]")]).await;
    let proxy = Proxy::to(&etcd).await;
    let mut reader =
        Reader::start(Etcd3Config { endpoints: vec![proxy.url.clone()], ..etcd.config() });
    reader.until_profiles(&["a", "b", "c"]).await;
    reader.watching().await;

    proxy.hold(true);
    client.put(&tags("d"), b"[]", None).await.unwrap();
    client.delete(&tags("a")).await.unwrap();
    remove_directory(&etcd, "/calico/v1/policy/profile/b");
    forget_everything(&etcd).await;
    proxy.hold(false);
    reader.until_profiles(&["c", "d"]).await;
    assert!(reader.listings() >= 2, "{}", reader.listings());

    // And it goes on from there.
    client.put(&tags("e"), b"[]", None).await.unwrap();
    reader.until_profiles(&["c", "d", "e"]).await;
}

/// Nothing of ours happens, but much elsewhere: the position moves on, and nothing is read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_store_in_a_busy_etcd_is_not_read_again() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a"]).await;
    let forgotten = async {
        // Longer than a poll, so that there is one that runs out in between.
        for _ in 0..4 {
            for number in 0..400 {
                let value = number.to_string();
                client.put("/elsewhere/x", value.as_bytes(), None).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5500)).await;
        }
    };
    forgotten.await;
    client.put(&tags("b"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "b"]).await;
    assert_eq!(reader.listings(), 1);
}

/// Whatever happens while the store is read is neither lost nor undone.
#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_listing_are_not_lost() {
    let Some(etcd) = etcd().await else { return };
    let names: Vec<String> = (0..300).map(|n| format!("p{n:03}")).collect();
    let client = fill(&etcd, &[]).await;
    for name in &names {
        client.put(&tags(name), b"[]", None).await.unwrap();
    }
    let mut store: BTreeMap<String, String> =
        BTreeMap::from([(v1::READY_KEY.into(), "true".into())]);
    for round in 0..3 {
        let mut reader = Reader::start(etcd.config());
        for (number, name) in names.iter().enumerate() {
            let value = format!("[\"{round}\"]");
            if number % 3 == round {
                client.delete(&tags(name)).await.unwrap();
                store.remove(&tags(name));
            } else {
                client.put(&tags(name), value.as_bytes(), None).await.unwrap();
                store.insert(tags(name), value);
            }
        }
        reader.until(&store).await;
        reader.close().await;
    }
}
