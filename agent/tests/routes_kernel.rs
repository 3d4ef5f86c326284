//! Routes and neighbours in a real kernel: each test in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::sync::Arc;
use std::time::Duration;

use calico_agent::reconcile::{EndpointState, Reconciler as _, Wake};
use calico_agent::routes::{Changes, Routes};
use routes_support::{Builder, fact, id, in_namespace, ip, links, pod, routes};

const MAC: &str = "ee:ee:ee:00:00:01";

/// A host with two pods of both families and a block each.
async fn host() -> Builder {
    pod("cali1").await;
    pod("cali2").await;
    let mut builder = Builder { links: links().await, ..Builder::default() };
    builder.endpoint("one", "cali1", &["10.65.0.2/32", "fd00:65::2/128"], Some(MAC));
    builder.endpoint("two", "cali2", &["10.65.0.3/32"], None);
    builder.blocks(&["10.65.0.0/26", "10.65.9.9/32", "fd00:65::/122"]);
    builder
}

fn reconciler() -> Routes {
    Routes::new(Changes::new(vec!["cali".to_owned()]))
}

#[test]
fn everything_is_programmed_and_a_second_start_writes_nothing() {
    in_namespace(|| async {
        let mut builder = host().await;
        let before = routes().await;
        assert!(!before.contains("10.65"), "the test finds its own routes: {before}");
        let world = builder.world();
        let report = reconciler().reconcile(&world, Wake::Start).await;
        assert_eq!(report.applied, Some(world.desired.generation));
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(report.endpoints.values().all(|state| *state == EndpointState::Up));

        let after = routes().await;
        for line in [
            "10.65.0.2 dev cali1 proto 80 scope link",
            "10.65.0.3 dev cali2 proto 80 scope link",
            "blackhole 10.65.0.0/26 proto 80",
            "fd00:65::2 dev cali1 proto 80 metric 1024",
            "blackhole fd00:65::/122 dev lo proto 80 metric 1024",
        ] {
            assert!(after.contains(line), "{line} is missing in\n{after}");
        }
        assert!(!after.contains("10.65.9.9"), "a block of one address has no blackhole:\n{after}");
        let neighbours = ip("neigh show nud permanent").await;
        assert!(neighbours.contains(&format!("10.65.0.2 dev cali1 lladdr {MAC}")), "{neighbours}");
        assert!(neighbours.contains(&format!("fd00:65::2 dev cali1 lladdr {MAC}")), "{neighbours}");
        assert!(!neighbours.contains("10.65.0.3"), "no MAC, no neighbour: {neighbours}");

        let report = reconciler().reconcile(&world, Wake::Start).await;
        assert_eq!(fact(&report.facts, "writes"), 0, "a second start wrote");
        assert_eq!(routes().await, after);
    });
}

#[test]
fn one_endpoint_costs_one_endpoint() {
    in_namespace(|| async {
        let mut builder = host().await;
        let mut routes_reconciler = reconciler();
        let start = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        let (writes, reads) = (fact(&start.facts, "writes"), fact(&start.facts, "reads"));
        assert_eq!(reads, 1);

        builder.endpoint("two", "cali2", &["10.65.0.3/32", "10.65.0.4/32"], None);
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert_eq!(fact(&report.facts, "writes"), writes + 1);
        assert_eq!(fact(&report.facts, "reads"), reads, "a change of one endpoint read the kernel");
        assert!(routes().await.contains("10.65.0.4 dev cali2 proto 80"));

        builder.remove("two");
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert_eq!(fact(&report.facts, "writes"), writes + 3);
        assert_eq!(fact(&report.facts, "reads"), reads);
        assert!(!report.endpoints.contains_key(&id("two")));
        let after = routes().await;
        assert!(!after.contains("cali2 proto 80") && after.contains("cali1 proto 80"), "{after}");

        // The same again: nothing.
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert_eq!(fact(&report.facts, "writes"), writes + 3);
    });
}

