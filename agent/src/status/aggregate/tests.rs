use std::time::Instant;

use super::*;
use crate::config::Settings;
use crate::desired::DesiredState;
use crate::reconcile::{Programmed, Report};
use crate::status::overview::{Part, Registration, SyncState};
use crate::status::systemd::Watchdog;
use crate::telemetry::capture::Captured;

struct Rig {
    run: tempfile::TempDir,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    felix: watch::Sender<Option<Report>>,
    routes: watch::Sender<Option<Report>>,
    bird: watch::Sender<Option<Report>>,
    ready: watch::Receiver<bool>,
    states: watch::Receiver<Option<States>>,
    problems: watch::Receiver<Vec<Problem>>,
    _others: (watch::Sender<SyncState>, watch::Sender<Registration>, Watchdog),
}

fn id(workload: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "calico-01".into(),
        orchestrator: "cni".into(),
        workload: workload.into(),
        endpoint: "eth0".into(),
    }
}

impl Rig {
    fn start(files: impl FnOnce(&std::path::Path) -> Option<EndpointFiles>) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let (desired, desired_rx) = watch::channel(None);
        let (sync, sync_rx) = watch::channel(SyncState::default());
        let (registration, registration_rx) = watch::channel(Registration::default());
        let (felix, felix_rx) = watch::channel(None);
        let (routes, routes_rx) = watch::channel(None);
        let (bird, bird_rx) = watch::channel(None);
        let (ready_tx, ready) = watch::channel(false);
        let (states_tx, states) = watch::channel(None);
        let (problems_tx, problems) = watch::channel(Vec::new());
        let part = |name, report, required| Part { name, report, required };
        let overview = Overview {
            location: String::new(),
            node: "calico-01".to_owned(),
            started: Instant::now(),
            sync: sync_rx,
            registration: registration_rx,
            desired: desired_rx,
            parts: vec![
                part("felix", felix_rx, true),
                part("routes", routes_rx, true),
                part("bird", bird_rx, false),
            ],
            ready: ready.clone(),
            files: problems.clone(),
            silent: watch::channel(Vec::new()).1,
            kept: watch::channel(Vec::new()).1,
            mtu: watch::channel(Vec::new()).1,
            denied: watch::channel(Vec::new()).1,
            beside: watch::channel(Vec::new()).1,
            book: crate::denied::Book::default(),
            collector: watch::channel(Default::default()).1,
            bird_socket: run_dir.path().join("bird.ctl"),
            programs: None,
            tally: None,
        };
        let mut watchdog = Watchdog::new();
        let hosts = watch::channel(HostStates::new()).0;
        let outputs = Outputs { states: states_tx, hosts, ready: ready_tx, problems: problems_tx };
        tokio::spawn(run(
            Arc::new(overview),
            files(run_dir.path()),
            outputs,
            Notifier::default(),
            watchdog.register("aggregate"),
        ));
        let _others = (sync, registration, watchdog);
        Self { run: run_dir, desired, felix, routes, bird, ready, states, problems, _others }
    }

    fn want(&self, generation: u64, prefix: Option<PathBuf>) {
        let settings = Settings { endpoint_status_prefix: prefix, ..Settings::default() };
        let settings = Arc::new(settings);
        let state = DesiredState { generation, settings, ..DesiredState::default() };
        self.desired.send_replace(Some(Arc::new(state)));
    }

    fn files(&self, prefix: &std::path::Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(prefix.join("endpoint-status")) else { return vec![] };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn path(&self) -> PathBuf {
        self.run.path().to_owned()
    }
}

fn report(generation: u64, up: &[&str]) -> Option<Report> {
    let all: Vec<_> = up.iter().map(|workload| (*workload, 2)).collect();
    report_on(generation, &all)
}

