use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment {
        container_id: container.to_owned(),
        ifname: ifname.to_owned(),
        network: "frontend".to_owned(),
        netns: Some("/var/run/netns/cni-x".into()),
        host_name: Some("calic89f2f35-1b".to_owned()),
        handle: format!("frontend.{container}"),
        addresses: vec!["192.168.0.0".parse().unwrap(), "fd80::1".parse().unwrap()],
        node: "calico-01".to_owned(),
        boot: "b".to_owned(),
        stage: Stage::Adding { pid: 7, started: 123 },
        delegated: None,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The power was cut before the text was on the disk.
#[test]
fn an_empty_file_is_no_record_and_no_trouble() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    records.store(&attachment("c", "eth0")).unwrap();
    std::fs::write(records.dir().join("c_eth0.json"), "").unwrap();
    assert_eq!(records.load("c", "eth0").unwrap(), None);
    let listing = records.list().unwrap();
    assert!(listing.attachments.is_empty() && listing.unreadable.is_empty());
    assert!(records.of_container("c").unwrap().is_empty());
    // Half a text is something else.
    std::fs::write(records.dir().join("c_eth0.json"), "{").unwrap();
    assert!(records.load("c", "eth0").is_err());
    assert_eq!(records.list().unwrap().unreadable.len(), 1);
}

#[test]
fn the_state_directory_stays_open_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("lib/calico");
    let records = Attachments::in_state_dir(&state);
    // As a DEL does before any agent was here.
    drop(records.lock("pod", Duration::ZERO).unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let readable = |path: &Path| mode(path) & 0o500 == 0o500 && mode(path) & 0o055 != 0;
    assert!(readable(&state) && readable(&dir.path().join("lib")), "{:o}", mode(&state));
    assert_eq!(mode(records.dir()), 0o700);
}

#[test]
fn what_is_stored_is_read_back() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    assert!(records.list().unwrap().attachments.is_empty(), "no directory holds no records");
    let mut stored = attachment("c89f2f35-1b7e", "eth0");
    for stage in
        [Stage::Adding { pid: 7, started: 9 }, Stage::Added, Stage::Failed, Stage::Deleting]
    {
        stored.stage = stage;
        records.store(&stored).unwrap();
        assert_eq!(records.load("c89f2f35-1b7e", "eth0").unwrap(), Some(stored.clone()));
    }
    stored.delegated = Some(Delegated {
        plugin: "host-local".to_owned(),
        conf: r#"{"name":"n"}"#.to_owned(),
        args: "IP=1.2.3.4".to_owned(),
        path: vec!["/opt/cni/bin".into()],
    });
    (stored.netns, stored.host_name) = (None, None);
    stored.addresses.clear();
    records.store(&stored).unwrap();
    assert_eq!(records.load("c89f2f35-1b7e", "eth0").unwrap(), Some(stored));
    assert_eq!(names(records.dir()), ["c89f2f35-1b7e_eth0.json"]);
    assert_eq!(records.load("c89f2f35-1b7e", "eth1").unwrap(), None);
    // Killed while it wrote.
    std::fs::write(records.dir().join("c89f2f35-1b7e_eth0.json.new"), "{").unwrap();
    records.remove("c89f2f35-1b7e", "eth0").unwrap();
    assert!(names(records.dir()).is_empty());
    records.remove("c89f2f35-1b7e", "eth0").unwrap();
    assert_eq!(records.load("c89f2f35-1b7e", "eth0").unwrap(), None);
}

#[test]
fn two_interfaces_never_share_a_file() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    let all = [("a", "b_c"), ("a_b", "c"), ("a", "c"), ("..", "x"), ("a.b", "../y")];
    for (container, ifname) in all {
        records.store(&attachment(container, ifname)).unwrap();
    }
    assert_eq!(names(records.dir()).len(), all.len());
    for (container, ifname) in all {
        let found = records.load(container, ifname).unwrap().unwrap();
        assert_eq!((&*found.container_id, &*found.ifname), (container, ifname));
    }
    let of_a: Vec<_> = records.of_container("a").unwrap().into_iter().map(|a| a.ifname).collect();
    assert_eq!(of_a, ["b_c", "c"]);
}

