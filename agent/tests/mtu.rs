//! The MTU of pods in a real kernel: interfaces, default routes, the file.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::config::Settings;
use calico_agent::desired::{DesiredState, Overlay};
use calico_agent::node::mtu::task::{self, Inputs};
use calico_agent::reconcile::Problem;
use calico_agent::routes::defaults;
use calico_agent::routes::monitor::Monitor;
use calico_agent::status::systemd::Heartbeat;
use calico_datastore::model::Cidr;
use routes_support::{in_namespace, ip, pod};
use tokio::sync::watch;

/// Within which a change is in the file.
const SOON: Duration = Duration::from_secs(1);

struct Rig {
    dir: tempfile::TempDir,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    problems: watch::Receiver<Vec<Problem>>,
}

/// The monitor and the task, as the daemon has them.
async fn start() -> Rig {
    // In memory: how long a disk takes is not what is measured.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (monitor, _) = Monitor::start(vec!["cali".to_owned()], Heartbeat::unasked()).await.unwrap();
    let (desired, desired_rx) = watch::channel(Some(Arc::default()));
    let (problems_tx, problems) = watch::channel(Vec::new());
    let inputs = Inputs {
        desired: desired_rx,
        links: monitor.links,
        default_routes: monitor.changes.default_routes(),
        heartbeat: Heartbeat::unasked(),
    };
    tokio::spawn(task::run(dir.path().join("mtu"), inputs, problems_tx));
    Rig { dir, desired, problems }
}

impl Rig {
    fn file(&self) -> PathBuf {
        self.dir.path().join("mtu")
    }

    /// Waits until the file says so, and not longer than it may take.
    async fn says(&self, expected: Option<&str>, why: &str) {
        let begin = Instant::now();
        loop {
            let held = std::fs::read_to_string(self.file()).ok();
            if held.as_deref() == expected {
                return;
            }
            assert!(begin.elapsed() < SOON, "{why}: {held:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The file goes on to say so.
    async fn stays(&self, expected: Option<&str>, why: &str) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let held = std::fs::read_to_string(self.file()).ok();
        assert_eq!(held.as_deref(), expected, "{why}");
    }

    fn pools(&self, overlays: &[(&str, Overlay)], settings: Settings) {
        let overlays = overlays.iter().map(|(pool, kind)| (pool.parse::<Cidr>().unwrap(), *kind));
        let overlays = overlays.collect();
        let settings = Arc::new(settings);
        let state = DesiredState { overlays, settings, ..DesiredState::default() };
        self.desired.send_replace(Some(Arc::new(state)));
    }
}

#[test]
fn the_file_follows_the_interfaces_and_the_pools() {
    in_namespace(|| async {
        pod("eth0").await;
        ip("link set eth0 mtu 1400").await;
        let rig = start().await;
        rig.says(Some("1400"), "at the start").await;
        ip("link set eth0 mtu 1300").await;
        rig.says(Some("1300"), "a change while it runs").await;
        rig.pools(&[("10.65.0.0/16", Overlay::IpInIp)], Settings::default());
        rig.says(Some("1280"), "IP in IP").await;
        rig.pools(&[("fd65::/64", Overlay::Vxlan)], Settings::default());
        rig.says(Some("1230"), "VXLAN over IPv6").await;
        rig.pools(&[], Settings::default());
        rig.says(Some("1300"), "no overlay any more").await;
        pod("eth1").await;
        ip("link set eth1 mtu 1290").await;
        rig.says(Some("1290"), "a second interface, and narrower").await;
        ip("link set eth1 down").await;
        ip("link set eth1 name other1").await;
        rig.says(Some("1300"), "a name that does not match").await;
        pod("cali1").await;
        ip("link set cali1 mtu 1280").await;
        rig.stays(Some("1300"), "a pod's interface").await;
        assert_eq!(*rig.problems.borrow(), []);
    });
}

#[test]
fn without_a_match_default_routes_show_the_interfaces() {
    in_namespace(|| async {
        for (name, mtu) in [("uplink0", 1450), ("uplink1", 1440), ("uplink2", 1430)] {
            pod(name).await;
            ip(&format!("link set {name} mtu {mtu}")).await;
        }
        ip("addr add 10.9.0.1/24 dev uplink0").await;
        ip("addr add 10.9.1.1/24 dev uplink1").await;
        let rig = start().await;
        rig.stays(None, "no default route").await;
        ip("route add 10.10.0.0/16 via 10.9.1.9").await;
        ip("route add default via 10.9.1.9 table 100").await;
        ip("route add blackhole default metric 900").await;
        rig.stays(None, "routes that are no default routes of the main table").await;
        ip("route add default via 10.9.0.9").await;
        rig.says(Some("1450"), "a default route").await;
        ip("-6 route add default dev uplink2").await;
        rig.says(Some("1430"), "one of IPv6").await;
        ip("-6 route del default dev uplink2").await;
        rig.says(Some("1450"), "and away").await;
        ip("route replace default nexthop via 10.9.0.9 nexthop via 10.9.1.9").await;
        rig.says(Some("1440"), "one of several ways").await;
        assert_eq!(defaults::interfaces().await.unwrap().len(), 2);
        ip("link set uplink1 mtu 1420").await;
        rig.says(Some("1420"), "another MTU").await;
        let nothing = Settings { mtu_interfaces: None, ..Settings::default() };
        pod("eth0").await;
        rig.says(Some("1500"), "a match goes before").await;
        rig.pools(&[], nothing);
        rig.says(Some("1420"), "no pattern").await;
        // The kernel drops the routes with the addresses of an interface that goes.
        ip("link set uplink0 down").await;
        ip("link set uplink1 down").await;
        rig.says(None, "no default route any more").await;
        assert_eq!(*rig.problems.borrow(), []);
    });
}
