//! Needs root: the real kernel, in network namespaces of threads of their own.

use std::sync::Arc;

use calico_datastore::model::{Name, TierAction, WorkloadEndpointId};
use tokio::time::Instant;

use super::*;
use crate::config::Settings;
use crate::desired::{AclClass, DesiredState, DirectionAcl, LocalEndpoint, TierAcl};
use crate::felix::counters::Counters;
use crate::felix::scene::Stage;
use crate::felix::watch::{Changes, Touched};
use crate::routes::monitor::Links;

/// What a run found out: how it failed, and what it says that others did.
type Said = (Option<String>, Vec<(String, Change)>);

/// A host with one pod, and what the reconciler is around the backend.
struct Host {
    nftables: Nftables,
    stage: Stage,
    state: Arc<DesiredState>,
    runtime: tokio::runtime::Runtime,
}

#[expect(clippy::disallowed_methods, reason = "a test that plays somebody else")]
fn sh(line: &str) -> String {
    let out = std::process::Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn on_a_host(test: impl FnOnce(&mut Host) + Send + 'static) {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: needs root for network namespaces");
        return;
    }
    let inside = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link add cali1 type veth peer name eth1");
        test(&mut Host::new());
    };
    std::thread::spawn(inside).join().unwrap();
}

fn touched(by: Option<&str>) -> Touched {
    Touched { table: true, by: by.map(str::to_owned), ..Touched::default() }
}

impl Host {
    fn new() -> Self {
        let settings = Settings::default();
        let made = Nftables::new(&settings, Counters::default(), Changes::default(), String::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let state = DesiredState { settings: Arc::new(settings), ..DesiredState::default() };
        let (nftables, stage) = (made.unwrap(), Stage::default());
        let mut host = Self { nftables, stage, state: Arc::new(state), runtime };
        host.asks("one");
        host
    }

    /// The class of the pod is another one from now on.
    fn asks(&mut self, tier: &str) {
        let mut state = DesiredState::clone(&self.state);
        let tier =
            TierAcl { tier: tier.into(), policies: Vec::new(), default_action: TierAction::Deny };
        let ingress = DirectionAcl { tiers: vec![tier], ..DirectionAcl::default() };
        let class = AclClass { active: true, ingress, ..AclClass::default() };
        let endpoint = LocalEndpoint {
            interface: "cali1".parse().unwrap(),
            active: true,
            mac: None,
            addresses: vec!["10.65.0.1/32".parse().unwrap()],
            nat: Vec::new(),
            spoof: Vec::new(),
            class: class.id(),
        };
        let id = WorkloadEndpointId {
            node: Name::from("host"),
            orchestrator: Name::from("cni"),
            workload: Name::from("pod1"),
            endpoint: Name::from("eth0"),
        };
        state.classes = [(class.id(), Arc::new(class))].into_iter().collect();
        state.endpoints.insert(id, Arc::new(endpoint));
        state.generation += 1;
        self.state = Arc::new(state);
    }

    /// A thread that had the socket panicked.
    fn lose_socket(&mut self) {
        self.nftables.sockets.as_mut().unwrap().lose();
    }

    /// A run as the reconciler does it.
    fn run(&mut self, told: &Touched) -> Run {
        let Self { nftables, stage, state, runtime } = self;
        let (links, mut run) = (Links::new(), Run::default());
        if let Some(before) = stage.state() {
            let scene = stage.scene(before);
            runtime.block_on(nftables.look_back(&scene, told, &mut run));
        }
        let update = stage.update(state, &links);
        let job = Job {
            scene: stage.scene(state),
            links: &links,
            changed: update.changed(),
            known: &Family::ALL,
            on: &Family::ALL,
            all: false,
            check: false,
            told,
            doubtful: told,
            from_disk: false,
            now: Instant::now(),
        };
        let in_force = runtime.block_on(nftables.run(&job, &mut run));
        assert_eq!(in_force, run.failed.is_none(), "{:?}", run.problems);
        assert_eq!(in_force, run.problems.is_empty());
        run
    }

    /// What it says of a run, and that nobody has to be asked again for another reason.
    fn says(&mut self, told: &Touched) -> Said {
        let run = self.run(told);
        assert!(run.unasked.is_empty(), "{:?}", run.unasked);
        let drift = run.drift.into_iter().map(|one| (one.subject, one.change)).collect();
        (run.failed, drift)
    }
}

fn opened() -> (String, Change) {
    ("nftables chain from-pod".to_owned(), Change::Modified)
}

const OPEN: &str = "nft insert rule inet calico from-pod accept";

fn is_open() -> bool {
    sh("nft list chain inet calico from-pod").lines().any(|line| line.trim() == "accept")
}

#[test]
fn what_a_look_back_could_not_read_is_told_all_the_same() {
    on_a_host(|host| {
        let _ = host.run(&Touched::default());
        // With a change that comes in the same run, too: what is new is nobody's doing.
        for class in ["one", "two", "three"] {
            host.asks(class);
            sh(OPEN);
            host.lose_socket();
            assert_eq!(host.says(&touched(None)), (None, vec![opened()]), "{class}");
            assert!(!is_open());
            assert_eq!(host.says(&touched(None)), (None, Vec::new()));
        }
        // Nobody did anything.
        host.lose_socket();
        assert_eq!(host.says(&touched(Some("nft (process 1)"))), (None, Vec::new()));
        // The group of an interface.
        sh("ip link set cali1 group 0");
        host.lose_socket();
        let group = ("group of interface cali1".to_owned(), Change::Modified);
        assert_eq!(host.says(&touched(None)), (None, vec![group]));
    });
}

#[test]
fn what_came_after_a_change_that_failed_is_asked_about() {
    on_a_host(|host| {
        let _ = host.run(&Touched::default());
        let fail = |host: &mut Host, class| {
            host.asks(class);
            host.lose_socket();
            let (failed, drift) = host.says(&Touched::default());
            assert!(failed.is_some() && drift.is_empty(), "{failed:?} {drift:?}");
        };
        // Nobody came: what changes is our own.
        fail(host, "two");
        assert_eq!(host.says(&Touched::default()), (None, Vec::new()));
        for (class, by) in [("three", None), ("four", Some("nft (process 1)"))] {
            fail(host, class);
            sh(OPEN);
            let run = host.run(&touched(by));
            assert_eq!((run.failed, run.unasked), (None, Family::ALL.into()));
            // Who hears anew takes everything for touched: nobody is told of.
            let told = run.drift.into_iter().map(|one| (one.subject, one.change));
            let all = by.map(|_| ("nftables the table".to_owned(), Change::Modified));
            assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(all));
            assert!(!is_open());
            assert_eq!(host.says(&touched(None)), (None, Vec::new()));
        }
    });
}

/// What is there at a start is taken over, also when the first run fails.
#[test]
fn before_anything_was_in_force_nobody_changed_it() {
    on_a_host(|host| {
        host.nftables.sockets = Some(host.nftables.open().unwrap());
        host.lose_socket();
        assert!(host.run(&Touched::default()).failed.is_some());
        let run = host.run(&touched(Some("nft (process 1)")));
        assert_eq!((run.failed, run.drift), (None, Vec::new()));
    });
}

#[test]
fn an_interface_that_was_placed_with_all_others_is_refused_no_more() {
    on_a_host(|host| {
        let _ = host.run(&Touched::default());
        host.nftables.unplaced.insert("cali1".parse().unwrap(), "it did not go".to_owned());
        host.nftables.sure = false;
        assert_eq!(host.says(&Touched::default()), (None, Vec::new()));
        assert!(!host.nftables.refuses());
    });
}
