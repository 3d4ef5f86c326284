//! The reader of denied packets on a real kernel.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::denied::{Book, Denied, PREFIX, Reader};
use calico_agent::desired::{AclClass, DesiredState, DirectionAcl, LocalEndpoint, TierAcl};
use calico_agent::exec::Exec;
use calico_agent::felix::ruleset::Direction;
use calico_agent::felix::ruleset::deny::{DeniedBy, DenyPoint};
use calico_agent::routes::monitor::Monitor;
use calico_agent::status::systemd::Heartbeat;
use calico_datastore::model::{Name, PolicyId, TierAction};
use routes_support::{id, in_namespace, ip, pod};
use tokio::sync::watch;

const GROUP: u16 = 5;

fn policy() -> PolicyId {
    PolicyId { namespace: Some(Name::from("default")), name: Name::from("web") }
}

/// A host with one endpoint, whose class has one policy for each direction.
fn state() -> DesiredState {
    let acl = || DirectionAcl {
        tiers: vec![TierAcl {
            tier: Name::from("default"),
            policies: vec![policy()],
            default_action: TierAction::Deny,
        }],
        profiles: Vec::new(),
    };
    let class = AclClass { active: true, ingress: acl(), egress: acl() };
    let endpoint = LocalEndpoint {
        interface: "cali1".parse().unwrap(),
        active: true,
        mac: None,
        addresses: vec!["10.65.0.2/32".parse().unwrap()],
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    let mut state = DesiredState { generation: 1, ..DesiredState::default() };
    state.endpoints.insert(id("web"), Arc::new(endpoint));
    state.classes.insert(class.id(), Arc::new(class));
    state
}

async fn reader(state: DesiredState, book: &Book) -> tokio::task::JoinHandle<()> {
    let monitor = Monitor::start(vec!["cali".to_owned()], Heartbeat::unasked()).await.unwrap().0;
    let (_keep, desired) = watch::channel(Some(Arc::new(state)));
    let mut reader =
        Reader::open(GROUP, desired, monitor.links.clone(), book.clone()).await.unwrap();
    tokio::spawn(async move {
        let _keep = (_keep, monitor);
        panic!("{:?}", reader.run().await);
    })
}

async fn next(follow: &mut calico_agent::denied::Follow) -> Denied {
    tokio::time::timeout(Duration::from_secs(5), follow.next()).await.unwrap().unwrap()
}

async fn iptables(args: &[&str]) {
    Exec::default().run("iptables", args, b"").await.unwrap();
}

async fn nflog(port: u16, prefix: &str) {
    let (port, group) = (port.to_string(), GROUP.to_string());
    let matches = ["-A", "OUTPUT", "-p", "udp", "--dport", &port];
    let target = ["-j", "NFLOG", "--nflog-group", &group, "--nflog-prefix", prefix];
    iptables(&[&matches[..], &target].concat()).await;
}

/// A rule that reports what goes to the endpoint's address and a port.
async fn report(port: u16, point: &DenyPoint) {
    nflog(port, &format!("{PREFIX}{}", point.tag())).await;
    let port = port.to_string();
    iptables(&["-A", "OUTPUT", "-p", "udp", "--dport", &port, "-j", "DROP"]).await;
}

#[test]
fn a_denied_packet_has_the_names_of_endpoint_and_policy() {
    in_namespace(|| async {
        pod("cali1").await;
        ip("addr add 10.0.0.1/32 dev cali1").await;
        ip("route add 10.65.0.2/32 dev cali1").await;
        let book = Book::default();
        let task = reader(state(), &book).await;
        let (kept, mut follow) = book.read();
        assert_eq!(kept, []);
        let into = Direction::Ingress;
        report(80, &DenyPoint { direction: into, place: DeniedBy::Policy(policy()) }).await;
        let end = DeniedBy::EndOfTier(Name::from("default"));
        report(81, &DenyPoint { direction: into, place: end }).await;
        let gone = PolicyId { namespace: None, name: Name::from("gone") };
        report(82, &DenyPoint { direction: into, place: DeniedBy::Policy(gone) }).await;
        nflog(83, "another program's").await;
        let socket = UdpSocket::bind("10.0.0.1:5000").unwrap();
        let send = |port: u16| drop(socket.send_to(b"x", ("10.65.0.2", port)));

        send(83);
        send(80);
        let first = next(&mut follow).await;
        assert_eq!(
            first.to_string(),
            "udp 10.0.0.1:5000 → 10.65.0.2:80, to cni/web/eth0 (cali1): policy default/web of tier \
             default"
        );
        assert_eq!(first.policy.as_deref(), Some("default/web"));
        assert_eq!(first.tier.as_deref(), Some("default"));
        send(80);
        send(80);
        send(81);
        let second = next(&mut follow).await;
        assert_eq!(second.destination_port, Some(81), "equal ones are counted, not told");
        assert_eq!(second.by, "end of tier default: no policy of it allows it");
        assert_eq!((second.policy.as_deref(), second.tier.as_deref()), (None, Some("default")));
        send(82);
        let third = next(&mut follow).await;
        assert_eq!(third.by, "a policy that is gone");
        assert_eq!(third.interface.as_deref(), Some("cali1"));
        assert_eq!(book.read().0, [first.clone(), second, third]);

        let again = tokio::time::timeout(Duration::from_secs(15), follow.next()).await;
        let again = again.unwrap().unwrap();
        assert_eq!(again, Denied { packets: 2, time: again.time.clone(), ..first });
        task.abort();
    });
}

#[test]
fn a_group_has_one_reader() {
    in_namespace(|| async {
        let book = Book::default();
        let task = reader(state(), &book).await;
        let (_keep, desired) = watch::channel(Some(Arc::new(state())));
        let monitor =
            Monitor::start(vec!["cali".to_owned()], Heartbeat::unasked()).await.unwrap().0;
        let error = Reader::open(GROUP, desired, monitor.links.clone(), book).await.unwrap_err();
        assert!(error.to_string().contains("group 5"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains("not permitted"), "{source}");
        // It is free again when its reader is gone. A program that another test starts just then holds
        // a copy of every descriptor, until it is another program.
        task.abort();
        let _ = task.await;
        let (_keep, desired) = watch::channel(Some(Arc::new(state())));
        let again = async {
            loop {
                let (desired, links) = (desired.clone(), monitor.links.clone());
                match Reader::open(GROUP, desired, links, Book::default()).await {
                    Ok(_) => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
    });
}