#[test]
fn foreign_routes_and_neighbours_stay() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("link add eth0 type veth peer name peth0").await;
        ip("link set eth0 up").await;
        ip("link set peth0 up").await;
        ip("addr add 192.0.2.1/24 dev eth0").await;
        for route in [
            "203.0.113.0/24 via 192.0.2.9 proto static",
            "198.51.100.7/32 dev eth0",
            "10.65.0.128/26 via 192.0.2.9 proto bird metric 32",
            "10.65.0.77/32 dev cali1 proto static table 100",
            "blackhole 10.66.0.0/16 proto 99",
        ] {
            ip(&format!("route add {route}")).await;
        }
        ip("neigh add 192.0.2.44 dev eth0 lladdr 02:00:00:00:00:44 nud permanent").await;
        builder.links = links().await;
        let before = routes().await;
        reconciler().reconcile(&builder.world(), Wake::Start).await;
        let mut empty = Builder { links: builder.links.clone(), ..Builder::default() };
        reconciler().reconcile(&empty.world(), Wake::Start).await;
        assert_eq!(routes().await, before, "after the endpoints are gone");
        assert!(ip("route show table 100").await.contains("10.65.0.77"));
        assert!(ip("neigh show dev eth0").await.contains("192.0.2.44"));
        assert_eq!(ip("neigh show nud permanent dev cali1").await, "");
    });
}

#[test]
fn the_number_of_dhcp_in_the_settings_costs_no_host_its_default_route() {
    in_namespace(|| async {
        let mut builder = host().await;
        builder.settings.route_protocol = 16;
        ip("link add eth0 type veth peer name peth0").await;
        ip("link set eth0 up").await;
        ip("link set peth0 up").await;
        ip("addr add 192.0.2.1/24 dev eth0").await;
        ip("route add default via 192.0.2.254 proto 16").await;
        ip("route add 198.51.100.7/32 dev eth0 proto 16").await;
        // A Felix was here.
        ip("route add 10.65.9.0/26 via 192.0.2.9 proto 80").await;
        // An endpoint that is gone.
        ip("route add 10.65.0.99/32 dev cali1 proto 16").await;
        builder.links = links().await;
        let uplink = async || ip("route show proto 16 dev eth0").await;
        let before = uplink().await;
        assert_eq!(before.lines().count(), 2, "{before}");

        let changes = Changes::new(vec!["cali".to_owned()]);
        let mut routes_reconciler = Routes::new(changes.clone());
        let world = builder.world();
        let report = routes_reconciler.reconcile(&world, Wake::Start).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let ours = ip("route show proto 16 dev cali1").await;
        assert!(ours.contains("10.65.0.2 ") && !ours.contains("10.65.0.99"), "{ours}");
        // As when a lease is renewed: routes of that number are read again.
        changes.touch(|touched| touched.marked = true);
        routes_reconciler.reconcile(&world, Wake::Kernel).await;
        tokio::time::sleep(report.wake_after.unwrap()).await;
        routes_reconciler.reconcile(&world, Wake::Timer).await;
        assert_eq!(uplink().await, before, "after the grace");
        let after = routes().await;
        assert!(!after.contains("10.65.9.0/26"), "a leftover stays:\n{after}");

        builder.remove("one");
        routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert!(!routes().await.contains("10.65.0.2 "), "an endpoint left a route");
        assert_eq!(uplink().await, before);
    });
}

#[test]
fn a_route_of_the_cni_plugin_is_adopted_and_leaves_with_its_endpoint() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("route add 10.65.0.2/32 dev cali1 scope link").await;
        let mut routes_reconciler = reconciler();
        routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        let lines: Vec<String> =
            ip("route show 10.65.0.2").await.lines().map(str::to_owned).collect();
        assert_eq!(lines, ["10.65.0.2 dev cali1 scope link "], "doubled or rewritten");
        builder.remove("one");
        routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert_eq!(ip("route show 10.65.0.2").await, "");
    });
}

#[test]
fn unknown_routes_on_pod_interfaces_get_their_grace() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("route add 10.65.0.50/32 dev cali2").await;
        ip("route add fd00:65::50/128 dev cali2").await;
        let mut routes_reconciler = reconciler();
        let world = builder.world();
        let report = routes_reconciler.reconcile(&world, Wake::Start).await;
        assert!(routes().await.contains("10.65.0.50"), "removed without grace");
        let wait = report.wake_after.expect("nobody would come back");
        assert!(wait > Duration::from_secs(8) && wait <= Duration::from_secs(10), "{wait:?}");
        tokio::time::sleep(wait).await;
        let report = routes_reconciler.reconcile(&world, Wake::Timer).await;
        let after = routes().await;
        assert!(!after.contains("10.65.0.50") && !after.contains("fd00:65::50"), "{after}");
        assert!(after.contains("fe80::/64 dev cali2 proto kernel"), "{after}");
        assert!(after.contains("10.65.0.3 dev cali2"), "{after}");
        assert!(report.wake_after.unwrap() > Duration::from_secs(30), "the grace is over");
    });
}

