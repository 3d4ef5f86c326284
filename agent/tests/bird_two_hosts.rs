//! Two hosts with two real BIRDs: what one has arrives in the other's kernel.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod routes_support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use calico_agent::desired::MeshPeer;
use calico_agent::drift::Change;
use calico_agent::exec::Exec;
use calico_agent::reconcile::{Reconciler as _, Report, Wake};
use calico_agent::routes::bird::{BgpSession, Bird, PeerType, sessions, status};
use calico_agent::routes::{Changes, Routes};
use calico_datastore::model::AsNumber;
use routes_support::{Builder, Namespace, eventually, fact, in_namespace, ip, links, pod, routes};
use tempfile::TempDir;

/// A BIRD that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a daemon that runs beside the test")]
fn start_bird(config: &Path, socket: &Path) -> Daemon {
    let child = std::process::Command::new("bird")
        .arg("-f")
        .args([Path::new("-c"), config, Path::new("-s"), socket])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bird is not installed");
    Daemon(child)
}

/// A host of the mesh.
struct Host {
    dir: TempDir,
    builder: Builder,
    bird: Bird,
    routes: Routes,
}

impl Host {
    fn new(number: u8, other: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::default();
        let bgp = &mut builder.bgp;
        bgp.node = format!("calico-0{number}").into();
        bgp.ipv4 = Some(format!("172.17.0.{number}").parse().unwrap());
        bgp.ipv6 = Some(format!("fd00:17::{number}").parse().unwrap());
        bgp.mesh = [format!("172.17.0.{other}"), format!("fd00:17::{other}")]
            .iter()
            .map(|address| MeshPeer {
                address: address.parse().unwrap(),
                node: format!("calico-0{other}").into(),
                as_number: AsNumber::DEFAULT,
            })
            .collect();
        bgp.pools = [("10.65.0.0/16", true), ("10.9.0.0/16", false), ("fd00:65::/48", true)]
            .iter()
            .map(|(pool, export)| (pool.parse().unwrap(), *export))
            .collect();
        let bird = Self::agent(dir.path());
        Self { dir, builder, bird, routes: Routes::new(Changes::new(vec!["cali".to_owned()])) }
    }

    fn agent(dir: &Path) -> Bird {
        Bird::new(config(dir), socket(dir), Exec::default())
    }

    fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    async fn reconcile(&mut self, wake: Wake) -> Report {
        let world = self.builder.world();
        let report = self.routes.reconcile(&world, wake).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        self.bird.reconcile(&world, wake).await
    }

    fn start_bird(&self) -> Daemon {
        start_bird(&config(self.dir.path()), &self.socket())
    }
}

fn config(dir: &Path) -> PathBuf {
    dir.join("bird").join("bird.cfg")
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("bird.ctl")
}

async fn address(number: u8) {
    ip(&format!("addr add 172.17.0.{number}/24 dev eth0")).await;
    ip(&format!("addr add fd00:17::{number}/64 dev eth0 nodad")).await;
    ip("link set eth0 up").await;
    ip("link set lo up").await;
}

/// True when `ip route get` finds no way: a blackhole answers with an error.
async fn unreachable(address: &str) -> bool {
    Exec::default().run("ip", &["route", "get", address], b"").await.is_err()
}

async fn established(socket: &Path) -> Vec<BgpSession> {
    eventually("both sessions are established", || async {
        let sessions = sessions(socket).await.unwrap_or_default();
        sessions.len() == 2 && sessions.iter().all(BgpSession::is_established)
    })
    .await;
    sessions(socket).await.unwrap()
}

/// Asserts that no session went down between two answers. BIRD works out a moment of the past from
/// how long ago it was each time it is asked, so the same one differs by a millisecond now and then.
/// A session that went down would tell the moment of its return.
fn assert_kept(before: &[BgpSession], now: &[BgpSession]) {
    let without_time = |sessions: &[BgpSession]| {
        let plain = |session: &BgpSession| BgpSession { since: String::new(), ..session.clone() };
        sessions.iter().map(plain).collect::<Vec<_>>()
    };
    assert_eq!(without_time(now), without_time(before), "a session was dropped");
    for (then, now) in before.iter().zip(now) {
        let passed = milliseconds(&now.since) - milliseconds(&then.since);
        assert!(passed.abs() < 20, "a session was dropped: {then:?}, {now:?}");
    }
}