/// Those that are up, and the index of the interface of each.
fn report_on(generation: u64, up: &[(&str, u32)]) -> Option<Report> {
    let endpoints = up.iter().map(|(workload, _)| (id(workload), EndpointState::Up)).collect();
    let in_force = up.iter().map(|(workload, device)| {
        let interface = "cali1".parse().unwrap();
        let (mac, addresses, profiles) = (None, vec![], vec![]);
        let programmed = Programmed { interface, device: *device, mac, addresses, profiles };
        (id(workload), Arc::new(programmed))
    });
    let in_force = in_force.collect();
    Some(Report { applied: Some(generation), endpoints, in_force, ..Report::default() })
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn ready_comes_once_and_only_with_the_newest_state_in_every_required_part() {
    let mut rig = Rig::start(|_| None);
    rig.want(2, None);
    rig.felix.send_replace(report(2, &[]));
    settle().await;
    assert!(!*rig.ready.borrow(), "routes have said nothing");
    rig.routes.send_replace(report(1, &[]));
    settle().await;
    assert!(!*rig.ready.borrow(), "an older state is in force");
    rig.want(3, None);
    rig.routes.send_replace(report(2, &[]));
    settle().await;
    assert!(!*rig.ready.borrow(), "there is a newer state");
    assert!(rig.states.borrow().is_none(), "reported before it was ready");
    rig.felix.send_replace(report(3, &["a"]));
    rig.routes.send_replace(report(3, &["a"]));
    settle().await;
    assert!(*rig.ready.borrow_and_update(), "BIRD holds up the rest");
    assert_eq!(rig.states.borrow_and_update().as_ref().unwrap().len(), 1);
    // What fails later takes nothing back, and ready is not said again.
    rig.felix.send_replace(Some(Report::default()));
    settle().await;
    rig.felix.send_replace(report(3, &["a"]));
    settle().await;
    assert!(!rig.ready.has_changed().unwrap());
    // What changes no endpoint wakes no report.
    rig.states.borrow_and_update();
    rig.bird.send_replace(report(3, &[]));
    settle().await;
    assert!(!rig.states.has_changed().unwrap());
}

/// The generation that a line has is one that every part has worked on.
#[tokio::test(start_paused = true)]
async fn lines_about_an_endpoint_have_its_name_and_the_generation() {
    let captured = Captured::begin();
    let rig = Rig::start(|_| None);
    rig.want(8, None);
    let given = |generation, up: &[&str]| {
        report(generation, up).map(|one| Report { given: Some(generation), ..one })
    };
    rig.routes.send_replace(given(7, &["a"]));
    rig.felix.send_replace(given(8, &["a"]));
    settle().await;
    let lines = captured.lines();
    let up = lines.iter().find(|line| line.contains("CALICO_EVENT=endpoint-up\n")).unwrap();
    assert!(up.contains("CALICO_GENERATION=7\n"), "{up}");
    assert!(up.contains(&format!("CALICO_ENDPOINT={}\n", id("a").on_host())), "{up}");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_there_while_every_required_part_says_up() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    rig.want(1, Some(rig.path()));
    rig.felix.send_replace(report(1, &["a", "b"]));
    settle().await;
    assert_eq!(rig.files(&rig.path()), [""; 0], "a pod was started without its routes");
    rig.routes.send_replace(report(1, &["a"]));
    settle().await;
    assert_eq!(rig.files(&rig.path()), ["cni a eth0"]);
    rig.felix.send_replace(report(1, &["b"]));
    rig.routes.send_replace(report(1, &["a", "b"]));
    settle().await;
    assert_eq!(rig.files(&rig.path()), ["cni b eth0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_made_again_has_no_file_until_everybody_has_the_new_one() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    let path = rig.path().join("endpoint-status/cni a eth0");
    let device = || {
        let text = std::fs::read_to_string(&path).ok()?;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["interfaceIndex"].as_u64()
    };
    rig.want(1, Some(rig.path()));
    rig.felix.send_replace(report_on(1, &[("a", 7)]));
    rig.routes.send_replace(report_on(1, &[("a", 7)]));
    settle().await;
    assert_eq!(device(), Some(7));
    // Up before and up after, for each of them: the state says nothing.
    rig.want(2, Some(rig.path()));
    settle().await;
    assert_eq!(device(), Some(7), "nothing else is in force yet");
    rig.routes.send_replace(report_on(2, &[("a", 9)]));
    settle().await;
    assert_eq!(device(), None, "half of what is in force is another pod's");
    rig.felix.send_replace(report_on(2, &[("a", 9)]));
    settle().await;
    assert_eq!(device(), Some(9));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_from_disk_is_told_nobody() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    rig.want(0, Some(rig.path()));
    rig.desired.send_modify(|desired| {
        let state = Arc::make_mut(desired.as_mut().unwrap());
        state.origin = crate::desired::Origin::Stored { since: 0 };
    });
    let stored = |up: &[&str]| report(0, up).map(|report| Report { stored: true, ..report });
    rig.felix.send_replace(stored(&["a", "b"]));
    rig.routes.send_replace(stored(&["a", "b"]));
    settle().await;
    assert_eq!(rig.files(&rig.path()), [""; 0], "a pod was started by an old policy");
    assert!(!*rig.ready.borrow() && rig.states.borrow().is_none());
    // The datastore is back: it counts what was done about what it says.
    rig.want(1, Some(rig.path()));
    settle().await;
    assert_eq!(rig.files(&rig.path()), [""; 0]);
    rig.felix.send_replace(report(1, &["a"]));
    settle().await;
    assert!(!*rig.ready.borrow());
    rig.routes.send_replace(report(1, &["a", "b"]));
    settle().await;
    assert_eq!(rig.files(&rig.path()), ["cni a eth0"]);
    assert!(*rig.ready.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_open_is_not_emptied_again() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    let witness = rig.path().join("endpoint-status/witness");
    std::fs::write(&witness, "").unwrap();
    rig.want(1, Some(rig.path()));
    rig.felix.send_replace(report(1, &["a"]));
    settle().await;
    assert!(witness.exists());
    // One that could not be opened at the start is, before its first file.
    let late = Rig::start(|run| {
        std::fs::create_dir(run.join("endpoint-status")).unwrap();
        std::fs::write(run.join("endpoint-status/cni old eth0"), "").unwrap();
        None
    });
    late.want(1, Some(late.path()));
    late.felix.send_replace(report(1, &["a"]));
    late.routes.send_replace(report(1, &["a"]));
    settle().await;
    assert_eq!(late.files(&late.path()), ["cni a eth0"]);
}

#[tokio::test(start_paused = true)]
async fn another_directory_is_filled_and_the_old_one_left_empty() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    let (old, new) = (rig.path(), rig.path().join("new"));
    rig.want(1, Some(old.clone()));
    rig.felix.send_replace(report(1, &["a"]));
    rig.routes.send_replace(report(1, &["a"]));
    settle().await;
    assert_eq!(rig.files(&old).len(), 1);
    rig.want(2, Some(new.clone()));
    settle().await;
    assert_eq!((rig.files(&old).len(), rig.files(&new).len()), (0, 1));
    rig.want(3, None);
    settle().await;
    assert_eq!(rig.files(&new).len(), 0, "nobody keeps them right any more");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_written_is_a_problem_and_is_tried_again() {
    let rig = Rig::start(|run| EndpointFiles::open(run).ok());
    let dir = rig.path().join("endpoint-status");
    // Something else has its name.
    std::fs::remove_dir(&dir).unwrap();
    std::fs::write(&dir, "").unwrap();
    rig.want(1, Some(rig.path()));
    rig.felix.send_replace(report(1, &["a"]));
    rig.routes.send_replace(report(1, &["a"]));
    settle().await;
    assert_eq!(rig.problems.borrow().len(), 1);
    std::fs::remove_file(&dir).unwrap();
    std::fs::create_dir(&dir).unwrap();
    tokio::time::sleep(FILE_RETRY).await;
    assert_eq!((rig.files(&rig.path()).len(), rig.problems.borrow().len()), (1, 0));
}