#[test]
fn unknown_routes_stay_when_the_settings_say_so() {
    in_namespace(|| async {
        let mut builder = host().await;
        builder.settings.remove_external_routes = false;
        ip("route add 10.65.0.50/32 dev cali2 proto static").await;
        let report = reconciler().reconcile(&builder.world(), Wake::Start).await;
        assert!(report.wake_after.unwrap() > Duration::from_secs(30), "waits for a grace");
        assert!(routes().await.contains("10.65.0.50"));
    });
}

#[test]
fn an_address_moves_without_a_gap() {
    in_namespace(|| async {
        let mut builder = host().await;
        let mut routes_reconciler = reconciler();
        let start = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        builder.endpoint("one", "cali1", &["fd00:65::9/128"], None);
        builder.endpoint("two", "cali2", &["10.65.0.2/32", "10.65.0.3/32", "fd00:65::2/128"], None);
        // A gap would be a deletion among the events.
        let events = tempfile::NamedTempFile::new().unwrap();
        let mut monitor = spawn_monitor(events.path());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        monitor.kill().await.unwrap();
        let events = std::fs::read_to_string(events.path()).unwrap();
        assert!(events.contains("10.65.0.2 dev cali2"), "the monitor saw nothing:\n{events}");
        assert!(!events.contains("Deleted 10.65.0.2"), "a gap:\n{events}");
        assert!(!events.contains("Deleted fd00:65::2"), "a gap:\n{events}");
        let after = routes().await;
        assert!(after.contains("10.65.0.2 dev cali2") && after.contains("fd00:65::2 dev cali2"));
        assert!(!after.contains("10.65.0.2 dev cali1") && !after.contains("fd00:65::2 dev cali1"));
        // Two replaced, one new, two neighbours removed.
        assert_eq!(fact(&report.facts, "writes") - fact(&start.facts, "writes"), 5);
    });
}

#[expect(clippy::disallowed_methods, reason = "a program that runs beside the test")]
fn spawn_monitor(output: &std::path::Path) -> tokio::process::Child {
    tokio::process::Command::new("ip")
        .args(["monitor", "route"])
        .stdout(std::fs::File::create(output).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[test]
fn a_foreign_route_in_the_way_is_a_problem_and_stays() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("link add eth0 type veth peer name peth0").await;
        ip("link set eth0 up").await;
        ip("route add 10.65.0.2/32 dev eth0 proto static").await;
        builder.links = links().await;
        let mut routes_reconciler = reconciler();
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        let EndpointState::Error(reason) = &report.endpoints[&id("one")] else {
            panic!("{:?}", report.endpoints)
        };
        assert!(
            reason.contains("10.65.0.2/32") && reason.contains("over eth0 of protocol 4"),
            "{reason}"
        );
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert_eq!(report.endpoints[&id("two")], EndpointState::Up, "others are not affected");
        assert!(!report.retry);
        assert!(routes().await.contains("10.65.0.2 dev eth0 proto static"));

        // One that comes between reading and writing is met with the same respect.
        ip("route add 10.65.0.70/32 dev eth0 proto static").await;
        builder.endpoint("three", "cali2", &["10.65.0.70/32"], None);
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert!(matches!(report.endpoints[&id("three")], EndpointState::Error(_)));
        assert!(routes().await.contains("10.65.0.70 dev eth0 proto static"));
        let writes = fact(&report.facts, "writes");

        ip("route del 10.65.0.70/32 dev eth0").await;
        ip("route del 10.65.0.2/32 dev eth0").await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Retry).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(report.endpoints.values().all(|state| *state == EndpointState::Up));
        assert_eq!(fact(&report.facts, "writes"), writes + 2);
    });
}

#[test]
fn two_endpoints_with_one_address_are_told() {
    in_namespace(|| async {
        let mut builder = host().await;
        builder.endpoint("zwei", "cali2", &["10.65.0.2/32"], Some(MAC));
        let mut routes_reconciler = reconciler();
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        assert_eq!(report.endpoints[&id("one")], EndpointState::Up);
        assert!(matches!(report.endpoints[&id("zwei")], EndpointState::Error(_)));
        assert!(routes().await.contains("10.65.0.2 dev cali1"));
        // The first one leaves: the other one gets it.
        builder.remove("one");
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert_eq!(report.endpoints[&id("zwei")], EndpointState::Up);
        assert!(routes().await.contains("10.65.0.2 dev cali2"));
        let neighbours = ip("neigh show nud permanent").await;
        assert!(neighbours.contains("10.65.0.2 dev cali2"), "{neighbours}");
        assert!(!neighbours.contains("cali1"), "{neighbours}");
    });
}