/// The milliseconds of the day of a time like `19:16:41.476`.
fn milliseconds(time: &str) -> i64 {
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
    seconds * 1000 + fraction.parse::<i64>().unwrap()
}

#[test]
fn routes_arrive_in_the_other_kernel() {
    in_namespace(|| async {
        let there = Namespace::new();
        let here = Namespace::current();
        ip("link add eth0 type veth peer name peer").await;
        ip(&format!("link set peer name eth0 netns {}", there.path())).await;
        address(1).await;
        for name in ["cali1", "cali2"] {
            pod(name).await;
        }
        ip("route add 203.0.113.0/24 via 172.17.0.77").await;
        let mut one = Host::new(1, 2);
        one.builder.links = links().await;
        one.builder.endpoint("own", "cali1", &["10.65.0.2/32", "fd00:65::2/128"], None);
        one.builder.endpoint("lent", "cali2", &["10.65.1.5/32", "10.9.0.5/32"], None);
        one.builder.blocks(&["10.65.0.0/26", "fd00:65::/122", "10.65.8.8/32", "10.9.0.0/26"]);
        // No BIRD yet: the file is written all the same, and the lack is told.
        let report = one.reconcile(Wake::Start).await;
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert!(report.problems[0].message.contains("BIRD does not answer"), "{report:?}");
        assert_eq!((report.applied, report.retry), (None, false));
        let _bird_one = one.start_bird();

        there.enter();
        address(2).await;
        let mut two = Host::new(2, 1);
        two.builder.links = links().await;
        two.builder.blocks(&["10.65.1.0/26"]);
        two.reconcile(Wake::Start).await;
        let _bird_two = two.start_bird();
        here.enter();
        let before = established(&one.socket()).await;

        // BIRD is there now.
        let report = one.reconcile(Wake::Timer).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(report.facts["version"].starts_with("BIRD 2"), "{report:?}");
        assert_eq!((fact(&report.facts, "writes"), fact(&report.facts, "reloads")), (1, 1));
        let names: Vec<&str> = before.iter().map(|session| session.name.as_str()).collect();
        assert_eq!(names, ["Mesh_172_17_0_2", "Mesh_fd00_17__2"]);
        assert!(before.iter().all(|session| session.peer_type == PeerType::Mesh
            && session.state == "up"
            && session.as_number == Some(64512)));

        there.enter();
        eventually("the routes of the first host are in the kernel of the second", || async {
            let routes = routes().await;
            ["10.65.0.0/26", "10.65.1.5", "fd00:65::/122"]
                .iter()
                .all(|route| routes.contains(&format!("{route} via ")))
        })
        .await;
        let arrived = routes().await;
        assert!(arrived.contains("10.65.0.0/26 via 172.17.0.1 dev eth0 proto bird"), "{arrived}");
        assert!(arrived.contains("fd00:65::/122 via fd00:17::1 dev eth0 proto bird"), "{arrived}");
        for hidden in ["10.65.0.2", "fd00:65::2 ", "203.0.113.", "10.9.0.", "10.65.8.8"] {
            assert!(!arrived.contains(hidden), "{hidden} was told:\n{arrived}");
        }
        // The lent address goes to the other host, the rest of our block nowhere.
        assert!(ip("route get 10.65.1.5").await.contains("via 172.17.0.1"));
        assert!(unreachable("10.65.1.6").await, "{}", ip("route get 10.65.1.6").await);
        assert!(!unreachable("10.65.0.6").await, "the other host's block is reachable");
        assert!(arrived.contains("blackhole 10.65.1.0/26 proto 80"), "{arrived}");
        assert!(!arrived.contains("blackhole 10.65.1.0/26 proto bird"), "{arrived}");
        here.enter();
        let local = routes().await;
        assert!(local.contains("10.65.0.2 dev cali1 proto 80"), "{local}");
        assert!(!local.contains("10.65.0.0/26 proto bird"), "{local}");
        assert!(unreachable("10.65.0.6").await);

        // Nothing changed: nothing is written, nobody is told.
        let report = one.reconcile(Wake::Desired).await;
        assert_eq!((fact(&report.facts, "writes"), fact(&report.facts, "reloads")), (1, 1));

        // A block more, and a block less: the sessions stay up.
        one.builder.blocks(&["10.65.0.0/26", "10.65.2.0/26", "10.9.0.0/26"]);
        let report = one.reconcile(Wake::Desired).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!((fact(&report.facts, "writes"), fact(&report.facts, "reloads")), (2, 2));
        there.enter();
        eventually("the new block arrives and the old one leaves", || async {
            let routes = routes().await;
            routes.contains("10.65.2.0/26 via 172.17.0.1") && !routes.contains("fd00:65::/122")
        })
        .await;
        here.enter();
        assert_kept(&before, &sessions(&one.socket()).await.unwrap());

        // Another agent on the same files: it writes nothing, and asks BIRD to read once.
        one.bird = Host::agent(one.dir.path());
        let report = one.reconcile(Wake::Start).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!((fact(&report.facts, "writes"), fact(&report.facts, "reloads")), (0, 1));
        assert_kept(&before, &sessions(&one.socket()).await.unwrap());
        assert!(!status(&one.socket()).await.unwrap().last_reconfiguration.is_empty());
    });
}

