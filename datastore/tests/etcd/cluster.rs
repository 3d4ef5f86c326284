//! Several endpoints: dead ones, and a member that is cut off from its leader.

use std::sync::Arc;
use std::time::Duration;

use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config};
use tempfile::TempDir;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_a_dead_member_works() {
    let Some(etcd) = etcd().await else { return };
    etcd.client().put(READY_KEY, READY).await.unwrap();
    let dead = format!("http://127.0.0.1:{}", free_port());
    // A port that takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("http://{}", mute.local_addr().unwrap());
    for endpoints in [
        vec![dead.clone(), etcd.endpoint.clone()],
        vec![etcd.endpoint.clone(), dead.clone()],
        vec![mute, dead, etcd.endpoint.clone()],
    ] {
        let config = Etcd3Config { endpoints, ..Etcd3Config::default() };
        let client = Etcd3::new(config.clone()).unwrap();
        for i in 0..20 {
            client.put("/a", &value(i)).await.unwrap();
        }
        Reader::start(config).changes().await;
    }
}

/// Three members that know each other.
async fn cluster() -> Option<Vec<Etcd>> {
    etcd().await?;
    let dir = Arc::new(TempDir::new().unwrap());
    let names = ["a", "b", "c"];
    let peers: Vec<_> = names.iter().map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
    let all = names.iter().zip(&peers).map(|(name, peer)| format!("{name}={peer}"));
    let all = all.collect::<Vec<_>>().join(",");
    let mut members = Vec::new();
    for (name, peer) in names.iter().zip(&peers) {
        let client = format!("http://127.0.0.1:{}", free_port());
        let args = ["--name", name, "--initial-cluster", &all].map(ToOwned::to_owned).to_vec();
        let mut member = Etcd::with(Arc::clone(&dir), name, client, peer, args);
        member.start();
        members.push(member);
    }
    for member in &mut members {
        assert!(member.answers().await, "{}", member.log());
    }
    Some(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_members_one_by_one() {
    let Some(mut members) = cluster().await else { return };
    let config = Etcd3Config {
        endpoints: members.iter().map(|member| member.endpoint.clone()).collect(),
        ..Etcd3Config::default()
    };
    let writer = Etcd3::new(config.clone()).unwrap();
    writer.put(READY_KEY, READY).await.unwrap();
    let mut reader = Reader::start(config.clone());
    reader.changes().await;
    let endpoint = reader.watching().await;

    // The member that serves the watch dies: another takes over, at the same revision.
    let served = members.iter().position(|member| *member.endpoint == *endpoint).unwrap();
    members[served].crash();
    let mut expected = std::collections::BTreeMap::new();
    write(&writer, "one").await;
    expected.insert("one".to_owned(), "1".to_owned());
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 1, "another member is the same store");

    // The one that does not serve the watch dies: the last has no leader. Its watch breaks no
    // connection, and must not look alive.
    let endpoint = reader.watching().await;
    let idle = (0..3).find(|i| *i != served && *members[*i].endpoint != *endpoint).unwrap();
    members[idle].crash();
    reader.waiting().await;
    assert!(writer.get("/a").await.is_err(), "a member without a leader answers");

    members[idle].start();
    members[served].start();
    write(&writer, "two").await;
    expected.insert("two".to_owned(), "1".to_owned());
    reader.until_profiles(&expected).await;
    assert_eq!(reader.listings(), 1);
}

/// Writes until it is written: an election takes its time.
async fn write(writer: &Etcd3, name: &str) {
    for _ in 0..40 {
        if writer.put(&profile_key(name), &value(1)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("{name} cannot be written");
}
