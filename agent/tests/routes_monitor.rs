//! The monitor in a real kernel.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::time::Duration;

use calico_agent::reconcile::{EndpointState, Reconciler as _, Wake};
use calico_agent::routes::Routes;
use calico_agent::routes::monitor::Monitor;
use calico_agent::status::systemd::Heartbeat;
use calico_datastore::model::InterfaceName;
use routes_support::{Builder, fact, id, in_namespace, ip, pod, routes};

async fn start() -> Monitor {
    Monitor::start(vec!["cali".to_owned()], Heartbeat::unasked()).await.unwrap().0
}

/// True when the monitor wakes within the time that events need.
async fn woken(monitor: &Monitor) -> bool {
    tokio::time::timeout(Duration::from_millis(300), monitor.routes.notified()).await.is_ok()
}

#[test]
fn links_come_change_and_go() {
    in_namespace(|| async {
        let mut monitor = start().await;
        assert!(monitor.links.borrow().contains_key(&"lo".parse::<InterfaceName>().unwrap()));
        pod("cali1").await;
        let name: InterfaceName = "cali1".parse().unwrap();
        let up = monitor.links.wait_for(|links| links.get(&name).is_some_and(|link| link.up));
        let first = up.await.unwrap()[&name].clone();
        assert_eq!(first.mtu, 1500);
        let shown = ip("-o link show cali1").await;
        assert!(shown.contains(&first.mac.unwrap().to_string()), "{shown}");
        ip("link set cali1 mtu 1400").await;
        monitor.links.wait_for(|links| links[&name].mtu == 1400).await.unwrap();
        ip("link set cali1 down").await;
        monitor.links.wait_for(|links| !links[&name].up).await.unwrap();
        ip("link set cali1 name cali7").await;
        let renamed: InterfaceName = "cali7".parse().unwrap();
        let seen = monitor.links.wait_for(|links| links.contains_key(&renamed)).await.unwrap();
        assert!(!seen.contains_key(&name), "the old name is still there");
        assert_eq!(seen[&renamed].index, first.index);
        drop(seen);
        ip("link del cali7").await;
        monitor.links.wait_for(|links| !links.contains_key(&renamed)).await.unwrap();
    });
}

#[test]
fn events_about_nothing_publish_nothing() {
    in_namespace(|| async {
        pod("cali1").await;
        let mut monitor = start().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        monitor.links.mark_unchanged();
        ip("link set cali1 alias something").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!monitor.links.has_changed().unwrap());
        ip("link set cali1 mtu 1400").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(monitor.links.has_changed().unwrap());
    });
}

#[test]
fn addresses_are_those_of_their_interface_and_what_is_said_again_is_no_news() {
    in_namespace(|| async {
        pod("eth0").await;
        ip("addr add 192.0.2.7/24 dev eth0").await;
        let mut monitor = start().await;
        let name: InterfaceName = "eth0".parse().unwrap();
        let shown = |links: &calico_agent::routes::monitor::Links| -> Vec<String> {
            let link = links.get(&name);
            link.into_iter().flat_map(|link| &link.addresses).map(ToString::to_string).collect()
        };
        // One that was there before, and none of the link alone (fe80::).
        assert_eq!(shown(&monitor.links.borrow()), ["192.0.2.7"]);
        ip("-6 addr add 2001:db8::7/64 dev eth0 nodad").await;
        ip("addr add 192.0.2.9 peer 192.0.2.10 dev eth0").await;
        let all = ["192.0.2.7", "192.0.2.9", "2001:db8::7"];
        monitor.links.wait_for(|links| shown(links) == all).await.unwrap();
        ip("link set eth0 name eth1").await;
        let other: InterfaceName = "eth1".parse().unwrap();
        let moved = monitor.links.wait_for(|links| links.contains_key(&other)).await.unwrap();
        assert_eq!(moved[&other].addresses.len(), 3, "a rename takes none away");
        drop(moved);
        ip("link set eth1 name eth0").await;
        monitor.links.wait_for(|links| shown(links) == all).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        monitor.links.mark_unchanged();
        ip("addr change 192.0.2.7/24 dev eth0 valid_lft 500 preferred_lft 500").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!monitor.links.has_changed().unwrap(), "only its lifetime is another");
        ip("addr del 192.0.2.7/24 dev eth0").await;
        monitor.links.wait_for(|links| shown(links) == all[1..]).await.unwrap();
    });
}