#[test]
fn a_refused_configuration_keeps_the_last_one() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        host.reconcile(Wake::Start).await;
        let path = config(host.dir.path());
        let good = std::fs::read_to_string(&path).unwrap();
        assert!(good.contains("router id 172.17.0.1;"), "{good}");
        host.builder.bgp.listen_port = Some(0);
        let report = host.reconcile(Wake::Desired).await;
        let message = &report.problems[0].message;
        assert!(message.contains("refuses") && message.contains("port"), "{message}");
        assert_eq!(report.applied, None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "something was left behind: {left:?}");
        // It works again as soon as the mistake is gone.
        host.builder.bgp.listen_port = Some(1790);
        host.reconcile(Wake::Desired).await;
        let now = std::fs::read_to_string(&path).unwrap();
        assert!(now.contains("local 172.17.0.1 port 1790"), "{now}");
    });
}

#[test]
fn a_missing_bird_and_a_missing_address_are_told() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        host.bird = Host::agent(host.dir.path()).with_program("no-such-bird");
        let report = host.reconcile(Wake::Start).await;
        assert!(report.problems[0].message.contains("is not installed"), "{report:?}");
        assert!(!config(host.dir.path()).exists(), "an unchecked file was swapped in");
        assert!(report.wake_after.is_some(), "nobody would try again");

        host.bird = Host::agent(host.dir.path());
        (host.builder.bgp.registered, host.builder.bgp.ipv4) = (true, None);
        let report = host.reconcile(Wake::Start).await;
        assert!(report.problems[0].message.contains("no IPv4 address"), "{report:?}");
        assert!(!config(host.dir.path()).exists());
    });
}

#[test]
fn a_bird_that_ends_and_comes_back_is_noticed() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        host.reconcile(Wake::Start).await;
        let daemon = host.start_bird();
        let socket = host.socket();
        eventually("BIRD answers", || async { status(&socket).await.is_ok() }).await;
        assert!(host.reconcile(Wake::Timer).await.problems.is_empty());
        drop(daemon);
        let report = host.reconcile(Wake::Timer).await;
        assert_eq!(report.problems.len(), 1);
        assert!(report.wake_after.unwrap() < std::time::Duration::from_secs(5));
        let _daemon = host.start_bird();
        eventually("BIRD answers again", || async { status(&socket).await.is_ok() }).await;
        let report = host.reconcile(Wake::Timer).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(fact(&report.facts, "writes"), 1);
    });
}

