//! Commands at once: pods that want one name, and GC beside an ADD of the same pod.

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_cni::attachment::Attachments;
use serde_json::{Value, json};

use crate::world::{Netns, OTHER, POD, RESOURCES, World, world};

/// Containers whose interfaces want the same name: the first 11 characters are the same.
fn twin(number: usize) -> String {
    format!("c89f2f35-1b7e-4a57-9d6c-{number:012}")
}

fn endpoint(world: &World, container: &str) -> Option<Value> {
    let found = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let mut found = found.values().map(|text| serde_json::from_str::<Value>(text).unwrap());
    found.find(|endpoint| endpoint["spec"]["containerID"] == container)
}

/// The host side of a pod's interface, as the datastore has it; it is there, and leads into the pod.
#[track_caller]
fn check_connected(world: &World, container: &str, pod: &Netns) -> String {
    let endpoint = endpoint(world, container).expect("it has an endpoint");
    let name = endpoint["spec"]["interfaceName"].as_str().unwrap().to_owned();
    assert_eq!(pod.links(), ["eth0"]);
    let inside = pod.ip("link show eth0")[0]["address"].clone();
    assert_eq!(inside, endpoint["spec"]["mac"]);
    let host = world.host.ip(&format!("link show {name}"));
    let peer = pod.ip("link show eth0")[0]["link_index"].clone();
    assert_eq!(host[0]["ifindex"], peer, "{name} is another pod's");
    name
}

fn success(child: Child) -> bool {
    child.wait_with_output().unwrap().status.success()
}

#[test]
fn twins_at_once_have_a_name_each() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    for round in 0..4 {
        let pods: Vec<_> = (0..6).map(|_| Netns::new("pod")).collect();
        let add = |(at, pod): (usize, &Netns)| {
            world.call("ADD", &conf).container(&twin(at)).netns(pod.path()).spawn()
        };
        let children: Vec<_> = pods.iter().enumerate().map(add).collect();
        assert!(children.into_iter().all(success), "round {round}");
        let names: BTreeSet<_> = pods
            .iter()
            .enumerate()
            .map(|(at, pod)| check_connected(&world, &twin(at), pod))
            .collect();
        assert_eq!(names.len(), pods.len(), "{names:?}");
        assert!(names.contains("calic89f2f35-1b"), "{names:?}");
        // Each takes only what is its own.
        for at in 0..pods.len() {
            world.call("DEL", &conf).container(&twin(at)).netns(pods[at].path()).succeeds();
            for (other, pod) in pods.iter().enumerate().skip(at + 1) {
                check_connected(&world, &twin(other), pod);
            }
        }
        assert_eq!(world.holdings(), [""; 0], "round {round}");
    }
}

#[test]
fn a_twin_that_is_killed_takes_nothing_with_it() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    let began = Instant::now();
    let pod = Netns::new("pod");
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    let whole = began.elapsed();
    world.call("DEL", &conf).netns(pod.path()).succeeds();
    let rounds = 20;
    for round in 0..rounds {
        let (one, two) = (Netns::new("pod"), Netns::new("pod"));
        let mut killed = world.call("ADD", &conf).container(&twin(1)).netns(one.path()).spawn();
        let lives = world.call("ADD", &conf).container(&twin(2)).netns(two.path()).spawn();
        std::thread::sleep(whole * round / rounds);
        let _ = killed.kill();
        let _ = killed.wait();
        assert!(success(lives), "round {round}");
        let name = check_connected(&world, &twin(2), &two);
        // With its namespace, and after a reboot of it.
        let del = world.call("DEL", &conf).container(&twin(1));
        if round % 2 == 0 {
            del.netns(one.path()).succeeds()
        } else {
            del.succeeds()
        };
        assert_eq!(check_connected(&world, &twin(2), &two), name, "round {round}");
        world.call("DEL", &conf).container(&twin(2)).netns(two.path()).succeeds();
        assert_eq!(world.holdings(), [""; 0], "round {round}");
    }
}

fn gc(world: &World, valid: &Value) {
    let more = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
    world.call("GC", &world.conf("n", more)).succeeds();
}

/// It waits for its policy; then it is done, and fair game.
#[test]
fn gc_leaves_an_add_alone_while_it_is_at_work() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let _agent = UnixListener::bind(world.path("run/agent.sock")).unwrap();
    let conf = world.conf("n", json!({"policy_setup_timeout_seconds": 60}));
    let mut child = world.call("ADD", &conf).netns(pod.path()).spawn();
    // At any step of it.
    let deadline = Instant::now() + Duration::from_secs(30);
    let spec = loop {
        gc(&world, &json!([]));
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        if let Some(endpoint) = endpoint(&world, POD) {
            break endpoint["spec"].clone();
        }
        assert!(Instant::now() < deadline, "no endpoint is written");
    };
    gc(&world, &json!([]));
    let file = world.path("run/endpoint-status").join(format!("cni default%2F{POD} eth0"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let content = json!({
        "mac": spec["mac"],
        "interfaceName": spec["interfaceName"],
        "ipNetworks": spec["ipNetworks"],
        "profiles": spec["profiles"],
    });
    let new = world.path("run/new");
    std::fs::write(&new, content.to_string()).unwrap();
    std::fs::rename(&new, &file).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    check_connected(&world, POD, &pod);
    let allocated = |held: &String| held.contains('#');
    assert_eq!(world.holdings().into_iter().filter(allocated).count(), 1);
    gc(&world, &json!([]));
    assert_eq!((world.holdings(), pod.links()), (vec![], vec![]));
}

#[test]
fn gc_beside_pods_that_come_and_go() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    // A runtime that knows one of the two; the other one is not yet told to it, or forgotten.
    let valid = json!([{"containerID": POD, "ifname": "eth0"}]);
    let (done, stayed) = (AtomicBool::new(false), Netns::new("pod"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                gc(&world, &valid);
            }
        });
        for _ in 0..12 {
            let other = Netns::new("pod");
            let known = world.call("ADD", &conf).netns(stayed.path()).spawn();
            world.call("ADD", &conf).container(OTHER).netns(other.path()).succeeds();
            assert!(success(known));
            check_connected(&world, POD, &stayed);
            world.call("DEL", &conf).container(OTHER).netns(other.path()).succeeds();
            check_connected(&world, POD, &stayed);
            world.call("DEL", &conf).netns(stayed.path()).succeeds();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.holdings(), [""; 0]);
}

/// Addresses without a record, of a container that an ADD has just begun to work on.
#[test]
fn gc_takes_no_address_under_the_hands_of_an_add() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    let pod = Netns::new("pod");
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    // As after a disk that was lost, and an endpoint that somebody deleted.
    std::fs::remove_dir_all(world.path("state/attachments")).unwrap();
    let key = world.stored(&format!("{RESOURCES}workloadendpoints/")).into_keys().next().unwrap();
    world.store(async |store| store.delete(&key).await.unwrap());
    drop(pod);
    let allocated = || world.holdings().into_iter().filter(|held| held.contains('#')).count();
    let records = Attachments::in_state_dir(&world.path("state"));
    let lock = records.lock(POD, Duration::ZERO).unwrap().unwrap();
    gc(&world, &json!([]));
    assert_eq!(allocated(), 1);
    // Killed: its lock stays, and says nothing any more.
    drop(lock);
    drop(records.lock(OTHER, Duration::ZERO).unwrap().unwrap());
    gc(&world, &json!([]));
    assert_eq!(world.holdings(), [""; 0]);
}
