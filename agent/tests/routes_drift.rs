//! What others change in the routes and neighbours of a real kernel, and what an interface does to
//! them: repaired, reported, and not reported when nobody did it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::time::{Duration, Instant};

use calico_agent::drift::Change;
use calico_agent::reconcile::{EndpointState, Reconciler as _, Report, Wake};
use calico_agent::routes::Routes;
use calico_agent::routes::monitor::Monitor;
use routes_support::{Builder, fact, id, in_namespace, ip, pod, routes};

const MAC: &str = "ee:ee:ee:00:00:01";

/// A host with two pods, a block of each family, an uplink, and a reconciler that has settled.
struct Host {
    monitor: Monitor,
    builder: Builder,
    reconciler: Routes,
}

impl Host {
    async fn new() -> Self {
        pod("cali1").await;
        pod("cali2").await;
        ip("link add eth0 type veth peer name peth0").await;
        ip("link set eth0 up").await;
        ip("link set peth0 up").await;
        ip("addr add 192.0.2.1/24 dev eth0").await;
        let monitor = Monitor::start(vec!["cali".to_owned()]).await.unwrap().0;
        let mut builder = Builder::default();
        builder.endpoint("one", "cali1", &["10.65.0.2/32", "fd00:65::2/128"], Some(MAC));
        builder.endpoint("two", "cali2", &["10.65.0.3/32"], None);
        builder.blocks(&["10.65.0.0/26", "fd00:65::/122"]);
        let reconciler = Routes::new(monitor.changes.clone());
        let mut host = Self { monitor, builder, reconciler };
        let report = host.run(Wake::Start).await;
        assert!(report.problems.is_empty() && report.drift.is_empty(), "{report:?}");
        let (reports, _) = host.settle().await;
        assert!(reports.iter().all(|report| report.drift.is_empty()), "{reports:?}");
        host
    }

    async fn run(&mut self, wake: Wake) -> Report {
        self.builder.links = self.monitor.links.borrow_and_update().clone();
        self.reconciler.reconcile(&self.builder.world(), wake).await
    }

    /// As the loop does it: runs as long as something wakes or falls due soon.
    async fn settle(&mut self) -> (Vec<Report>, Report) {
        let mut reports: Vec<Report> = Vec::new();
        loop {
            let due = reports.last().and_then(|report| report.wake_after);
            let due = due.filter(|due| *due < Duration::from_secs(3));
            let quiet = Duration::from_millis(200).max(due.unwrap_or_default());
            let wake = tokio::select! {
                () = self.monitor.routes.notified() => Wake::Kernel,
                changed = self.monitor.links.changed() => changed.map(|()| Wake::Links).unwrap(),
                () = tokio::time::sleep(quiet) => match due {
                    Some(_) => Wake::Timer,
                    None => break,
                },
            };
            reports.push(self.run(wake).await);
        }
        let last = self.run(Wake::Desired).await;
        (reports, last)
    }
}

/// The routes without what the kernel brings by itself whenever it likes.
async fn stable_routes() -> Vec<String> {
    let all = routes().await;
    let mut lines: Vec<String> =
        all.lines().filter(|line| !line.starts_with("fe80")).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_others_change_is_repaired_and_told() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        let (routes, neighbours) = (stable_routes().await, ip("neigh show nud permanent").await);
        let pod4 = "route 10.65.0.2/32 dev cali1";
        let pod6 = "route fd00:65::2/128 dev cali1";
        let block = "route blackhole 10.65.0.0/26";
        let entry = "neighbour 10.65.0.2 dev cali1";
        for (damage, subject, change) in [
            ("route del 10.65.0.2/32", pod4, Change::Missing),
            ("route replace 10.65.0.2/32 dev cali2", pod4, Change::Modified),
            ("route replace 10.65.0.2/32 dev cali2 proto 80", pod4, Change::Modified),
            ("route replace 10.65.0.2/32 dev cali1 src 192.0.2.1", pod4, Change::Modified),
            ("route replace 10.65.0.2/32 dev cali1 proto 80 scope global", pod4, Change::Modified),
            ("route replace 10.65.0.2/32 via 192.0.2.9", pod4, Change::Modified),
            ("route replace unreachable 10.65.0.2/32", pod4, Change::Modified),
            ("route replace blackhole 10.65.0.2/32 proto 80", pod4, Change::Modified),
            ("-6 route replace fd00:65::2/128 dev cali2", pod6, Change::Modified),
            (
                "-6 route add fd00:65::2/128 dev cali2 metric 10",
                "route fd00:65::2/128",
                Change::Unexpected,
            ),
            ("route del blackhole 10.65.0.0/26", block, Change::Missing),
            ("route replace 10.65.0.0/26 via 192.0.2.9", block, Change::Modified),
            ("route replace 10.65.0.0/26 dev cali1", block, Change::Modified),
            ("neigh del 10.65.0.2 dev cali1", entry, Change::Missing),
            (
                "neigh replace 10.65.0.2 dev cali1 lladdr 02:00:00:00:00:66 nud permanent",
                entry,
                Change::Modified,
            ),
            (
                "neigh replace 10.65.0.2 dev cali1 lladdr 02:00:00:00:00:66 nud reachable",
                entry,
                Change::Missing,
            ),
        ] {
            // Another place each time would be needed otherwise: this is no fight.
            let mut host2 = Host { reconciler: Routes::new(host.monitor.changes.clone()), ..host };
            host2.run(Wake::Start).await;
            host = host2;
            host.settle().await;
            ip(damage).await;
            let started = Instant::now();
            let (reports, last) = host.settle().await;
            assert!(started.elapsed() < Duration::from_secs(3), "{damage}: too late");
            let drift: Vec<_> = reports.iter().flat_map(|report| &report.drift).collect();
            let told: Vec<_> = drift.iter().map(|one| (one.subject.as_str(), one.change)).collect();
            assert_eq!(told, [(subject, change)], "{damage}: {drift:?}");
            let detailed = change != Change::Missing;
            assert_eq!(!drift[0].detail.is_empty(), detailed, "{damage}: {drift:?}");
            assert!(last.problems.is_empty() && last.drift.is_empty(), "{damage}: {last:?}");
            assert_eq!(stable_routes().await, routes, "{damage}");
            assert_eq!(ip("neigh show nud permanent").await, neighbours, "{damage}");
        }
    });
}

