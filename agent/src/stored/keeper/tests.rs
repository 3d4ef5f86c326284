use super::*;
use crate::status::systemd::Watchdog;
use crate::stored::file::read;

struct Rig {
    dir: tempfile::TempDir,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    settings: watch::Sender<StoreSettings>,
    felix: watch::Sender<Option<Report>>,
    routes: watch::Sender<Option<Report>>,
    problems: watch::Receiver<Vec<Problem>>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
    _others: (watch::Sender<SyncState>, Watchdog),
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (desired, desired_rx) = watch::channel(None);
        let (settings, settings_rx) = watch::channel(StoreSettings::default());
        let sync = SyncState { complete: true, ..SyncState::default() };
        let (sync, sync_rx) = watch::channel(sync);
        let (felix, felix_rx) = watch::channel(None);
        let (routes, routes_rx) = watch::channel(None);
        let (problems_tx, problems) = watch::channel(Vec::new());
        let (flush, flush_rx) = mpsc::channel(1);
        let mut watchdog = Watchdog::new();
        let place = Place {
            file: dir.path().join("policy.json"),
            marker: dir.path().join("policy.boot"),
            node: "a".into(),
            boot: "now".to_owned(),
        };
        let inputs = Inputs {
            desired: desired_rx,
            settings: settings_rx,
            sync: sync_rx,
            reports: vec![felix_rx, routes_rx],
            flush: flush_rx,
            heartbeat: watchdog.register("keeper"),
        };
        tokio::spawn(run(place, inputs, problems_tx));
        Self { dir, desired, settings, felix, routes, problems, flush, _others: (sync, watchdog) }
    }

    fn want(&self, generation: u64, origin: Origin) {
        let state = DesiredState {
            generation,
            revision: i64::try_from(generation).unwrap(),
            origin,
            ..DesiredState::default()
        };
        self.desired.send_replace(Some(Arc::new(state)));
    }

    fn applied(&self, generation: u64) {
        for part in [&self.felix, &self.routes] {
            let applied = Some(generation);
            part.send_replace(Some(Report { applied, ..Report::default() }));
        }
    }

    /// The revision on disk.
    fn on_disk(&self) -> Option<i64> {
        read(&self.dir.path().join("policy.json")).unwrap().map(|stored| stored.state.revision)
    }

    fn is_marked(&self) -> bool {
        self.dir.path().join("policy.boot").exists()
    }
}

