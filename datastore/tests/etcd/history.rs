//! Whether a store is the one that was read before, where the last that happened is a deletion.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use etcd_client::{Txn, TxnOp};

use crate::support::*;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A store with three profiles.
async fn world() -> Option<(Etcd, BTreeMap<String, String>)> {
    let etcd = etcd().await?;
    let writer = etcd.client();
    writer.put(READY_KEY, READY).await.unwrap();
    let names = ["a", "b", "c"].map(str::to_owned);
    for name in &names {
        writer.put(&profile_key(name), &value(1)).await.unwrap();
    }
    Some((etcd, names.map(|name| (name, "1".to_owned())).into()))
}

/// A backup of before a deletion takes the store's place, with the same cluster id, and others have
/// written beyond it before we look.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_behind_a_deletion_is_listed() {
    for newest_goes in [true, false] {
        let Some((mut etcd, mut expected)) = world().await else { return };
        let backup = etcd.data.with_extension("backup");
        etcd.crash();
        copy(&etcd.data, &backup);
        etcd.restart().await;
        let mut reader = etcd.follow();
        reader.until_profiles(&expected).await;
        reader.watching().await;
        let writer = etcd.client();
        let mut more = expected.clone();
        if newest_goes {
            writer.put(&profile_key("p"), &value(1)).await.unwrap();
            more.insert("p".to_owned(), "1".to_owned());
            reader.until_profiles(&more).await;
            writer.delete(&profile_key("p")).await.unwrap();
            more.remove("p");
        } else {
            writer.delete(&profile_key("a")).await.unwrap();
            more.remove("a");
        }
        reader.until_profiles(&more).await;
        let revision = reader.status.borrow().revision;

        etcd.crash();
        etcd.wipe();
        copy(&backup, &etcd.data);
        // Nothing is at this address until it is done.
        let visible = etcd.endpoint.clone();
        etcd.serve_at(&format!("http://127.0.0.1:{}", free_port()));
        etcd.restart().await;
        let writer = etcd.client();
        // At a revision that is behind us.
        writer.put(&profile_key("new"), &value(1)).await.unwrap();
        expected.insert("new".to_owned(), "1".to_owned());
        for i in 0..revision {
            writer.put("/elsewhere", &value(i)).await.unwrap();
        }
        etcd.crash();
        etcd.serve_at(&visible);
        etcd.restart().await;
        reader.until_profiles(&expected).await;
        assert_eq!(reader.listings(), 2, "{newest_goes}");
    }
}

/// A deletion is as good as a key to recognise a store by, also one of a key that came and went
/// together with others.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_no_reason_to_list() {
    let Some((mut etcd, mut expected)) = world().await else { return };
    let mut reader = etcd.follow();
    reader.until_profiles(&expected).await;
    reader.watching().await;
    let visible = etcd.endpoint.clone();
    etcd.crash();
    etcd.serve_at(&format!("http://127.0.0.1:{}", free_port()));
    etcd.restart().await;
    // One message, when the watch catches up: the newest key again, and one that comes and goes.
    let writer = etcd.client();
    writer.put(&profile_key("c"), &value(2)).await.unwrap();
    writer.put(&profile_key("d"), &value(2)).await.unwrap();
    writer.delete(&profile_key("d")).await.unwrap();
    expected.insert("c".to_owned(), "2".to_owned());
    etcd.crash();
    etcd.serve_at(&visible);
    etcd.restart().await;
    reader.until_profiles(&expected).await;
    reader.watching().await;

    // And of two keys at once.
    for round in 0..2 {
        etcd.crash();
        etcd.restart().await;
        reader.watching().await;
        let name = ["a", "b"][round];
        let writer = etcd.client();
        if round == 0 {
            writer.delete(&profile_key(name)).await.unwrap();
        } else {
            let put = TxnOp::put(profile_key("e"), value(3), None);
            let delete = TxnOp::delete(profile_key(name), None);
            let mut raw = etcd.raw().await;
            raw.txn(Txn::new().and_then([put, delete])).await.unwrap();
            expected.insert("e".to_owned(), "3".to_owned());
        }
        expected.remove(name);
        reader.until_profiles(&expected).await;
    }
    etcd.crash();
    etcd.restart().await;
    etcd.client().delete(&profile_key("e")).await.unwrap();
    expected.remove("e");
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 1, "the store was listed again");
}