#[test]
fn a_flush_and_another_metric_are_repaired() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        let before = stable_routes().await;
        ip("-4 route flush proto 80").await;
        ip("-6 route flush proto 80").await;
        let (reports, _) = host.settle().await;
        assert_eq!(stable_routes().await, before);
        let told = reports.iter().flat_map(|report| &report.drift);
        assert_eq!(told.clone().count(), 5, "{:?}", told.collect::<Vec<_>>());

        // Beside ours, then without it.
        ip("route add 10.65.0.2/32 dev cali1 metric 50 proto 80").await;
        ip("route del 10.65.0.2/32 metric 0").await;
        let (reports, _) = host.settle().await;
        assert_eq!(stable_routes().await, before);
        let told: Vec<_> = reports.iter().flat_map(|report| &report.drift).collect();
        assert!(
            !told.is_empty() && told.iter().all(|one| one.subject.contains("10.65.0.2/32")),
            "{told:?}"
        );
    });
}

#[test]
fn what_nobody_did_is_not_told() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        let before = stable_routes().await;
        let check = async |host: &mut Host, what: &str| {
            let (reports, last) = host.settle().await;
            let told: Vec<_> = reports.iter().flat_map(|report| &report.drift).collect();
            assert!(told.is_empty() && last.drift.is_empty(), "{what}: {told:?}");
            assert!(last.problems.is_empty(), "{what}: {last:?}");
        };
        // Down and up again before anybody looks: the links that are published do not differ.
        for _ in 0..5 {
            ip("link set cali1 down").await;
            ip("link set cali1 up").await;
        }
        check(&mut host, "flaps").await;
        assert_eq!(stable_routes().await, before, "flaps");
        // A pod without a permanent neighbour, IPv4 only: the kernel says nothing of it at all.
        ip("link set cali2 down").await;
        ip("link set cali2 up").await;
        check(&mut host, "a flap").await;
        assert_eq!(stable_routes().await, before, "a flap");
        ip("link set cali1 down").await;
        check(&mut host, "down").await;
        assert!(!routes().await.contains("10.65.0.2"));
        ip("link set cali1 up").await;
        check(&mut host, "up").await;
        assert_eq!(stable_routes().await, before, "up");
        // The kernel forgets neighbours when the Ethernet address changes.
        ip("link set cali1 address 02:00:00:00:00:77").await;
        check(&mut host, "another address").await;
        assert!(ip("neigh show nud permanent").await.contains("10.65.0.2 dev cali1"));
        ip("link set cali1 mtu 1400").await;
        check(&mut host, "another MTU").await;
        // Made again under the same name.
        ip("link del cali1").await;
        pod("cali1").await;
        check(&mut host, "made again").await;
        assert_eq!(stable_routes().await, before, "made again");
        // The world changed.
        host.builder.endpoint("two", "cali2", &["10.65.0.4/32"], None);
        host.run(Wake::Desired).await;
        check(&mut host, "another address").await;
        assert!(routes().await.contains("10.65.0.4 dev cali2"));
    });
}