#[test]
fn a_listing_survives_what_is_no_record() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    records.store(&attachment("a", "eth0")).unwrap();
    std::fs::write(records.dir().join("b_eth0.json"), "{").unwrap();
    std::fs::write(records.dir().join("c_eth0.json.new"), "{").unwrap();
    // A later version's fields, and few of ours.
    let later = r#"{"containerId":"d","ifname":"eth0","colour":"blue","stage":"paused"}"#;
    std::fs::write(records.dir().join("d_eth0.json"), later).unwrap();
    let _locked = records.lock("a", Duration::ZERO).unwrap().unwrap();
    let listing = records.list().unwrap();
    let ids: Vec<_> = listing.attachments.iter().map(|a| &*a.container_id).collect();
    assert_eq!(ids, ["a", "d"]);
    assert_eq!(listing.attachments[1].stage, Stage::Failed);
    assert_eq!(listing.unreadable.len(), 1);
    assert!(listing.unreadable[0].to_string().contains("b_eth0.json"));
    assert!(records.load("b", "eth0").is_err());
}

#[test]
fn one_at_a_time_per_container() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    let held = records.lock("a", Duration::ZERO).unwrap().expect("free");
    assert!(records.lock("a", Duration::from_millis(10)).unwrap().is_none());
    assert!(records.lock("b", Duration::ZERO).unwrap().is_some());
    drop(held);
    let held = records.lock("a", Duration::ZERO).unwrap().expect("free again");
    held.finish();
    assert_eq!(names(records.dir()), ["b.lock"]);
}

#[test]
fn a_lock_that_is_removed_is_held_by_nobody_else() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    let counter = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..40 {
                    let locked = records.lock("a", Duration::from_secs(30)).unwrap().unwrap();
                    assert_eq!(counter.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    counter.fetch_sub(1, Ordering::SeqCst);
                    if round % 2 == 0 { locked.finish() } else { drop(locked) }
                }
            });
        }
    });
}

#[test]
fn what_a_killed_add_leaves_before_its_record_is_swept() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    assert_eq!(records.sweep().unwrap(), 0, "no directory");
    let lock = |container: &str| records.lock(container, Duration::ZERO).unwrap().unwrap();
    // A pod, one with a `_` in its name, and one whose name begins like another's.
    for container in ["pod", "a_b", "pod2"] {
        drop(lock(container));
        records.store(&attachment(container, "eth0")).unwrap();
    }
    std::fs::write(records.dir().join("pod_eth1.json.new"), "{").unwrap();
    let mut expected = names(records.dir());
    // Killed with the lock, with the record half written, and one that cannot be read any more.
    drop(lock("killed"));
    drop(lock("a"));
    std::fs::write(records.dir().join("half_eth0.json.new"), "{").unwrap();
    // The power was cut; the second of these has another record, which is whole.
    std::fs::write(records.dir().join("empty_eth0.json"), "").unwrap();
    drop(lock("empty"));
    std::fs::write(records.dir().join("pod2_eth1.json"), "").unwrap();
    expected.push("pod2_eth1.json".to_owned());
    std::fs::write(records.dir().join("broken_eth0.json"), "{").unwrap();
    drop(lock("broken"));
    let held = lock("held");
    assert_eq!(records.sweep().unwrap(), 4);
    expected.extend(["broken.lock", "broken_eth0.json", "held.lock"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(records.dir()), expected);
    assert!(records.lock("held", Duration::ZERO).unwrap().is_none(), "still held");
    drop(held);
    assert_eq!(records.sweep().unwrap(), 1);
    assert_eq!(records.sweep().unwrap(), 0);
}

/// Lockers that leave the file and those that remove it, and two that sweep all the time.
#[test]
fn a_lock_that_is_swept_is_held_by_nobody() {
    let state = tempfile::tempdir().unwrap();
    let records = Attachments::in_state_dir(state.path());
    let (inside, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut swept = 0;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..100 {
                    let locked = records.lock("a", Duration::from_secs(30)).unwrap().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    if round % 3 == 0 {
                        records.store(&attachment("a", "eth0")).unwrap();
                        std::thread::yield_now();
                        assert!(records.load("a", "eth0").unwrap().is_some());
                        records.remove("a", "eth0").unwrap();
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if round % 10 == 0 { locked.finish() } else { drop(locked) }
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let sweepers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut swept = 0;
                while done.load(Ordering::SeqCst) < 4 {
                    swept += records.sweep().unwrap();
                }
                swept
            })
        });
        swept = sweepers.map(|sweeper| sweeper.join().unwrap()).iter().sum();
    });
    assert!(swept > 0);
    records.sweep().unwrap();
    assert_eq!(names(records.dir()), [""; 0]);
}

#[test]
fn a_process_is_known_by_its_start() {
    let mine = Stage::adding_now();
    assert!(mine.is_at_work());
    let Stage::Adding { pid, started } = mine else { panic!("not adding") };
    assert!(started > 0);
    assert!(!Stage::Adding { pid, started: started + 1 }.is_at_work(), "a reused pid");
    assert!(!Stage::Adding { pid: u32::MAX, started }.is_at_work());
    assert!(!Stage::Added.is_at_work());
    assert!(!boot_id().is_empty());
}
