//! What the store promises to those who write to it.

use std::time::Duration;

use calico_datastore::store::{Seen, Store, StoreError, Stored};

use crate::support::*;

async fn revision(store: &impl Store, key: &str) -> i64 {
    store.get(key).await.unwrap().expect("is there").revision
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_does_what_it_says() {
    let Some(etcd) = etcd().await else { return };
    let store = &client(&etcd);
    // The escape of a key is a character of it.
    let (a, b) = ("/calico/v1/x/a%2fb c", "/calico/v1/x/b");
    assert_eq!(Store::get(store, a).await.unwrap(), None);
    assert!(Store::create(store, a, b"1").await.unwrap());
    assert!(!Store::create(store, a, b"2").await.unwrap(), "created twice");
    let Stored { value, revision: first } = Store::get(store, a).await.unwrap().unwrap();
    assert_eq!(value, b"1");

    assert!(Store::replace(store, a, b"3&x=\"\xc3\xa9\" %41+", first).await.unwrap());
    assert!(!Store::replace(store, a, b"4", first).await.unwrap(), "lost a write");
    let text = Store::get(store, a).await.unwrap().unwrap().value;
    assert_eq!(text, b"3&x=\"\xc3\xa9\" %41+");
    assert!(!Store::replace(store, b, b"1", first).await.unwrap(), "made out of nothing");

    let second = revision(store, a).await;
    Store::put(store, a, b"1", None).await.unwrap();
    let third = revision(store, a).await;
    assert!(first < second && second < third);
    Store::delete(store, a).await.unwrap();
    Store::delete(store, a).await.unwrap();
    assert!(Store::create(store, a, b"1").await.unwrap());
    assert!(!Store::replace(store, a, b"5", third).await.unwrap(), "a revision for another");
    assert!(!Store::delete_if(store, a, third).await.unwrap(), "deleted a newer value");
    assert!(!Store::delete_if(store, b, third).await.unwrap(), "deleted what is not there");
    let now = revision(store, a).await;
    assert!(Store::delete_if(store, a, now).await.unwrap());

    Store::put(store, b, b"", None).await.unwrap();
    assert_eq!(Store::get(store, b).await.unwrap().unwrap().value, b"");
    // A directory is no key.
    assert_eq!(Store::get(store, "/calico/v1/x").await.unwrap(), None);
}

/// A prefix is a beginning, in no way a directory.
#[tokio::test(flavor = "multi_thread")]
async fn listings() {
    let Some(etcd) = etcd().await else { return };
    let store = &client(&etcd);
    for name in ["x", "x.y", "xy", "z", "d/x"] {
        Store::put(store, &format!("/calico/v1/p/{name}"), name.as_bytes(), None).await.unwrap();
    }
    let names = async |prefix: &str| {
        let found = Store::list(store, prefix).await.unwrap();
        let names = found.into_iter().map(|(_, stored)| String::from_utf8(stored.value).unwrap());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("/calico/v1/p/").await, ["d/x", "x", "x.y", "xy", "z"]);
    assert_eq!(names("/calico/v1/p/x").await, ["x", "x.y", "xy"]);
    assert_eq!(names("/calico/v1/p/d/").await, ["d/x"]);
    assert!(names("/calico/v1/q/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_time_to_live_vanishes() {
    let Some(etcd) = etcd().await else { return };
    let store = &client(&etcd);
    let key = "/calico/felix/v1/host/h/status";
    Store::put(store, key, b"1", Some(Duration::from_millis(1))).await.unwrap();
    assert!(Store::get(store, key).await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(Store::get(store, key).await.unwrap(), None);
    // Written again without one it stays.
    Store::put(store, key, b"1", Some(Duration::from_secs(1))).await.unwrap();
    Store::put(store, key, b"2", None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(Store::get(store, key).await.unwrap().unwrap().value, b"2");
}

/// What the API cannot do is refused, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let Some(etcd) = etcd().await else { return };
    let store = &client(&etcd);
    let key = "/calico/v1/x/a";
    let refused = |result: Result<bool, StoreError>| result.is_err_and(|error| error.is_refused());
    assert!(refused(Store::create(store, key, &[0xff]).await));
    assert!(refused(Store::create_beside(store, key, b"1", &Seen::default()).await));
    assert_eq!(Store::get(store, key).await.unwrap(), None);
}

/// Clones of a handle that write at once lose nothing of each other.
#[tokio::test(flavor = "multi_thread")]
async fn writers_side_by_side() {
    let Some(etcd) = etcd().await else { return };
    let store = client(&etcd);
    let key = "/calico/v1/x/counter";
    Store::put(&store, key, b"0", None).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..10 {
                loop {
                    let now = Store::get(&store, key).await.unwrap().unwrap();
                    let number: u32 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                    let next = (number + 1).to_string();
                    if Store::replace(&store, key, next.as_bytes(), now.revision).await.unwrap() {
                        break;
                    }
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!(Store::get(&store, key).await.unwrap().unwrap().value, b"80");
}