#[test]
fn a_renamed_interface_keeps_no_route_of_ours() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        let before = stable_routes().await;
        let rename = async |from: &str, to: &str| {
            // Older kernels rename only what is down.
            ip(&format!("link set {from} down")).await;
            ip(&format!("link set {from} name {to}")).await;
            ip(&format!("link set {to} up")).await;
        };
        if rename_live("cali1", "other1").await {
            let (_, last) = host.settle().await;
            let now = routes().await;
            assert!(!now.contains("10.65.0.2 ") && !now.contains("fd00:65::2 "), "{now}");
            assert!(!ip("neigh show dev other1 nud permanent").await.contains("10.65.0.2"));
            assert!(matches!(last.endpoints[&id("one")], EndpointState::Down(_)), "{last:?}");
            assert!(rename_live("other1", "cali1").await);
        } else {
            rename("cali1", "other1").await;
            host.settle().await;
            rename("other1", "cali1").await;
        }
        let (_, last) = host.settle().await;
        assert_eq!(stable_routes().await, before);
        assert_eq!(last.endpoints[&id("one")], EndpointState::Up);

        // What somebody else has on it stays; another interface takes the name.
        ip("route add 203.0.113.7/32 dev cali1 proto static").await;
        rename("cali1", "other1").await;
        ip("route add 203.0.113.7/32 dev other1 proto static").await;
        ip("link add cali1 type veth peer name another").await;
        ip("link set another up").await;
        ip("link set cali1 up").await;
        let (_, last) = host.settle().await;
        assert_eq!(last.endpoints[&id("one")], EndpointState::Up);
        let now = routes().await;
        assert!(
            now.contains("10.65.0.2 dev cali1") && now.contains("fd00:65::2 dev cali1"),
            "{now}"
        );
        assert!(now.contains("203.0.113.7 dev other1"), "{now}");
        assert!(!now.contains("10.65.0.2 dev other1"), "{now}");
    });
}

/// Renames an interface that is up; false where the kernel does not do that.
async fn rename_live(from: &str, to: &str) -> bool {
    let exec = calico_agent::exec::Exec::default();
    exec.run("ip", &["link", "set", from, "name", to], b"").await.is_ok()
}

#[test]
fn a_program_that_never_gives_up_makes_no_hot_loop() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        let before = stable_routes().await;
        let start = fact(&host.run(Wake::Desired).await.facts, "writes");
        let end = Instant::now() + Duration::from_secs(2);
        let mut rounds = 0;
        let mut told = None;
        while Instant::now() < end {
            ip("route replace 10.65.0.2/32 dev cali2").await;
            ip("neigh replace 10.65.0.2 dev cali1 lladdr 02:00:00:00:00:66 nud permanent").await;
            rounds += 1;
            let brief = Duration::from_millis(20);
            if tokio::time::timeout(brief, host.monitor.routes.notified()).await.is_ok() {
                let report = host.run(Wake::Kernel).await;
                let wait = report.wake_after.unwrap_or(Duration::MAX);
                if let EndpointState::Error(reason) = &report.endpoints[&id("one")] {
                    told = Some((reason.clone(), wait));
                }
            }
        }
        let report = host.run(Wake::Desired).await;
        let writes = fact(&report.facts, "writes") - start;
        assert!(rounds > 30 && (8..=16).contains(&writes), "{rounds} rounds, {writes} writes");
        let (reason, wait) = told.expect("nobody was told");
        assert!(reason.contains("10.65.0.2") && reason.contains("again and again"), "{reason}");
        assert!(wait <= Duration::from_secs(4), "{wait:?}");
        assert_eq!(report.endpoints[&id("two")], EndpointState::Up, "another is not affected");
        // It gives up; what it left is repaired when the time has come.
        let deadline = Instant::now() + Duration::from_secs(8);
        while stable_routes().await != before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
            host.run(Wake::Timer).await;
        }
        assert_eq!(stable_routes().await, before);
        assert!(ip("neigh show dev cali1").await.contains(MAC));
    });
}

#[test]
fn a_stray_route_is_told_when_its_grace_is_over() {
    in_namespace(|| async {
        let mut host = Host::new().await;
        ip("route add 10.65.0.50/32 dev cali2").await;
        let (reports, _) = host.settle().await;
        assert!(reports.iter().all(|report| report.drift.is_empty()), "{reports:?}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let report = host.run(Wake::Timer).await;
        assert!(!routes().await.contains("10.65.0.50"));
        let told: Vec<_> =
            report.drift.iter().map(|one| (one.subject.as_str(), one.change)).collect();
        assert_eq!(told, [("route 10.65.0.50/32", Change::Unexpected)]);
        assert!(report.drift[0].detail.contains("dev cali2 proto 3"), "{:?}", report.drift);
    });
}
