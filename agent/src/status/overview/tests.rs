use std::time::{Duration, UNIX_EPOCH};

use calico_datastore::timestamp::rfc3339;

use super::*;
use crate::desired::{LocalEndpoint, Origin};
use crate::status::document::ExternalAddressStatus;

struct Rig {
    overview: Overview,
    sync: watch::Sender<SyncState>,
    registration: watch::Sender<Registration>,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    felix: watch::Sender<Option<Report>>,
    bird: watch::Sender<Option<Report>>,
    ready: watch::Sender<bool>,
    files: watch::Sender<Vec<Problem>>,
    silent: watch::Sender<Vec<Silence>>,
    kept: watch::Sender<Vec<Problem>>,
    mtu: watch::Sender<Vec<Problem>>,
    denied: watch::Sender<Vec<Problem>>,
    beside: watch::Sender<Vec<Problem>>,
    collector: watch::Sender<CollectorState>,
}

fn rig() -> Rig {
    let (sync, sync_rx) = watch::channel(SyncState::default());
    let (registration, registration_rx) = watch::channel(Registration::default());
    let (desired, desired_rx) = watch::channel(None);
    let (felix, felix_rx) = watch::channel(None);
    let (bird, bird_rx) = watch::channel(None);
    let (ready, ready_rx) = watch::channel(false);
    let (files, files_rx) = watch::channel(Vec::new());
    let (silent, silent_rx) = watch::channel(Vec::new());
    let (kept, kept_rx) = watch::channel(Vec::new());
    let (mtu, mtu_rx) = watch::channel(Vec::new());
    let (denied, denied_rx) = watch::channel(Vec::new());
    let (beside, beside_rx) = watch::channel(Vec::new());
    let (collector, collector_rx) = watch::channel(CollectorState::default());
    let overview = Overview {
        location: String::new(),
        node: "calico-01".to_owned(),
        started: Instant::now(),
        sync: sync_rx,
        registration: registration_rx,
        desired: desired_rx,
        parts: vec![
            Part { name: "felix", report: felix_rx, required: true },
            Part { name: "bird", report: bird_rx, required: false },
        ],
        ready: ready_rx,
        files: files_rx,
        silent: silent_rx,
        kept: kept_rx,
        mtu: mtu_rx,
        denied: denied_rx,
        beside: beside_rx,
        book: Book::default(),
        collector: collector_rx,
        bird_socket: PathBuf::from("/nonexistent/bird.ctl"),
        programs: None,
        tally: None,
    };
    Rig {
        overview,
        sync,
        registration,
        desired,
        felix,
        bird,
        ready,
        files,
        silent,
        kept,
        mtu,
        denied,
        beside,
        collector,
    }
}

fn applied(generation: u64) -> Option<Report> {
    Some(Report { applied: Some(generation), ..Report::default() })
}

fn problem() -> Problem {
    Problem { subject: "s".to_owned(), message: "m".to_owned() }
}

/// A host where everything is as it should be.
fn well() -> Rig {
    let rig = rig();
    rig.sync.send_modify(|sync| sync.complete = true);
    rig.registration.send_modify(|registration| registration.done = true);
    let state = DesiredState { generation: 3, ..DesiredState::default() };
    rig.desired.send_replace(Some(Arc::new(state)));
    rig.felix.send_replace(applied(3));
    rig.bird.send_replace(applied(3));
    rig.ready.send_replace(true);
    rig
}

