//! The store as its writers see it.

use std::process::Command;
use std::sync::Arc;

use calico_datastore::store::memory::Memory;
use calico_datastore::store::{AnyStore, Seen, Store};

use crate::contract;
use crate::support::*;

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract::one_writer(&Memory::default()).await;
    contract::listing(&Memory::default()).await;
    contract::beside(&Memory::default()).await;
    let store = Arc::new(Memory::default());
    contract::eight_writers(std::array::from_fn(|_| Arc::clone(&store)), 50).await;
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let place = Place::new();
    contract::one_writer(&place.store()).await;
    contract::listing(&AnyStore::Directory(place.store())).await;
    contract::beside(&AnyStore::Directory(place.store())).await;
    contract::one_of_eight(std::array::from_fn(|_| Arc::new(place.store()))).await;
    assert_eq!(files(&place.state()), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_lose_no_write() {
    let place = Place::new();
    contract::eight_writers(std::array::from_fn(|_| Arc::new(place.store())), 10).await;
}

const DIRECTORY: &str = "CALICO_TEST_DIRECTORY";

/// What each process of the next test does; nothing by itself.
#[tokio::test]
async fn one_process_of_several() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = std::path::PathBuf::from(dir);
    let config = calico_datastore::backend::directory::DirectoryConfig {
        admin: dir.join("admin"),
        state: dir.join("state"),
    };
    let store = calico_datastore::backend::directory::Directory::new(config);
    contract::increments(&store, &profile_key("counter"), 10).await;
}

#[tokio::test]
async fn processes_lose_no_write_and_a_killed_one_stops_nobody() {
    let place = Place::new();
    let dir = place.admin().parent().unwrap().to_owned();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::one_process_of_several"])
            .env(DIRECTORY, &dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut victims: Vec<_> = (0..2).map(|_| start()).collect();
    let mut others: Vec<_> = (0..8).map(|_| start()).collect();
    std::thread::sleep(std::time::Duration::from_millis(40));
    for victim in &mut victims {
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    for process in &mut others {
        assert!(process.wait().unwrap().success());
    }
    let store = place.store();
    let value = store.get(&profile_key("counter")).await.unwrap().unwrap().value;
    let count: u32 = String::from_utf8(value).unwrap().parse().unwrap();
    // What the killed ones did before counts, and is at most all that they were to do.
    assert!((80..=100).contains(&count), "{count}");
}

#[tokio::test]
async fn what_a_killed_writer_leaves_is_not_there() {
    let place = Place::new();
    let store = place.store();
    store.put(&profile_key("a"), b"{}", None).await.unwrap();
    let mut reader = place.follow();
    reader.batch().await;
    // Between the write and the rename.
    std::fs::write(place.state().join(".new"), "{\"half").unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert!(reader.is_quiet(std::time::Duration::from_millis(300)).await);
    assert!(store.create(&profile_key("b"), b"{}").await.unwrap());
    reader.until("a= b=").await;
    reader.close().await;
}

#[tokio::test]
async fn a_revision_is_not_given_twice_when_the_clock_goes_back() {
    let place = Place::new();
    let store = place.store();
    let key = profile_key("a");
    store.put(&key, b"1", None).await.unwrap();
    // The last revision lies an hour ahead of the clock.
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let lock = std::fs::File::options().write(true).open(place.state().join(".lock")).unwrap();
    lock.set_modified(ahead).unwrap();
    store.put(&key, b"2", None).await.unwrap();
    let first = store.get(&key).await.unwrap().unwrap().revision;
    store.put(&key, b"3", None).await.unwrap();
    let second = store.get(&key).await.unwrap().unwrap().revision;
    let ahead = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    assert!(i128::from(first) > i128::try_from(ahead).unwrap());
    assert!(second > first);
    // Somebody's editor.
    std::fs::write(place.state().join("profiles/a.json"), "4").unwrap();
    assert!(!store.replace(&key, b"5", second).await.unwrap(), "an edit was overwritten");
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, b"4");
}

#[tokio::test]
async fn a_writer_that_hangs_is_named_and_does_not_hang_the_rest() {
    let place = Place::new();
    let store = place.store();
    store.put(&profile_key("a"), b"1", None).await.unwrap();
    let lock = std::fs::File::open(place.state().join(".lock")).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let error = store.put(&profile_key("a"), b"2", None).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(".lock is locked by another process"), "{cause}");
    assert_eq!(store.get(&profile_key("a")).await.unwrap().unwrap().value, b"1");
    drop(held);
    store.put(&profile_key("a"), b"2", None).await.unwrap();
}

#[tokio::test]
async fn what_the_administrator_has_is_only_read() {
    let place = Place::new();
    let store = place.store();
    let key = profile_key("a");
    store.put(&key, b"{}", None).await.unwrap();
    place.write("p.yaml", &profile("a", "his"));
    let stored = store.get(&key).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&stored.value).contains("his"));
    let listed = store.list(&profile_key("")).await.unwrap();
    assert_eq!(listed, [(key.clone(), stored.clone())]);
    assert!(!store.create(&key, b"{}").await.unwrap());
    let unseen = Seen { prefixes: vec![profile_key("")], ..Seen::default() };
    let other = profile_key("other");
    assert!(!store.create_beside(&other, b"{}", &unseen).await.unwrap(), "his is there");
    let seen = Seen::of(&profile_key(""), &listed);
    assert!(!store.create_beside(&key, b"{}", &seen).await.unwrap());
    assert!(store.create_beside(&other, b"{}", &seen).await.unwrap());
    let errors = [
        store.replace(&key, b"{}", stored.revision).await.unwrap_err(),
        store.put(&key, b"{}", None).await.unwrap_err(),
        store.delete(&key).await.unwrap_err(),
        store.delete_if(&key, stored.revision).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_refused());
        assert_eq!(error.owner(), Some(&*place.admin().join("p.yaml")), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("p.yaml, which is only read"), "{cause}");
    }
    // Beside it everything can be written, and what lay below it appears again.
    assert!(store.create(&profile_key("b"), b"{}").await.unwrap());
    std::fs::remove_file(place.admin().join("p.yaml")).unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, b"{}");
    store.delete(&key).await.unwrap();
    // Without his directory nobody knows what he has.
    std::fs::remove_dir_all(place.admin()).unwrap();
    let error = store.get(&key).await.unwrap_err();
    assert_eq!(error.owner(), None);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("cannot read the directory"), "{cause}");
}