/// Lets time pass. Paused time stands still while a thread writes.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_is_completely_in_force_is_kept() {
    let rig = Rig::start();
    pass(5.0).await;
    assert_eq!((rig.on_disk(), rig.is_marked()), (None, false));
    rig.want(1, Origin::Datastore);
    pass(5.0).await;
    assert_eq!((rig.on_disk(), rig.is_marked()), (None, true), "nothing is in force");
    let applied = Some(1);
    rig.felix.send_replace(Some(Report { applied, ..Report::default() }));
    pass(5.0).await;
    assert_eq!(rig.on_disk(), None, "one part is missing");
    rig.applied(1);
    pass(0.5).await;
    assert_eq!(rig.on_disk(), None, "something newer may come");
    pass(1.0).await;
    assert_eq!(rig.on_disk(), Some(1));
    // Where there is always a newer one, what is in force is kept all the same.
    for generation in 2..60 {
        rig.want(generation, Origin::Datastore);
        pass(0.1).await;
        rig.want(generation + 1, Origin::Datastore);
        rig.applied(generation);
        pass(0.4).await;
    }
    assert!(rig.on_disk().is_some_and(|revision| revision > 30), "{:?}", rig.on_disk());
    // A state that fails is not kept, the next one is.
    pass(30.0).await;
    assert_eq!(rig.on_disk(), Some(59));
    rig.want(70, Origin::Datastore);
    rig.felix.send_replace(Some(Report::default()));
    pass(30.0).await;
    assert_eq!(rig.on_disk(), Some(59));
    rig.want(71, Origin::Datastore);
    rig.applied(71);
    pass(5.0).await;
    assert_eq!(rig.on_disk(), Some(71));
    // Other settings are something else, too.
    let parameters = std::collections::BTreeMap::default();
    let felix = calico_datastore::model::FelixConfiguration { parameters };
    let settings = StoreSettings { node: None, cluster: Some(Arc::new(felix)) };
    rig.settings.send_replace(settings.clone());
    pass(60.0).await;
    let stored = read(&rig.dir.path().join("policy.json")).unwrap().unwrap();
    assert_eq!(stored.settings, settings);
    assert_eq!((stored.node.as_str(), stored.boot.as_str()), ("a", "now"));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_but_for_a_refused_object_is_kept() {
    let rig = Rig::start();
    rig.want(1, Origin::Datastore);
    rig.applied(1);
    pass(5.0).await;
    rig.want(2, Origin::Datastore);
    let applied = Some(2);
    rig.routes.send_replace(Some(Report { applied, ..Report::default() }));
    rig.felix.send_replace(Some(Report { given: Some(2), ..Report::default() }));
    pass(60.0).await;
    assert_eq!(rig.on_disk(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_waits_for_no_delay() {
    let rig = Rig::start();
    let flush = async || {
        let (done, written) = oneshot::channel();
        rig.flush.send(done).await.unwrap();
        written.await.unwrap();
    };
    flush().await;
    assert_eq!(rig.on_disk(), None, "nothing is in force");
    for generation in 1..4 {
        rig.want(generation, Origin::Datastore);
        rig.applied(generation);
        pass(0.01).await;
        assert_ne!(rig.on_disk(), Some(i64::try_from(generation).unwrap()));
        flush().await;
        assert_eq!(rig.on_disk(), Some(i64::try_from(generation).unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_from_disk_is_not_kept_again() {
    let rig = Rig::start();
    rig.want(0, Origin::Stored { since: 7 });
    rig.applied(0);
    pass(60.0).await;
    assert_eq!((rig.on_disk(), rig.is_marked()), (None, false));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_take_it_is_a_problem_until_it_does() {
    let mut rig = Rig::start();
    rig.want(1, Origin::Datastore);
    rig.applied(1);
    pass(3.0).await;
    assert_eq!(rig.on_disk(), Some(1));
    let obstacle = rig.dir.path().join("policy.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    rig.want(2, Origin::Datastore);
    rig.applied(2);
    pass(5.0).await;
    let said = rig.problems.borrow_and_update().clone();
    assert!(matches!(&said[..], [one] if one.message.contains("cannot write")), "{said:?}");
    assert_eq!(rig.on_disk(), Some(1));
    std::fs::remove_dir(&obstacle).unwrap();
    pass(15.0).await;
    assert_eq!((rig.on_disk(), rig.problems.borrow().len()), (Some(2), 0));
}

fn snapshot() -> Snapshot {
    Snapshot { state: Arc::default(), settings: StoreSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_written_seldom_but_it_is() {
    let begin = Instant::now();
    let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
    let mut schedule = Schedule::default();
    assert_eq!(schedule.due(true), None);
    for step in 0..100 {
        schedule.see(snapshot(), at(f64::from(step) / 2.0));
    }
    assert_eq!(schedule.due(true), Some(begin + PATIENCE));
    // 200 ms for 30 MiB: not again for 30 s.
    let done = Done { bytes: 30 << 20, took: Duration::from_millis(200) };
    let newest = schedule.newest.clone().unwrap();
    schedule.wrote(newest.clone(), Some(done), at(50.0));
    schedule.see(newest, at(50.5));
    assert_eq!(schedule.due(false), None, "the same again is not new");
    assert_eq!(schedule.due(true), Some(at(50.0) + REFRESH));
    schedule.see(snapshot(), at(51.0));
    assert_eq!(schedule.due(false), Some(at(80.0)));
    // A second of work is paid for by fifty of rest.
    let slow = Done { bytes: 1, took: Duration::from_secs(1) };
    schedule.wrote(snapshot(), Some(slow), at(80.0));
    schedule.see(snapshot(), at(81.0));
    assert_eq!(schedule.due(false), Some(at(130.0)));
    schedule.wrote(snapshot(), None, at(130.0));
    assert_eq!(schedule.due(false), Some(at(140.0)));
}