#[test]
fn anything_that_is_missing_degrades() {
    assert_eq!(well().overview.overall(), Overall::Ready);
    type Damage = (&'static str, fn(&Rig));
    let damages: [Damage; 16] = [
        ("a loop that hangs", |rig| {
            let since = Instant::now();
            rig.silent.send_modify(|all| all.push(Silence { name: "felix", since }));
        }),
        ("waiting", |rig| rig.sync.send_modify(|s| s.waiting = Some("away".to_owned()))),
        ("rejected", |rig| {
            rig.sync.send_modify(|s| drop(s.rejected.insert("/k".to_owned(), "bad".to_owned())));
        }),
        ("settings", |rig| rig.sync.send_modify(|s| s.settings.push(problem()))),
        ("rules of others", |rig| rig.beside.send_modify(|all| all.push(problem()))),
        ("files", |rig| rig.files.send_modify(|files| files.push(problem()))),
        ("kept", |rig| rig.kept.send_modify(|kept| kept.push(problem()))),
        ("mtu", |rig| rig.mtu.send_modify(|mtu| mtu.push(problem()))),
        ("denied", |rig| rig.denied.send_modify(|denied| denied.push(problem()))),
        ("collector", |rig| rig.collector.send_modify(|c| c.problems.push(problem()))),
        ("unregistered", |rig| drop(rig.registration.send_replace(Registration::default()))),
        ("registered badly", |rig| {
            rig.registration.send_modify(|registration| registration.problems.push(problem()));
        }),
        ("felix has a problem", |rig| {
            rig.felix.send_modify(|r| r.as_mut().unwrap().problems.push(problem()));
        }),
        // It was in force once: this is not the beginning.
        ("felix failed", |rig| rig.felix.send_modify(|r| r.as_mut().unwrap().applied = None)),
        ("bird is away", |rig| drop(rig.bird.send_replace(None))),
        ("notices", |rig| {
            let notice: (Arc<str>, Arc<str>) = ("IPPool p".into(), "not supported".into());
            let notices = std::iter::once(notice).collect();
            let state = DesiredState { generation: 3, notices, ..DesiredState::default() };
            rig.desired.send_replace(Some(Arc::new(state)));
        }),
    ];
    for (name, damage) in damages {
        let rig = well();
        damage(&rig);
        assert_eq!(rig.overview.overall(), Overall::Degraded, "{name}");
    }
}

#[test]
fn it_is_starting_until_everything_required_was_in_force() {
    let rig = rig();
    assert_eq!(rig.overview.overall(), Overall::Starting);
    assert_eq!(rig.overview.summary(), "reading the datastore");
    rig.sync.send_modify(|sync| sync.waiting = Some("no member answers".to_owned()));
    assert_eq!(rig.overview.summary(), "waiting for the datastore: no member answers");
    let rig = well();
    rig.ready.send_replace(false);
    assert_eq!(rig.overview.overall(), Overall::Starting);
    assert_eq!(rig.overview.summary(), "programming 0 endpoints");
    rig.felix.send_replace(applied(2));
    assert!(!rig.overview.complete(), "an older state is in force");
    rig.felix.send_replace(applied(3));
    rig.bird.send_replace(None);
    assert!(rig.overview.complete(), "BIRD holds up the rest");
}

#[tokio::test]
async fn a_policy_from_disk_is_never_ready_and_says_how_old_it_is() {
    let rig = rig();
    let since = SystemTime::now() - Duration::from_secs(3 * 3600 + 60);
    let seconds = since.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let origin = Origin::Stored { since: seconds };
    rig.desired.send_replace(Some(Arc::new(DesiredState { origin, ..DesiredState::default() })));
    rig.felix.send_replace(Some(Report { stored: true, ..applied(0).unwrap() }));
    assert!(!rig.overview.complete());
    assert_eq!(rig.overview.overall(), Overall::Starting);
    let line = rig.overview.summary();
    let text = rfc3339(since);
    assert_eq!(line, format!("policy of {text} (3 h old) from disk, waiting for the datastore"));
    rig.sync.send_modify(|sync| sync.waiting = Some("no member answers".to_owned()));
    assert_eq!(rig.overview.summary(), format!("{line}: no member answers"));
    let stored = rig.overview.document().await.stored.unwrap();
    assert_eq!((stored.since, stored.age_seconds.unwrap() / 3600), (text, 3));
    // What the datastore says takes its place: it counts from the first report about it.
    rig.desired
        .send_replace(Some(Arc::new(DesiredState { generation: 1, ..DesiredState::default() })));
    assert!(!rig.overview.complete(), "the report is about the policy from disk");
    assert_eq!(rig.overview.document().await.stored, None);
    rig.felix.send_replace(applied(1));
    assert!(rig.overview.complete());
}

#[tokio::test]
async fn the_document_shows_every_problem_of_the_registration() {
    let rig = well();
    let other = Problem { subject: "IP".to_owned(), message: "other".to_owned() };
    let text = "registered with 10.0.0.1".to_owned();
    let problems = vec![problem(), other.clone()];
    rig.registration.send_replace(Registration { text, done: true, problems });
    let document = rig.overview.document().await;
    assert_eq!(document.datastore.registration, "registered with 10.0.0.1");
    assert_eq!(document.notices, [problem(), other]);
    assert!(document.bgp_error.is_some() && document.datastore.in_sync);
}

/// A reader that borrowed a channel twice stopped the calculation for good, and with it every
/// change of policy, as soon as somebody asked for the status at the wrong moment.
#[test]
fn readers_never_stop_a_writer() {
    let rig = well();
    let (done, over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rig = &rig;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|n| rig.sync.send_modify(|s| s.revision = n)));
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        assert_eq!(rig.overview.summary(), "0 endpoints in force");
                        assert!(rig.overview.complete());
                    }
                });
            }
        });
        done.send(())
    });
    let limit = Duration::from_secs(60);
    over.recv_timeout(limit).expect("readers and writer wait for each other");
}

#[tokio::test]
async fn external_addresses_are_shown_as_the_part_that_leads_them_says() {
    use calico_datastore::model::Cidr;

    use crate::desired::{AclClass, Target};
    let rig = well();
    let id = |name: &str| WorkloadEndpointId {
        node: "calico-01".into(),
        orchestrator: "cni".into(),
        workload: name.into(),
        endpoint: "eth0".into(),
    };
    let external = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let own = external("192.168.0.1");
    let mut state = DesiredState { generation: 3, ..DesiredState::default() };
    for name in ["a", "b"] {
        let endpoint = LocalEndpoint {
            interface: format!("cali{name}").parse().unwrap(),
            active: true,
            mac: None,
            addresses: vec![Cidr::host(own)],
            nat: vec![(own, external("203.0.113.7"))],
            spoof: Vec::new(),
            class: AclClass::default().id(),
        };
        state.endpoints.insert(id(name), Arc::new(endpoint));
    }
    rig.desired.send_replace(Some(Arc::new(state)));
    let mut externals = Externals::default();
    let target = Target { endpoint: id("b"), internal: own };
    externals.given.insert(external("203.0.113.7"), target);
    let said = Report { externals: Some(Arc::new(externals)), ..applied(3).unwrap() };
    rig.felix.send_replace(Some(said));
    let endpoints = rig.overview.document().await.endpoints;
    assert_eq!(endpoints[0].external_addresses, [], "another one has it");
    let has = ExternalAddressStatus { address: external("203.0.113.7"), leads_to: own };
    assert_eq!(endpoints[1].external_addresses, [has]);
}
