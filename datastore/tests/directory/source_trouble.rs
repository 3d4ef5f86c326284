//! The files are not there, or say that they are not ready.

use std::time::Duration;

use calico_datastore::store::Store;

use crate::support::*;

const READY: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";

#[tokio::test]
async fn a_directory_that_comes_goes_and_comes_again() {
    let place = Place::new();
    let admin = place.admin();
    std::fs::remove_dir(&admin).unwrap();
    let mut reader = place.follow();
    let reason = reader.waiting().await;
    assert!(
        reason.starts_with("cannot read the directory") && reason.contains("admin"),
        "{reason}"
    );
    std::fs::create_dir(&admin).unwrap();
    place.write("p.yaml", &profile("a", "1"));
    reader.until("a=1").await;

    std::fs::remove_dir_all(&admin).unwrap();
    // Its file first: whoever removes a directory removes one after the other.
    let reason = loop {
        if let Err(reason) = reader.event().await {
            break reason;
        }
    };
    assert!(reason.contains("No such file"), "{reason}");
    std::fs::create_dir(&admin).unwrap();
    place.write("p.yaml", &profile("a", "2"));
    reader.until("a=2").await;
    // Moved away as a whole, it takes nothing with it.
    std::fs::rename(&admin, place.aside()).unwrap();
    assert!(reader.waiting().await.contains("No such file"));
    assert_eq!(reader.profiles(), "a=2");
    std::fs::write(place.aside().join("p.yaml"), profile("a", "3")).unwrap();
    assert!(reader.is_quiet(Duration::from_millis(1500)).await);
    // Back again, and heard of at once.
    std::fs::rename(place.aside(), &admin).unwrap();
    reader.until("a=3").await;
    place.write("p.yaml", &profile("a", "4"));
    reader.until("a=4").await;
    reader.close().await;
}

#[tokio::test]
async fn a_state_directory_that_is_gone_is_not_empty() {
    let place = Place::new();
    place.write("p.yaml", &profile("a", "1"));
    let store = place.store();
    let mut reader = place.follow();
    reader.until("a=1").await;
    store.put(&profile_key("s"), profile_value("1").as_bytes(), None).await.unwrap();
    reader.until("a=1 s=1").await;
    std::fs::rename(place.state(), place.aside()).unwrap();
    let reason = reader.waiting().await;
    assert!(reason.ends_with("state is gone"), "{reason}");
    assert_eq!(reader.profiles(), "a=1 s=1");
    std::fs::rename(place.aside(), place.state()).unwrap();
    assert_eq!(reader.batch().await.updates.len(), 0, "nothing changed meanwhile");
    store.put(&profile_key("s"), profile_value("2").as_bytes(), None).await.unwrap();
    reader.until("a=1 s=2").await;
    assert_eq!(reader.listings(), 2, "not there at first, then there");
    // Another one in its place: whoever wrote into the old one must do so again.
    std::fs::rename(place.state(), place.aside()).unwrap();
    assert!(reader.waiting().await.ends_with("state is gone"));
    store.put(&profile_key("t"), profile_value("1").as_bytes(), None).await.unwrap();
    reader.until("a=1 t=1").await;
    assert_eq!(reader.listings(), 3);
    reader.close().await;
}

#[tokio::test]
async fn absent_means_ready_and_no_means_no() {
    let place = Place::new();
    let cluster = |ready: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: ClusterInformation\nmetadata: {{name: \
             default}}\nspec: {{datastoreReady: {ready}}}\n"
        )
    };
    place.write("p.yaml", &profile("a", "1"));
    let mut reader = place.follow();
    reader.until("a=1").await;
    place.write("c.yaml", &cluster("false"));
    let reason = reader.waiting().await;
    assert!(reason.contains("c.yaml") && reason.ends_with("is not ready"), "{reason}");
    place.write("p.yaml", &profile("a", "2"));
    assert!(reader.is_quiet(Duration::from_millis(500)).await);
    place.write("c.yaml", &cluster("true"));
    reader.batch().await;
    assert_eq!(reader.profiles(), "a=2");
    std::fs::remove_file(place.admin().join("c.yaml")).unwrap();
    reader.batch().await;
    // The other writer's as well.
    let value = br#"{"spec":{"datastoreReady":false}}"#;
    place.store().put(READY, value, None).await.unwrap();
    assert!(reader.waiting().await.contains("state"));
    place.store().delete(READY).await.unwrap();
    reader.batch().await;
    reader.close().await;
}