#[test]
fn an_interface_goes_down_and_comes_back() {
    in_namespace(|| async {
        let mut builder = host().await;
        let mut routes_reconciler = reconciler();
        routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        ip("link set cali1 down").await;
        builder.links = links().await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Links).await;
        assert!(matches!(report.endpoints[&id("one")], EndpointState::Down(_)));
        assert!(report.problems.is_empty(), "down is no problem: {:?}", report.problems);
        assert!(!routes().await.contains("10.65.0.2"));
        ip("link set cali1 up").await;
        builder.links = links().await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Links).await;
        assert_eq!(report.endpoints[&id("one")], EndpointState::Up);
        let after = routes().await;
        assert!(after.contains("10.65.0.2 dev cali1") && after.contains("fd00:65::2 dev cali1"));
        assert!(ip("neigh show nud permanent").await.contains("10.65.0.2 dev cali1"));

        // Made anew under the same name.
        ip("link del cali1").await;
        pod("cali1").await;
        builder.links = links().await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Links).await;
        assert_eq!(report.endpoints[&id("one")], EndpointState::Up);
        assert!(routes().await.contains("10.65.0.2 dev cali1"));
        assert!(ip("neigh show nud permanent").await.contains("fd00:65::2 dev cali1"));

        ip("link del cali1").await;
        builder.links = links().await;
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Links).await;
        let EndpointState::Down(reason) = &report.endpoints[&id("one")] else { panic!() };
        assert!(reason.contains("does not exist"), "{reason}");
    });
}

#[test]
fn an_interface_that_dies_under_a_write_is_down_not_an_error() {
    in_namespace(|| async {
        let mut builder = host().await;
        let mut routes_reconciler = reconciler();
        routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        // The links that the reconciler is given still show it.
        ip("link del cali2").await;
        builder.endpoint("two", "cali2", &["10.65.0.3/32", "10.65.0.4/32"], Some(MAC));
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        assert!(matches!(report.endpoints[&id("two")], EndpointState::Down(_)), "{report:?}");
        assert_eq!(report.endpoints[&id("one")], EndpointState::Up);
        assert!(report.problems.is_empty() && !report.retry, "{report:?}");
        assert!(report.wake_after.unwrap() <= Duration::from_secs(1), "nobody would look again");
    });
}

#[test]
fn leftovers_of_the_run_before_go_and_drift_is_repaired() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("route add 10.65.0.99/32 dev cali1 proto 80").await;
        ip("route add blackhole 10.65.7.0/26 proto 80").await;
        let mut routes_reconciler = reconciler();
        let world = builder.world();
        routes_reconciler.reconcile(&world, Wake::Start).await;
        let after = routes().await;
        assert!(!after.contains("10.65.0.99") && !after.contains("10.65.7.0"), "{after}");

        ip("route del 10.65.0.2/32").await;
        ip("route del blackhole 10.65.0.0/26").await;
        ip("neigh replace 10.65.0.2 dev cali1 lladdr 02:00:00:00:00:66 nud permanent").await;
        let report = routes_reconciler.reconcile(&world, Wake::Retry).await;
        // The kernel may bring link-local routes at any time.
        let ours = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with("fe80")).map(str::to_owned);
            lines.collect::<Vec<_>>()
        };
        assert_eq!(ours(&routes().await), ours(&after));
        assert!(ip("neigh show dev cali1").await.contains(MAC));
        assert_eq!(report.applied, Some(world.desired.generation));

        // A block that is not ours any more.
        builder.blocks(&["fd00:65::/122"]);
        routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        let after = routes().await;
        assert!(!after.contains("blackhole 10.65"), "{after}");
        assert!(after.contains("blackhole fd00:65::/122"), "{after}");
    });
}

