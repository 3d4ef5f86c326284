//! What every store promises to those who write to it; run over each of them.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::store::{Seen, Store, Stored};

const PREFIX: &str = "/calico/resources/v3/projectcalico.org/profiles/";

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

async fn revision(store: &impl Store, key: &str) -> i64 {
    store.get(key).await.unwrap().expect("is there").revision
}

/// One writer: what each call does and what it leaves.
pub(crate) async fn one_writer(store: &impl Store) {
    let (a, b) = (key("a"), key("b"));
    assert_eq!(store.get(&a).await.unwrap(), None);
    assert!(store.create(&a, b"1").await.unwrap());
    assert!(!store.create(&a, b"2").await.unwrap(), "created twice");
    let Stored { value, revision: first } = store.get(&a).await.unwrap().unwrap();
    assert_eq!(value, b"1");

    assert!(store.replace(&a, b"3", first).await.unwrap());
    assert!(!store.replace(&a, b"4", first).await.unwrap(), "lost a write");
    assert_eq!(store.get(&a).await.unwrap().unwrap().value, b"3");
    assert!(!store.replace(&b, b"1", first).await.unwrap(), "made out of nothing");

    // The same value again is another revision, also when it is made anew.
    let second = revision(store, &a).await;
    assert!(second > first);
    store.put(&a, b"1", None).await.unwrap();
    let third = revision(store, &a).await;
    assert!(third > second);
    store.delete(&a).await.unwrap();
    store.delete(&a).await.unwrap();
    assert_eq!(store.get(&a).await.unwrap(), None);
    assert!(store.create(&a, b"1").await.unwrap());
    assert!(revision(store, &a).await > third, "a revision came back");
    assert!(!store.replace(&a, b"5", third).await.unwrap(), "a revision was taken for another");

    assert!(!store.delete_if(&a, third).await.unwrap(), "deleted a newer value");
    assert!(!store.delete_if(&b, third).await.unwrap(), "deleted what is not there");
    assert!(store.delete_if(&a, revision(store, &a).await).await.unwrap());

    store.put(&b, b"", None).await.unwrap();
    assert_eq!(store.get(&b).await.unwrap().unwrap().value, b"");
    store.put(&b, &[0, 0xff, b'\n'], Some(Duration::from_secs(600))).await.unwrap();
    assert_eq!(store.get(&b).await.unwrap().unwrap().value, [0, 0xff, b'\n']);
    store.delete(&b).await.unwrap();
}

/// A prefix is a beginning, in no way a directory.
pub(crate) async fn listing(store: &impl Store) {
    let names = ["x", "x.y", "xy", "z", "d/x"];
    for name in names {
        store.put(&key(name), name.as_bytes(), None).await.unwrap();
    }
    let other = "/calico/ipam/v2/assignment/ipv6/block/fd80::-122";
    store.put(other, b"{}", None).await.unwrap();
    for (prefix, expected) in [
        (key(""), &["d/x", "x", "x.y", "xy", "z"][..]),
        (key("x"), &["x", "x.y", "xy"]),
        (key("d/"), &["d/x"]),
        (key("none"), &[]),
    ] {
        let mut found = store.list(&prefix).await.unwrap();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<_> = found.iter().map(|(key, _)| &key[PREFIX.len()..]).collect();
        assert_eq!(names, expected, "{prefix}");
        for (key, stored) in found {
            assert_eq!(stored.value, key.as_bytes()[PREFIX.len()..]);
            assert_eq!(revision(store, &key).await, stored.revision);
        }
    }
    let found = store.list("/calico/ipam/v2/").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, other);
    for name in names {
        store.delete(&key(name)).await.unwrap();
    }
    store.delete(other).await.unwrap();
}

/// A key is made only among those that were seen.
pub(crate) async fn beside(store: &impl Store) {
    let (x, dx, y) = (key("b/x"), key("b/d/x"), key("b/y"));
    let prefix = key("b/");
    let seen = async || Seen::of(&prefix, &store.list(&prefix).await.unwrap());
    let nothing = seen().await;
    assert_eq!(nothing, Seen { prefixes: vec![prefix.clone()], ..Seen::default() });
    // What is elsewhere, however new, does not matter.
    store.put(&key("elsewhere"), b"1", None).await.unwrap();
    assert!(store.create_beside(&x, b"1", &nothing).await.unwrap());
    assert!(!store.create_beside(&dx, b"1", &nothing).await.unwrap(), "x has come");
    assert_eq!(store.get(&dx).await.unwrap(), None);
    let one = seen().await;
    assert!(!store.create_beside(&x, b"2", &one).await.unwrap(), "created twice");
    assert_eq!(store.get(&x).await.unwrap().unwrap().value, b"1");
    // It is there as before, whatever it says.
    store.put(&x, b"3", None).await.unwrap();
    assert!(store.create_beside(&dx, b"1", &one).await.unwrap());
    assert!(!store.create_beside(&y, b"1", &one).await.unwrap(), "d/x has come");
    let two = seen().await;
    assert_eq!(two.keys.len(), 2);
    // What goes is no obstacle.
    store.delete(&dx).await.unwrap();
    assert!(store.create_beside(&y, b"1", &two).await.unwrap());
    for key in [x, y, key("elsewhere")] {
        store.delete(&key).await.unwrap();
    }
}

/// Many at once, each on condition that it is the only one.
pub(crate) async fn one_of_eight<S: Store + 'static>(stores: [Arc<S>; 8]) {
    let prefix = key("one/");
    let tasks = stores.clone().map(|store| {
        let seen = Seen { prefixes: vec![prefix.clone()], ..Seen::default() };
        // As many keys as writers.
        let key = format!("{prefix}{:p}", Arc::as_ptr(&store));
        tokio::spawn(async move { store.create_beside(&key, b"", &seen).await.unwrap() })
    });
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    let there = stores[0].list(&prefix).await.unwrap();
    assert_eq!((made, there.len()), (1, 1));
    stores[0].delete(&there[0].0).await.unwrap();
}

/// Adds one to the number of a key, `times` times, as allocation does.
pub(crate) async fn increments(store: &impl Store, key: &str, times: u32) {
    for _ in 0..times {
        loop {
            let done = match store.get(key).await.unwrap() {
                None => store.create(key, b"1").await.unwrap(),
                Some(Stored { value, revision }) => {
                    let count: u32 = String::from_utf8(value).unwrap().parse().unwrap();
                    let next = (count + 1).to_string();
                    store.replace(key, next.as_bytes(), revision).await.unwrap()
                }
            };
            if done {
                break;
            }
        }
    }
}

/// Eight writers at once; none of their writes may be lost.
pub(crate) async fn eight_writers<S: Store + 'static>(stores: [Arc<S>; 8], times: u32) {
    let key = key("counter");
    let tasks = stores.clone().map(|store| {
        let key = key.clone();
        tokio::spawn(async move { increments(&store, &key, times).await })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let value = stores[0].get(&key).await.unwrap().unwrap().value;
    assert_eq!(String::from_utf8(value).unwrap(), (8 * times).to_string());
    stores[0].delete(&key).await.unwrap();
}
