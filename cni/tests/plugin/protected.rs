//! ADD returns when the policy is in the kernel: the file that an agent writes.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{Netns, POD, RESOURCES, World, world};

fn status_file(world: &World) -> std::path::PathBuf {
    world.path("run/endpoint-status").join(format!("cni default%2F{POD} eth0"))
}

#[test]
fn without_an_agent_there_is_no_pod() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({"policy_setup_timeout_seconds": 60}));
    let began = Instant::now();
    let said = world.call("ADD", &conf).netns(pod.path()).fails(104);
    assert!(said.contains("no calico-agent answers on this host"), "{said}");
    assert!(said.contains("systemctl start calico-agent"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!((world.holdings(), pod.links()), (vec![], vec![]));
}

#[test]
fn a_stale_file_never_counts_and_the_pods_own_does() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let _agent = UnixListener::bind(world.path("run/agent.sock")).unwrap();
    let file = status_file(&world);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let stale = r#"{"mac":"ca:fe:1d:52:bb:e1","interfaceName":"calic89f2f35-1b","ipNetworks":["192.168.0.0/32"]}"#;
    for content in ["", "{}\n", stale] {
        std::fs::write(&file, content).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let conf = world.conf("n", json!({"policy_setup_timeout_seconds": 1}));
        let said = world.call("ADD", &conf).netns(pod.path()).fails(104);
        assert!(said.contains("earlier pod"), "{content:?}: {said}");
        assert_eq!((world.holdings(), pod.links()), (vec![], vec![]));
    }

    let conf = world.conf("n", json!({"policy_setup_timeout_seconds": 30}));
    let child = world.call("ADD", &conf).netns(pod.path()).spawn();
    let prefix = format!("{RESOURCES}workloadendpoints/");
    let deadline = Instant::now() + Duration::from_secs(20);
    let endpoint = loop {
        assert!(Instant::now() < deadline, "no endpoint is written");
        if let Some(text) = world.stored(&prefix).into_values().next() {
            break serde_json::from_str::<Value>(&text).unwrap();
        }
    };
    let spec = &endpoint["spec"];
    let content = json!({
        "mac": spec["mac"],
        "interfaceName": spec["interfaceName"],
        "ipNetworks": spec["ipNetworks"],
        "profiles": spec["profiles"],
    });
    // It waits: the old file is still there.
    std::thread::sleep(Duration::from_millis(300));
    let new = world.path("run/new");
    std::fs::write(&new, content.to_string()).unwrap();
    let mut child = child;
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    std::fs::rename(&new, &file).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The datastore goes away in the middle: the pod must not start, and what could not be taken back is
/// remembered.
#[test]
fn what_cannot_be_taken_back_is_remembered() {
    let Some(mut world) = world() else { return };
    let pod = Netns::new("pod");
    let _agent = UnixListener::bind(world.path("run/agent.sock")).unwrap();
    let conf = world.conf("n", json!({"policy_setup_timeout_seconds": 6}));
    let child = world.call("ADD", &conf).netns(pod.path()).spawn();
    let prefix = format!("{RESOURCES}workloadendpoints/");
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.stored(&prefix).is_empty() {
        assert!(Instant::now() < deadline, "no endpoint is written");
    }
    world.stop_etcd();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["code"], 104, "{said}");
    let details = said["details"].as_str().unwrap();
    assert!(details.contains("not everything could be taken back"), "{said}");
    assert_eq!((world.host.links(), pod.links()), (vec![], vec![]));
    let record = world.path("state/attachments").join(format!("{POD}_eth0.json"));
    assert!(std::fs::read_to_string(record).unwrap().contains(r#""stage": "failed""#));
    world.start_etcd();
    assert_eq!(world.stored(&prefix).len(), 1);
    // The runtime asks again: what was left is no obstacle.
    let conf = world.conf("n", json!({}));
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    world.call("DEL", &conf).netns(pod.path()).succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}