#[test]
fn a_configuration_that_others_change_is_put_right_and_told() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        host.reconcile(Wake::Start).await;
        let _daemon = host.start_bird();
        let socket = host.socket();
        eventually("BIRD answers", || async { status(&socket).await.is_ok() }).await;
        let report = host.reconcile(Wake::Timer).await;
        assert!(report.problems.is_empty() && report.drift.is_empty(), "{report:?}");
        let path = config(host.dir.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let reloads = fact(&report.facts, "reloads");
        let report = host.reconcile(Wake::Timer).await;
        assert!(report.wake_after.unwrap() < std::time::Duration::from_secs(3), "{report:?}");
        assert_eq!(fact(&report.facts, "reloads"), reloads, "reloaded without need");

        let edited = text.replacen("router id 172.17.0.1", "router id 1.2.3.4", 1);
        assert_ne!(edited, text);
        for (broken, change) in [
            (Some(edited.as_str()), Change::Modified),
            (Some("not a configuration"), Change::Modified),
            (None, Change::Missing),
            (Some(""), Change::Missing),
        ] {
            match broken {
                Some(broken) => std::fs::write(&path, broken).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let report = host.reconcile(Wake::Timer).await;
            let told: Vec<_> = report.drift.iter().map(|one| one.change).collect();
            assert_eq!(told, [change], "{:?}", report.drift);
            assert!(report.drift[0].subject.ends_with("bird.cfg"), "{:?}", report.drift);
            assert!(report.problems.is_empty(), "{report:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(host.reconcile(Wake::Timer).await.drift.is_empty());
        }
        // Again and again: put right each time, but ever more seldom, and somebody is named.
        let mut report = Report::default();
        for _ in 0..8 {
            std::fs::write(&path, &edited).unwrap();
            report = host.reconcile(Wake::Timer).await;
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(report.problems[0].message.contains("again and again"), "{report:?}");
        assert!(report.wake_after.unwrap() > std::time::Duration::from_secs(10), "{report:?}");
        assert!(host.reconcile(Wake::Timer).await.problems.is_empty(), "it is over");
    });
}

#[test]
fn a_bird_that_reads_another_file_is_told() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        let stock = host.dir.path().join("stock.conf");
        std::fs::write(&stock, "router id 1.2.3.4;\nprotocol device { }\n").unwrap();
        let socket = host.socket();
        let _daemon = start_bird(&stock, &socket);
        eventually("BIRD answers", || async { status(&socket).await.is_ok() }).await;
        let report = host.reconcile(Wake::Start).await;
        let message = &report.problems[0].message;
        assert!(message.contains("stock.conf"), "{message}");
    });
}

#[test]
fn a_frozen_bird_is_left_in_time_and_told_when_it_goes_on() {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        host.reconcile(Wake::Start).await;
        let daemon = host.start_bird();
        let socket = host.socket();
        eventually("BIRD answers", || async { status(&socket).await.is_ok() }).await;
        assert!(host.reconcile(Wake::Timer).await.problems.is_empty());
        let pid = nix::unistd::Pid::from_raw(daemon.0.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let which = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), which).unwrap();
        host.builder.blocks(&["10.65.2.0/26"]);
        let begin = std::time::Instant::now();
        let report = host.reconcile(Wake::Desired).await;
        assert!(begin.elapsed() < std::time::Duration::from_secs(8), "{:?}", begin.elapsed());
        assert!(report.problems[0].message.contains("did not answer"), "{report:?}");
        kill(pid, Signal::SIGCONT).unwrap();
        let report = host.reconcile(Wake::Timer).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let show = ["-s", socket.to_str().unwrap(), "show", "route", "all"];
        let reached = || async {
            let shown = Exec::default().run("birdc", &show, b"").await;
            shown.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("10.65.2.0"))
        };
        eventually("BIRD runs with the newest file", reached).await;
    });
}

#[test]
fn a_check_that_ends_without_a_word_is_no_refusal() {
    in_namespace(|| async {
        let mut host = Host::new(1, 2);
        let script = host.dir.path().join("check");
        // Written by another process: what is open here for writing, a child of another test holds,
        // too, and then nobody can run it.
        let become_script = async |text: &str| {
            let to = ["-m", "755", "/dev/stdin", script.to_str().unwrap()];
            let text = format!("#!/bin/sh\n{text}\n");
            Exec::default().run("install", &to, text.as_bytes()).await.unwrap();
        };
        let limit = std::time::Duration::from_millis(300);
        host.bird = Bird::new(config(host.dir.path()), host.socket(), Exec::new(limit))
            .with_program(script.to_str().unwrap());
        // Killed (no memory), and hanging.
        for text in ["kill -9 $$", "exec sleep 60"] {
            become_script(text).await;
            let report = host.reconcile(Wake::Start).await;
            assert!(report.problems[0].message.contains("cannot check"), "{text}: {report:?}");
            assert!(report.wake_after.unwrap() <= std::time::Duration::from_secs(2), "{report:?}");
            assert!(!config(host.dir.path()).exists(), "an unchecked file was swapped in");
        }
        become_script("exec bird \"$@\"").await;
        let report = host.reconcile(Wake::Timer).await;
        assert_eq!(fact(&report.facts, "writes"), 1, "the same text is tried again: {report:?}");
    });
}
