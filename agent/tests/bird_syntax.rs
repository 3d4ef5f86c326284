//! What is rendered is what the real BIRD takes, whatever it is rendered from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::{BgpState, DesiredState, MeshPeer};
use calico_agent::exec::Exec;
use calico_agent::reconcile::{Reconciler as _, Wake, World};
use calico_agent::routes::bird::Bird;
use calico_agent::routes::bird::render::{Input, render};
use calico_agent::routes::monitor::Links;
use calico_datastore::model::{AsNumber, BgpConfiguration, Cidr, Node, Update};
use imbl::OrdSet;

/// Asks `bird -p`; its complaint when there is one.
async fn complaint(text: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let args = ["-p".as_ref(), "-c".as_ref(), file.path().as_os_str()];
    Exec::default().run("bird", &args, b"").await.err().map(|error| error.to_string())
}

fn peer(address: &str, node: &str) -> MeshPeer {
    MeshPeer {
        address: address.parse().unwrap(),
        node: node.into(),
        as_number: AsNumber(4_200_000_001),
    }
}

#[tokio::test]
async fn every_combination_is_taken() {
    let pools = [("192.168.0.0/16", true), ("10.9.0.0/16", false), ("fd80::/48", true)];
    let block_lists: [&[&str]; 4] = [
        &[],
        &["192.168.0.64/26"],
        &["192.168.9.9/32", "fd80::1/128"],
        &["192.168.0.64/26", "192.168.1.0/31", "fd80::40/122", "0.0.0.0/0", "::/0"],
    ];
    let prefix_lists: [&[&str]; 3] = [&[], &["cali"], &["cali", "tap", "bad\"; }"]];
    let mut asked = 0;
    for blocks in block_lists {
        for prefixes in prefix_lists {
            for (ipv6, listen_port, log) in [
                (None, None, "info"),
                (Some("fd00::1".parse().unwrap()), Some(1790), "debug"),
                (Some("fd00::1".parse().unwrap()), None, "none"),
            ] {
                let bgp = BgpState {
                    node: "a \"name\"; {".into(),
                    registered: true,
                    ipv4: Some("172.17.0.1".parse().unwrap()),
                    ipv6,
                    as_number: AsNumber(65_546),
                    mesh: vec![
                        peer("172.17.0.2", "\";\n}"),
                        peer("172.17.0.1", "myself"),
                        peer("fd00::2", "caf\u{e9}"),
                    ],
                    listen_port,
                    pools: pools[..blocks.len().min(3)]
                        .iter()
                        .map(|(pool, export)| (pool.parse().unwrap(), *export))
                        .collect(),
                    log_severity: log.to_owned(),
                };
                let blocks: OrdSet<Cidr> =
                    blocks.iter().map(|block| block.parse::<Cidr>().unwrap()).collect();
                let interface_prefixes: Vec<String> =
                    prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
                let input =
                    Input { bgp: &bgp, blocks: &blocks, interface_prefixes: &interface_prefixes };
                let text = render(&input).unwrap();
                assert_eq!(complaint(&text).await, None, "{text}");
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 36);
    // The judge is awake.
    assert!(complaint("router id 1.2.3.4;\nprotocol nonsense { }\n").await.is_some());
}

/// A node in BGP with these addresses.
fn node(name: &str, addresses: &str) -> Update {
    node_of(name, addresses, None)
}

fn node_of(name: &str, addresses: &str, as_number: Option<u32>) -> Update {
    let as_number = as_number.map(AsNumber);
    let mut node = Node { bgp: true, as_number, ..Node::default() };
    for address in addresses.split_whitespace() {
        match address.parse().unwrap() {
            std::net::IpAddr::V4(v4) => node.ipv4 = Some(v4),
            std::net::IpAddr::V6(v6) => node.ipv6 = Some(v6),
        }
    }
    Update::Node(name.into(), Some(Arc::new(node)))
}

fn cluster(as_number: u32) -> Update {
    let configuration = BgpConfiguration {
        as_number: Some(AsNumber(as_number)),
        node_to_node_mesh: true,
        listen_port: None,
        log_severity: None,
    };
    Update::BgpConfiguration("default".into(), Some(Arc::new(configuration)))
}

/// What host `a` makes of these objects.
fn desired(updates: Vec<Update>) -> Arc<DesiredState> {
    let mut calculator = Calculator::new("a".into());
    calculator.apply(updates);
    calculator.desired(Arc::new(Settings::default()), 1)
}

/// The peers, and the AS numbers: this host's and theirs.
fn peers(text: &str) -> (Vec<&str>, Vec<&str>) {
    let names = text.lines().filter_map(|line| line.strip_prefix("protocol bgp "));
    let numbers = text.lines().filter_map(|line| line.split_once(" as "));
    let numbers = numbers.map(|(_, number)| number.trim_end_matches(';'));
    (names.filter_map(|line| line.split(' ').next()).collect(), numbers.collect())
}

/// One mistake in one object would freeze BGP on every host.
#[tokio::test]
async fn a_mistake_in_a_node_costs_that_node_alone() {
    let b = || node("b", "10.0.0.2 fd00::2");
    for (what, updates, names, numbers) in [
        (
            "two nodes with one address",
            vec![node("a", "10.0.0.1"), b(), node("c", "10.0.0.2")],
            vec!["Mesh_10_0_0_2"],
            vec!["64512", "64512"],
        ),
        (
            "this host under its old name",
            vec![node("a", "10.0.0.1"), b(), node("z", "10.0.0.1")],
            vec!["Mesh_10_0_0_2"],
            vec!["64512", "64512"],
        ),
        (
            "a node with AS 0",
            vec![node("a", "10.0.0.1"), b(), node_of("c", "10.0.0.3", Some(0))],
            vec!["Mesh_10_0_0_2"],
            vec!["64512", "64512"],
        ),
        (
            "AS 0 of this host",
            vec![node_of("a", "10.0.0.1", Some(0)), b(), cluster(65010)],
            vec!["Mesh_10_0_0_2"],
            vec!["65010", "65010"],
        ),
        (
            "AS 0 of the cluster",
            vec![node("a", "10.0.0.1"), b(), cluster(0)],
            vec!["Mesh_10_0_0_2"],
            vec!["64512", "64512"],
        ),
        (
            "a link-local address",
            vec![node("a", "10.0.0.1 fd00::1"), b(), node("c", "10.0.0.3 fe80::1")],
            vec!["Mesh_10_0_0_2", "Mesh_10_0_0_3", "Mesh_fd00__2"],
            vec!["64512", "64512", "64512", "64512", "64512"],
        ),
        (
            "a link-local address of this host",
            vec![node("a", "10.0.0.1 fe80::1"), b()],
            vec!["Mesh_10_0_0_2"],
            vec!["64512", "64512"],
        ),
        (
            "addresses of nobody",
            vec![
                node("a", "10.0.0.1 fd00::1"),
                b(),
                node("c", "0.0.0.0 ::"),
                node("d", "127.0.0.1 ::1"),
            ],
            vec!["Mesh_10_0_0_2", "Mesh_fd00__2"],
            vec!["64512", "64512", "64512", "64512"],
        ),
    ] {
        let state = desired(updates);
        let input = Input { bgp: &state.bgp, blocks: &state.blocks, interface_prefixes: &[] };
        let text = render(&input).unwrap();
        assert_eq!(complaint(&text).await, None, "{what}:\n{text}");
        assert_eq!(peers(&text), (names, numbers), "{what}:\n{text}");
    }
}

#[tokio::test]
async fn who_is_left_out_is_named_and_the_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bird.cfg");
    let socket = folder.path().join("no-bird");
    let mut bird = Bird::new(file.clone(), socket, Exec::default());
    let nodes =
        |others: &[Update]| [&[node("a", "10.0.0.1"), node("b", "10.0.0.2")], others].concat();
    let world = |updates| World { desired: desired(updates), links: Links::default() };

    let odd = [node("c", "10.0.0.2"), node_of("d", "10.0.0.4", Some(0))];
    let report = bird.reconcile(&world(nodes(&odd)), Wake::Start).await;
    let subjects: Vec<_> = report.problems.iter().map(|problem| &*problem.subject).collect();
    // Nothing answers at the socket.
    assert_eq!(subjects, ["Node c", "Node d", "bird"], "{:?}", report.problems);
    assert!(std::fs::read_to_string(&file).unwrap().contains("Mesh_10_0_0_2"));

    // Somebody puts it right.
    let good = [node("c", "10.0.0.3"), node_of("d", "10.0.0.4", Some(65001))];
    let report = bird.reconcile(&world(nodes(&good)), Wake::Desired).await;
    let subjects: Vec<_> = report.problems.iter().map(|problem| &*problem.subject).collect();
    assert_eq!(subjects, ["bird"], "{:?}", report.problems);
    assert!(std::fs::read_to_string(&file).unwrap().contains("Mesh_10_0_0_4"));
}
