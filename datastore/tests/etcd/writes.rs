//! What others write through the client.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config, EtcdError};

use calico_datastore::store::Store;

use crate::contract;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn conditional_writes_happen_only_under_their_condition() {
    let Some(etcd) = etcd().await else { return };
    let client = etcd.client();
    assert_eq!(client.get("/a").await.unwrap(), None);
    assert!(client.create("/a", b"1").await.unwrap());
    assert!(!client.create("/a", b"2").await.unwrap(), "created twice");
    let first = client.get("/a").await.unwrap().unwrap();
    assert_eq!(first.value, b"1");

    assert!(client.replace("/a", b"3", first.mod_revision).await.unwrap());
    assert!(!client.replace("/a", b"4", first.mod_revision).await.unwrap(), "lost a write");
    let second = client.get("/a").await.unwrap().unwrap();
    assert_eq!(second.value, b"3");
    assert!(!client.replace("/b", b"1", first.mod_revision).await.unwrap(), "made out of nothing");

    assert!(!client.delete_if("/a", first.mod_revision).await.unwrap(), "deleted a newer value");
    assert!(client.delete_if("/a", second.mod_revision).await.unwrap());
    assert!(!client.delete("/a").await.unwrap(), "deleted twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_contract_of_a_store() {
    let Some(etcd) = etcd().await else { return };
    let client = etcd.client();
    contract::one_writer(&client).await;
    contract::listing(&client).await;
    contract::beside(&client).await;
    contract::one_of_eight(std::array::from_fn(|_| Arc::new(etcd.client()))).await;
    contract::eight_writers(std::array::from_fn(|_| Arc::new(etcd.client())), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_over_many_pages() {
    let Some(etcd) = etcd().await else { return };
    let client = etcd.client();
    let mut expected = Vec::new();
    for i in 0..2_345 {
        let key = format!("/p/{i:05}");
        client.put(&key, b"x").await.unwrap();
        expected.push(key);
    }
    client.put("/p", b"x").await.unwrap();
    client.put("/q/1", b"x").await.unwrap();
    assert_eq!(client.keys("/p/").await.unwrap(), expected);
    assert!(client.keys("/none/").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_unless_the_key_is_written_again() {
    let Some(etcd) = etcd().await else { return };
    let client = etcd.client();
    let ttl = Duration::from_secs(2);
    client.put_with_ttl("/left", b"1", ttl).await.unwrap();
    client.put_with_ttl("/kept", b"1", ttl).await.unwrap();
    client.put_with_ttl("/plain", b"1", ttl).await.unwrap();
    client.put("/plain", b"2").await.unwrap();
    let begun = std::time::Instant::now();
    while client.get("/left").await.unwrap().is_some() {
        assert!(begun.elapsed() < LONG, "never expires");
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.put_with_ttl("/kept", b"2", ttl).await.unwrap();
    }
    assert_eq!(client.get("/kept").await.unwrap().unwrap().value, b"2");
    assert_eq!(client.get("/plain").await.unwrap().unwrap().value, b"2");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_once() {
    let make = |config| Etcd3::new(config).map(|_| ()).unwrap_err();
    assert!(matches!(make(Etcd3Config::default()), EtcdError::NoEndpoint));
    let https = Etcd3Config { endpoints: vec!["https://h:2379".to_owned()], ..Default::default() };
    assert!(matches!(make(https.clone()), EtcdError::NoAuthority { .. }));
    let half = Etcd3Config { cert: Some("/c.pem".into()), ..https };
    assert!(matches!(make(half), EtcdError::HalfIdentity));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_password_is_refused_and_not_retried_as_an_outage() {
    let Some(etcd) = etcd().await else { return };
    let gone = Etcd3::new(Etcd3Config {
        endpoints: vec!["http://127.0.0.1:1".to_owned()],
        ..Etcd3Config::default()
    });
    assert!(!Store::get(&gone.unwrap(), "/a").await.unwrap_err().is_refused());
    let mut raw = etcd.raw().await;
    raw.user_add("root", "secret", None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    raw.role_add("reader").await.unwrap();
    let calico = etcd_client::Permission::read_write("/calico/").with_prefix();
    raw.role_grant_permission("reader", calico).await.unwrap();
    raw.user_add("felix", "pw", None).await.unwrap();
    raw.user_grant_role("felix", "reader").await.unwrap();
    raw.auth_enable().await.unwrap();

    let user = |name: &str, password: &str| Etcd3Config {
        username: Some(name.to_owned()),
        password: Some(password.to_owned()),
        ..etcd.config()
    };
    let error = Etcd3::new(user("felix", "wrong")).unwrap().get("/calico/a").await.unwrap_err();
    assert!(error.is_refused() && !error.is_unavailable(), "{}", error.chain());
    let client = Etcd3::new(user("felix", "pw")).unwrap();
    client.put(READY_KEY, READY).await.unwrap();
    let error = client.put("/other", b"x").await.unwrap_err();
    assert!(error.is_refused(), "{}", error.chain());
    // As a store it says the same: of a right that is missing, and of a value that cannot be.
    assert!(Store::create(&client, "/other", b"x").await.unwrap_err().is_refused());
    let large = vec![b'x'; 1_700_000];
    let error = Store::create(&client, "/calico/large", &large).await.unwrap_err();
    assert!(error.is_refused(), "{:?}", error.source);
    assert_eq!(Store::get(&client, "/calico/large").await.unwrap(), None);
    // A role over `/calico/` is enough to follow the store.
    let mut reader = Reader::start(user("felix", "pw"));
    reader.changes().await;
    client.put(&profile_key("a"), &value(1)).await.unwrap();
    assert_eq!(reader.changes().await.updates.len(), 1);
    // Refused is said, once, and names the reason.
    let mut reader = Reader::start(user("felix", "wrong"));
    let reason = reader.waiting().await;
    assert!(reason.contains("authentication failed"), "{reason}");
    assert!(reason.ends_with("check ETCD_USERNAME and ETCD_PASSWORD"), "{reason}");
    assert!(reader.quiet(Duration::from_secs(2)).await);
    // No user at all: what to set is named.
    let nobody = Etcd3::new(etcd.config()).unwrap().get(READY_KEY).await.unwrap_err();
    assert!(nobody.is_refused() && !nobody.is_unavailable(), "{}", nobody.chain());
    let reason = Reader::start(etcd.config()).waiting().await;
    assert!(
        reason.contains("user name is empty: etcd wants a user: set ETCD_USERNAME"),
        "{reason}"
    );
}
