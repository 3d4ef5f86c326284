//! How long a change takes. Printed with `--nocapture`; the bounds are for a machine that has other
//! work to do.

use std::time::{Duration, Instant};

use calico_datastore::store::Store;

use crate::support::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_at_once() {
    let place = Place::new();
    let store = place.store();
    for n in 0..200 {
        place.write(&format!("{n}.yaml"), &profile(&format!("a{n}"), "1"));
        store.put(&profile_key(&format!("s{n}")), b"{}", None).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut reader = place.follow();
    let begin = Instant::now();
    assert_eq!(reader.batch().await.updates.len(), 400);
    let first = begin.elapsed();
    let (mut reads, mut writes, mut seen, mut saved) = (vec![], vec![], vec![], vec![]);
    for n in 0..50 {
        let value = profile_value(&n.to_string());
        let begin = Instant::now();
        store.put(&profile_key("s7"), value.as_bytes(), None).await.unwrap();
        writes.push(begin.elapsed());
        assert_eq!(reader.batch().await.updates.len(), 1);
        seen.push(begin.elapsed());
        let begin = Instant::now();
        store.get(&profile_key("s7")).await.unwrap().unwrap();
        reads.push(begin.elapsed());
    }
    for n in 0..10 {
        let begin = Instant::now();
        place.write("7.yaml", &profile("a7", &(n + 2).to_string()));
        assert_eq!(reader.batch().await.updates.len(), 1);
        saved.push(begin.elapsed());
    }
    let times = [reads, writes, seen, saved].map(median);
    println!("first snapshot of 200 files and 200 keys {first:?}");
    println!("read, write, write to batch, save to batch (medians): {times:?}");
    assert!(first < Duration::from_secs(2), "{first:?}");
    assert!(times[2] < Duration::from_millis(500), "{times:?}");
    assert!(times[3] < Duration::from_secs(1), "{times:?}");
    reader.close().await;
}
