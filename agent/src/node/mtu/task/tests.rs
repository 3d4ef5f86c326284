use super::*;
use crate::desired::Origin;
use crate::routes::monitor::Link;
use crate::status::watchdog::Watchdog;

struct Rig {
    dir: tempfile::TempDir,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    links: watch::Sender<Links>,
    problems: watch::Receiver<Vec<Problem>>,
    _watchdog: Watchdog,
}

impl Rig {
    /// A host with one interface, and a file of an earlier run.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mtu"), "1234").unwrap();
        let (desired, desired_rx) = watch::channel(None);
        let (links, links_rx) = watch::channel(Links::new());
        let (problems_tx, problems) = watch::channel(Vec::new());
        let mut watchdog = Watchdog::new();
        let inputs = Inputs {
            desired: desired_rx,
            links: links_rx,
            default_routes: Arc::default(),
            heartbeat: watchdog.register("mtu"),
        };
        tokio::spawn(run(dir.path().join("mtu"), inputs, problems_tx));
        let rig = Self { dir, desired, links, problems, _watchdog: watchdog };
        rig.link("eth0", 1500);
        rig
    }

    fn link(&self, name: &str, mtu: u32) {
        let link = Link { index: 1, up: true, mac: None, mtu, ..Link::default() };
        self.links.send_modify(|links| {
            links.insert(name.parse().unwrap(), link);
        });
    }

    fn want(&self, origin: Origin, overlays: &[(&str, Overlay)]) {
        let overlays = overlays.iter().map(|(pool, kind)| (pool.parse::<Cidr>().unwrap(), *kind));
        let state = DesiredState { origin, overlays: overlays.collect(), ..Default::default() };
        self.desired.send_replace(Some(Arc::new(state)));
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("mtu")
    }

    fn held(&self) -> Option<String> {
        fs::read_to_string(self.file()).ok()
    }
}

/// Lets time pass. Paused time stands still while a thread writes.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_file_of_the_earlier_run_stays_until_the_datastore_was_read() {
    let rig = Rig::start();
    pass(60.0).await;
    rig.want(Origin::Stored { since: 7 }, &[]);
    pass(60.0).await;
    assert_eq!(rig.held().as_deref(), Some("1234"));
    rig.want(Origin::Datastore, &[]);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1500"));
    assert_eq!(fs::read_dir(rig.dir.path()).unwrap().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn interfaces_pools_and_settings_change_it_and_pods_do_not() {
    let rig = Rig::start();
    rig.want(Origin::Datastore, &[("10.0.0.0/16", Overlay::IpInIp)]);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1480"));
    rig.want(Origin::Datastore, &[("10.0.0.0/16", Overlay::Vxlan)]);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1450"));
    rig.link("eth0", 1400);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1350"));
    rig.link("uplink0", 1300);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1350"));
    let settings = Settings { mtu_interfaces: "^up".parse().ok(), ..Settings::default() };
    let state = DesiredState { settings: Arc::new(settings), ..DesiredState::default() };
    rig.desired.send_replace(Some(Arc::new(state)));
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1300"));
    // Nobody looks at the file, much less writes it, for the sake of a pod.
    fs::remove_file(rig.file()).unwrap();
    rig.link("cali0123456789a", 1300);
    rig.link("cali0123456789a", 1200);
    rig.desired.send_modify(|state| {
        let state = state.as_mut().unwrap();
        Arc::make_mut(state).generation += 1;
    });
    pass(0.1).await;
    assert_eq!(rig.held(), None);
    rig.link("eth1", 1500);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("1300"));
    assert_eq!(*rig.problems.borrow(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_little_for_anything_is_no_mtu() {
    let rig = Rig::start();
    rig.link("eth0", 100);
    rig.want(Origin::Datastore, &[]);
    pass(0.1).await;
    assert_eq!(rig.held().as_deref(), Some("100"));
    rig.want(Origin::Datastore, &[("10.0.0.0/16", Overlay::Vxlan)]);
    pass(0.1).await;
    assert_eq!(rig.held(), None);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_written_is_a_problem_until_it_can() {
    let rig = Rig::start();
    let obstacle = rig.dir.path().join("mtu.new");
    fs::create_dir(&obstacle).unwrap();
    rig.want(Origin::Datastore, &[]);
    pass(0.1).await;
    let said = rig.problems.borrow().clone();
    assert!(
        matches!(&said[..], [one] if one.subject == "MTU of pods"
            && one.message.contains("cannot write") && one.message.contains("directory")),
        "{said:?}"
    );
    assert_eq!(rig.held().as_deref(), Some("1234"));
    // What goes on meanwhile does not put it off.
    for step in 0..4 {
        rig.link("cali0123456789a", 1000 + step);
        pass(1.0).await;
    }
    fs::remove_dir(&obstacle).unwrap();
    pass(1.1).await;
    assert_eq!((rig.held().as_deref(), rig.problems.borrow().len()), (Some("1500"), 0));
}

#[test]
fn a_file_that_is_right_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mtu");
    assert!(!bring(&path, None).unwrap());
    assert!(bring(&path, Some(1500)).unwrap());
    assert!(!bring(&path, Some(1500)).unwrap());
    assert!(bring(&path, Some(1400)).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "1400");
    // What others made of it.
    for text in ["1400\n", "01400", "", "\u{0}"] {
        fs::write(&path, text).unwrap();
        assert!(bring(&path, Some(1400)).unwrap(), "{text:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1400");
    }
    assert!(bring(&path, None).unwrap());
    assert!(!path.exists());
    fs::create_dir(&path).unwrap();
    for mtu in [None, Some(1400)] {
        assert!(chain(&bring(&path, mtu).unwrap_err()).contains("cannot read"));
    }
}
