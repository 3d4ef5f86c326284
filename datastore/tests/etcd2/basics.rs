//! A store is read whole and then followed.

use std::collections::BTreeMap;
use std::time::Duration;

use calico_datastore::model::{ResourceId, Update};

use crate::shared::{load, text};
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_world_of_real_writers_is_read_whole() {
    let (Some(first), Some(second)) =
        (load("fixtures/v1-rkt.json"), load("fixtures/v1-policy-extras.json"))
    else {
        return;
    };
    let Some(etcd) = etcd().await else { return };
    let client = client(&etcd);
    let mut store = BTreeMap::new();
    for entry in first.as_array().unwrap().iter().chain(second.as_array().unwrap()) {
        let (key, value) = (text(&entry["key"]), text(&entry["value"]));
        client.put(key, value.as_bytes(), None).await.unwrap();
        store.insert(key.to_owned(), value.to_owned());
    }
    let mut reader = Reader::start(etcd.config());
    let batches = reader.until(&store).await;
    assert_eq!((batches.len(), reader.listings()), (1, 1), "one batch, one snapshot");
    assert!(reader.refused.is_empty());
    assert_eq!(reader.watching().await, etcd.endpoint);
    assert_eq!(reader.objects.len(), 36);

    // A name with escapes is followed under the key that it has.
    let policy = "/calico/v1/policy/tier/default/policy/kns.a%2fb%25c";
    client.delete(policy).await.unwrap();
    store.remove(policy).unwrap();
    reader.until(&store).await;
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_in_order_and_directories_go_as_a_whole() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "[\"a\"]"), (&tags("ab"), "[]")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.until_profiles(&["a", "ab"]).await;

    client.put(&tags("b"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "ab", "b"]).await;
    let rules = "/calico/v1/policy/profile/a/rules";
    client.put(rules, b"{}", None).await.unwrap();
    reader.changes().await;

    // Of three keys in two directories there is one event.
    remove_directory(&etcd, "/calico/v1/policy/profile/a");
    reader.until_profiles(&["ab", "b"]).await;
    client.put(&tags("a"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a", "ab", "b"]).await;
    remove_directory(&etcd, "/calico/v1/policy/profile");
    reader.until_profiles(&[]).await;
    assert_eq!(reader.listings(), 1, "followed, not read again");

    // Compare-and-swap, as the first rkt plugin writes its endpoint.
    let key = "/calico/v1/host/h/workload/rkt/w/endpoint/e";
    let value = r#"{"state":"active","name":"cali1","ipv4_nets":["10.1.0.1/32"],"profile_ids":[]}"#;
    assert!(client.create(key, value.as_bytes()).await.unwrap());
    reader.changes().await;
    let index = client.get(key).await.unwrap().unwrap().index;
    let other = value.replace("[]", "[\"frontend\"]");
    assert!(client.replace(key, other.as_bytes(), index).await.unwrap());
    reader.changes().await;
    let endpoint = reader.objects.iter().find_map(|(id, update)| match (id, update) {
        (ResourceId::WorkloadEndpoint(_), Update::WorkloadEndpoint(_, endpoint)) => {
            endpoint.clone()
        }
        _ => None,
    });
    assert_eq!(endpoint.unwrap().profiles, ["frontend"]);
    assert_eq!(reader.listings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_gone() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[]).await;
    let mut reader = Reader::start(etcd.config());
    reader.changes().await;
    client.put(&tags("a"), b"[]", Some(Duration::from_secs(1))).await.unwrap();
    reader.until_profiles(&["a"]).await;
    reader.until_profiles(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_is_refused_by_its_key() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[(&tags("a"), "x")]).await;
    let mut reader = Reader::start(etcd.config());
    reader.changes().await;
    assert_eq!(
        reader.refused,
        BTreeMap::from([(tags("a"), Some(ResourceId::Profile("a".into())))])
    );
    client.put(&tags("a"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a"]).await;
    assert!(reader.refused.is_empty());
}

/// Reports of agents, which every host writes all the time, are nobody's news.
#[tokio::test(flavor = "multi_thread")]
async fn reports_are_left_out() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[]).await;
    let mut reader = Reader::start(etcd.config());
    reader.changes().await;
    for time in 0..20 {
        let value = format!("{{\"time\":{time}}}");
        client.put("/calico/felix/v1/host/h/status", value.as_bytes(), None).await.unwrap();
    }
    assert!(reader.quiet(Duration::from_millis(500)).await);
    // The first change of ours after them arrives.
    client.put(&tags("a"), b"[]", None).await.unwrap();
    reader.until_profiles(&["a"]).await;
}

/// A reader that is slower than the store gets the newest state in few batches.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_newest_state() {
    let Some(etcd) = etcd().await else { return };
    let client = fill(&etcd, &[]).await;
    let mut reader = Reader::start(etcd.config());
    reader.changes().await;
    let names: Vec<String> = (100..400).map(|n| format!("p{n}")).collect();
    for name in &names {
        client.put(&tags(name), b"[]", None).await.unwrap();
        client.put(&tags("z"), format!("[\"{name}\"]").as_bytes(), None).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut batches = 0;
    let mut expected: Vec<&str> = names.iter().map(String::as_str).collect();
    expected.push("z");
    while reader.profiles() != expected {
        reader.changes().await;
        batches += 1;
    }
    assert!(batches < 10, "{batches} batches");
    assert_eq!(reader.listings(), 1, "polls keep up with a writer");
    let Update::Profile(_, Some(last)) = &reader.objects[&ResourceId::Profile("z".into())] else {
        panic!("no profile");
    };
    assert_eq!(last.labels.get("p399"), Some(""));
}