#[test]
fn only_what_concerns_us_wakes() {
    in_namespace(|| async {
        pod("cali1").await;
        pod("eth0").await;
        let mut monitor = start().await;
        // The kernel says a while later that a pair of interfaces has found each other.
        let name: InterfaceName = "cali1".parse().unwrap();
        let up = monitor.links.wait_for(|links| links.get(&name).is_some_and(|link| link.up));
        drop(up.await.unwrap());
        let mut builder =
            Builder { links: monitor.links.borrow_and_update().clone(), ..Builder::default() };
        builder.endpoint("one", "cali1", &["10.65.0.2/32"], Some("ee:ee:ee:00:00:01"));
        builder.blocks(&["10.65.0.0/26"]);
        let mut reconciler = Routes::new(monitor.changes.clone());
        reconciler.reconcile(&builder.world(), Wake::Start).await;
        while woken(&monitor).await {}
        reconciler.reconcile(&builder.world(), Wake::Kernel).await;

        // Our own writes.
        builder.endpoint(
            "one",
            "cali1",
            &["10.65.0.2/32", "10.65.0.3/32", "fd00:65::2/128"],
            Some("ee:ee:ee:00:00:02"),
        );
        let report = reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert!(fact(&report.facts, "writes") > 0);
        assert!(!woken(&monitor).await, "our own writes woke us: {:?}", monitor.changes.take());

        // Somebody else's business.
        ip("route add 203.0.113.0/24 dev eth0").await;
        ip("neigh add 203.0.113.1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent").await;
        ip("route add 10.65.0.9/32 dev cali1 table 100").await;
        // What the kernel has learned of a pod, and forgets.
        for learned in ["10.65.0.77", "fe80::77", "ff02::1:ff00:77"] {
            ip(&format!("neigh add {learned} dev cali1 lladdr 02:00:00:00:00:07 nud stale")).await;
            ip(&format!("neigh del {learned} dev cali1")).await;
        }
        assert!(!woken(&monitor).await, "{:?}", monitor.changes.take());

        // Ours: each of these alone.
        for change in [
            "route del 10.65.0.2/32 dev cali1",
            "route add 10.65.0.77/32 dev cali1",
            "route del blackhole 10.65.0.0/26",
            "neigh replace 10.65.0.2 dev cali1 lladdr 02:00:00:00:00:66 nud permanent",
            "neigh del 10.65.0.3 dev cali1",
        ] {
            ip(change).await;
            assert!(woken(&monitor).await, "{change} woke nobody");
        }
        // What was touched is repaired without reading everything.
        let reads = fact(&report.facts, "reads");
        let report = reconciler.reconcile(&builder.world(), Wake::Kernel).await;
        assert_eq!(report.endpoints[&id("one")], EndpointState::Up);
        let after = routes().await;
        assert!(after.contains("10.65.0.2 dev cali1") && after.contains("blackhole 10.65.0.0/26"));
        let neighbours = ip("neigh show dev cali1 nud permanent").await;
        assert_eq!(neighbours.matches("ee:ee:ee:00:00:02").count(), 3, "{neighbours}");
        assert!(fact(&report.facts, "reads") <= reads + 2, "{report:?}");
    });
}

#[test]
fn a_flood_of_events_ends_in_the_truth() {
    in_namespace(|| async {
        pod("cali1").await;
        let mut monitor = start().await;
        // More than the receive buffer holds, while nobody reads: this thread is the only one.
        let batch: String = (0..60_000)
            .map(|i| {
                format!(
                    "route add 10.{}.{}.{}/32 dev cali1\n",
                    64 + i / 65536,
                    i / 256 % 256,
                    i % 256
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch + "link add cali9 type veth peer name pcali9\n").unwrap();
        run_blocking(file.path());
        let name: InterfaceName = "cali9".parse().unwrap();
        let seen = monitor.links.wait_for(|links| links.contains_key(&name));
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("lost").unwrap();
        assert!(woken(&monitor).await);
        let touched = monitor.changes.take();
        assert!(touched.everything, "no overrun happened, or it went unnoticed: {touched:?}");
        // And it goes on afterwards.
        ip("link del cali9").await;
        monitor.links.wait_for(|links| !links.contains_key(&name)).await.unwrap();
    });
}

/// Blocks this thread, and with it the monitor's task, until `ip` is done.
#[expect(clippy::disallowed_methods, reason = "must block the runtime")]
fn run_blocking(batch: &std::path::Path) {
    let status = std::process::Command::new("ip").arg("-batch").arg(batch).status().unwrap();
    assert!(status.success());
}