#[test]
fn a_source_address_is_used_and_a_wrong_one_is_told() {
    in_namespace(|| async {
        let mut builder = host().await;
        ip("addr add 192.0.2.1/32 dev lo").await;
        ip("-6 addr add 2001:db8::1/128 dev lo nodad").await;
        builder.settings.route_source = Some("192.0.2.1".parse().unwrap());
        builder.settings.route_source_v6 = Some("2001:db8::1".parse().unwrap());
        let mut routes_reconciler = reconciler();
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let there = routes().await;
        assert!(there.contains("10.65.0.2 dev cali1 proto 80 scope link src 192.0.2.1"), "{there}");
        assert!(there.contains("fd00:65::2 dev cali1 proto 80 src 2001:db8::1"), "{there}");
        let report = reconciler().reconcile(&builder.world(), Wake::Start).await;
        assert_eq!(fact(&report.facts, "writes"), 0, "it is known again");
        builder.settings.route_source = Some("192.0.2.2".parse().unwrap());
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        let EndpointState::Error(reason) = &report.endpoints[&id("one")] else {
            panic!("{:?}", report.endpoints)
        };
        assert!(reason.contains("192.0.2.2"), "{reason}");
        // What was there is still there.
        assert!(routes().await.contains("10.65.0.2 dev cali1 proto 80 scope link src 192.0.2.1"));
    });
}

#[test]
fn one_change_among_a_thousand_endpoints_costs_one() {
    in_namespace(|| async {
        for number in 1..=10 {
            pod(&format!("cali{number}")).await;
        }
        let mut builder = Builder { links: links().await, ..Builder::default() };
        let (address, mac) = (
            |n: u32| format!("10.65.{}.{}/32", n / 250, n % 250 + 1),
            |n: u32| format!("02:00:00:00:{:02x}:{:02x}", n / 256, n % 256),
        );
        for n in 0..1_000 {
            let interface = format!("cali{}", n % 10 + 1);
            builder.endpoint(&format!("{n}"), &interface, &[&address(n)], Some(&mac(n)));
        }
        let mut routes_reconciler = reconciler();
        let started = std::time::Instant::now();
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Start).await;
        println!("1,000 endpoints from nothing: {:?}", started.elapsed());
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(fact(&report.facts, "writes"), 2_000);
        assert_eq!(ip("route show proto 80").await.lines().count(), 1_000);
        assert_eq!(ip("neigh show nud permanent").await.lines().count(), 1_000);

        builder.endpoint("7", "cali8", &["10.65.200.1/32"], Some(&mac(7)));
        let started = std::time::Instant::now();
        let report = routes_reconciler.reconcile(&builder.world(), Wake::Desired).await;
        println!("one of them: {:?}", started.elapsed());
        // The new route and neighbour, the old route and neighbour.
        assert_eq!(fact(&report.facts, "writes"), 2_004);
        assert_eq!(fact(&report.facts, "reads"), 1);
        let started = std::time::Instant::now();
        routes_reconciler.reconcile(&builder.world(), Wake::Retry).await;
        println!("everything read again: {:?}", started.elapsed());
    });
}

#[test]
fn an_external_address_is_routed_to_its_pod_and_needs_no_neighbour() {
    in_namespace(|| async {
        let mut builder = host().await;
        builder.settings.floating_ips = true;
        for (name, nat) in [
            ("one", [("10.65.0.2", "192.0.2.7"), ("fd00:65::2", "2001:db8::7")].as_slice()),
            ("two", &[("10.65.0.3", "192.0.2.7"), ("10.65.0.3", "10.65.0.2")]),
        ] {
            let mut endpoint = (*builder.state.endpoints[&id(name)]).clone();
            endpoint.nat =
                nat.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
            builder.state.endpoints.insert(id(name), Arc::new(endpoint));
        }
        let mut reconciler = reconciler();
        let report = reconciler.reconcile(&builder.world(), Wake::Start).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        // Who asks for the same, or for another's own address, is not kept waiting.
        assert!(report.endpoints.values().all(|state| *state == EndpointState::Up));
        let first = routes().await;
        for line in [
            "192.0.2.7 dev cali1 proto 80 scope link",
            "2001:db8::7 dev cali1 proto 80 metric 1024",
            "10.65.0.2 dev cali1 proto 80 scope link",
        ] {
            assert!(first.contains(line), "{line} is missing in\n{first}");
        }
        let neighbours = ip("neigh show nud permanent").await;
        assert!(!neighbours.contains("192.0.2.7") && !neighbours.contains("2001:db8::7"));

        builder.remove("one");
        reconciler.reconcile(&builder.world(), Wake::Desired).await;
        let second = routes().await;
        assert!(second.contains("192.0.2.7 dev cali2"), "the next one has it:\n{second}");
        assert!(!second.contains("2001:db8::7"), "{second}");

        builder.settings.floating_ips = false;
        reconciler.reconcile(&builder.world(), Wake::Desired).await;
        let third = routes().await;
        assert!(!third.contains("192.0.2.7") && third.contains("10.65.0.3 dev cali2"), "{third}");
    });
}
