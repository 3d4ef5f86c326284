use super::*;
use crate::reconcile::EndpointState;
use crate::status::systemd::Watchdog;
use calico_datastore::layout::v3::keys as layout;
use calico_datastore::model::WorkloadEndpointId;
use calico_datastore::store::memory::Memory;

fn id(workload: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "calico-01".into(),
        orchestrator: "cni".into(),
        workload: workload.into(),
        endpoint: "eth0".into(),
    }
}

fn up(workloads: &[&str]) -> Option<States> {
    Some(workloads.iter().map(|w| (id(w), EndpointState::Up)).collect())
}

struct Running {
    store: Arc<Memory>,
    settings: watch::Sender<Arc<Settings>>,
    states: watch::Sender<Option<States>>,
    hosts: watch::Sender<HostStates>,
    _watchdog: Watchdog,
}

fn start(settings: Settings, store: Memory) -> Running {
    let store = Arc::new(store);
    let (settings, settings_rx) = watch::channel(Arc::new(settings));
    let (states, states_rx) = watch::channel(None);
    let mut watchdog = Watchdog::new();
    let (hosts, hosts_rx) = watch::channel(HostStates::new());
    let heartbeat = watchdog.register("status");
    let inputs = Inputs {
        reports: Reports::V3,
        settings: settings_rx,
        states: states_rx,
        hosts: hosts_rx,
        heartbeat,
    };
    tokio::spawn(run(store.clone(), "calico-01".into(), Instant::now(), inputs));
    Running { store, settings, states, hosts, _watchdog: watchdog }
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

fn status() -> String {
    layout::host_status(&"calico-01".into())
}

fn last() -> String {
    layout::host_last_status(&"calico-01".into())
}

#[tokio::test(start_paused = true)]
async fn the_host_reports_on_a_timer_with_a_lease_and_only_after_the_first_apply() {
    let running = start(Settings::default(), Memory::default());
    seconds(100).await;
    assert_eq!(running.store.keys(), [""; 0], "reported before anything was programmed");
    running.states.send_replace(up(&[]));
    seconds(1).await;
    assert_eq!(running.store.take_writes(), [status(), last()]);
    assert!(running.store.text(&status()).unwrap().contains(r#""first_update":true"#));
    assert_eq!(running.store.ttl(&status()), Some(Duration::from_secs(90)));
    assert_eq!(running.store.ttl(&last()), None);
    seconds(34).await;
    assert_eq!(running.store.take_writes().len(), 2);
    assert!(running.store.text(&status()).unwrap().contains(r#""first_update":false"#));
    // Switched off while it runs, and on again.
    let off = Settings { reporting_interval: Duration::ZERO, ..Settings::default() };
    running.settings.send_replace(Arc::new(off));
    seconds(300).await;
    assert_eq!(running.store.take_writes(), [""; 0]);
    running.settings.send_replace(Arc::default());
    seconds(1).await;
    assert_eq!(running.store.take_writes(), [status(), last()]);
}

fn endpoints_only() -> Settings {
    Settings { reporting_interval: Duration::ZERO, endpoint_reporting: true, ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_reported_one_per_delay() {
    let running = start(endpoints_only(), Memory::default());
    running.states.send_replace(up(&["a", "b", "c"]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running.store.take_writes(), [layout::workload_status(&id("a"))]);
    // "b" goes before its turn comes: it is never written.
    running.states.send_replace(up(&["a", "c"]));
    seconds(10).await;
    assert_eq!(running.store.take_writes(), [layout::workload_status(&id("c"))]);
    running.states.send_replace(up(&["c"]));
    seconds(10).await;
    assert_eq!(running.store.keys(), [layout::workload_status(&id("c"))]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_not_reported_unless_somebody_wants_it() {
    let stray = layout::workload_status(&id("stray"));
    let store = Memory::with(&[(&stray, r#"{"status":"up"}"#)]);
    let off = Settings { endpoint_reporting: false, ..endpoints_only() };
    let running = start(off, store);
    running.states.send_replace(up(&["a"]));
    seconds(10_000).await;
    assert_eq!(running.store.take_writes(), [""; 0]);
    running.settings.send_replace(Arc::new(endpoints_only()));
    seconds(10).await;
    assert_eq!(running.store.keys(), [layout::workload_status(&id("a"))]);
}

#[tokio::test(start_paused = true)]
async fn strays_of_this_host_go_and_those_of_others_stay() {
    let other = WorkloadEndpointId { node: "calico-010".into(), ..id("x") };
    let (mine, other) = (layout::workload_status(&id("stray")), layout::workload_status(&other));
    let store = Memory::with(&[(&mine, "{}"), (&other, "{}"), (&last(), "{}")]);
    let running = start(endpoints_only(), store);
    seconds(100).await;
    assert_eq!(running.store.keys().len(), 3, "deleted before the endpoints were known");
    running.states.send_replace(up(&[]));
    seconds(10).await;
    let mut left = vec![other, last()];
    left.sort();
    assert_eq!(running.store.keys(), left);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_gets_the_newest_state_later() {
    let running = start(endpoints_only(), Memory::default());
    running.store.fail(2);
    running.states.send_replace(up(&["a"]));
    seconds(4).await;
    running.states.send_replace(up(&["b"]));
    seconds(20).await;
    assert_eq!(running.store.keys(), [layout::workload_status(&id("b"))]);
    assert_eq!(running.store.take_writes(), [layout::workload_status(&id("b"))]);
}

#[tokio::test(start_paused = true)]
async fn host_endpoints_are_reported_under_keys_of_their_own() {
    let host: Name = "calico-01".into();
    let key = |name: &str| {
        let id = calico_datastore::model::HostEndpointId { name: name.into() };
        layout::host_endpoint_status(&host, &id)
    };
    let store = Memory::with(&[(&key("gone"), r#"{"status":"up"}"#)]);
    let running = start(endpoints_only(), store);
    let state = |state| crate::reconcile::HostState { interfaces: vec![], state };
    let id = |name: &str| calico_datastore::model::HostEndpointId { name: name.into() };
    running.hosts.send_replace([(id("eth0"), state(EndpointState::Up))].into());
    seconds(10).await;
    assert_eq!(running.store.keys(), [key("gone")], "nothing before the first complete apply");
    running.states.send_replace(up(&["a"]));
    seconds(10).await;
    assert_eq!(running.store.text(&key("eth0")).unwrap(), r#"{"status":"up"}"#);
    assert_eq!(running.store.text(&key("gone")), None);
    let error = state(EndpointState::Error("no".to_owned()));
    running.hosts.send_replace([(id("eth0"), error)].into());
    seconds(10).await;
    assert_eq!(running.store.text(&key("eth0")).unwrap(), r#"{"status":"error"}"#);
    running.hosts.send_replace(HostStates::new());
    seconds(10).await;
    assert_eq!(running.store.text(&key("eth0")), None);
}
