//! An ADD that fails says why, with the code of the case, and leaves nothing.

use serde_json::{Value, json};

use crate::world::{Netns, OTHER, POD, RESOURCES, World, world};

fn nothing_is_left(world: &World, pod: &Netns, case: &str) {
    assert_eq!(world.holdings(), [""; 0], "{case}");
    assert_eq!(pod.links(), [""; 0], "{case}");
}

#[test]
fn what_cannot_be_leaves_nothing() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let file = world.path("pod/file");
    std::fs::write(&file, "").unwrap();
    let conf = |more: Value| world.conf("n", more);
    let calico = |more: Value| {
        let mut ipam = json!({"type": "calico-ipam"});
        ipam.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        conf(json!({"ipam": ipam}))
    };
    let there = pod.path();
    let nodename = world.path("etc/none");
    let add = |conf: &Value| world.call("ADD", conf).netns(&there);
    let cases = [
        ("no namespace", add(&conf(json!({}))).netns("/var/run/netns/none"), 4, "/netns/none"),
        ("a plain file", add(&conf(json!({}))).netns(&file), 4, "is not a network namespace"),
        (
            "the host itself",
            add(&conf(json!({}))).netns(world.host.path()),
            4,
            "of the host itself",
        ),
        ("no name", add(&conf(json!({"nodename_file": nodename}))), 7, "is calico-agent running?"),
        ("outside", add(&conf(json!({}))).args("IP=10.9.9.9"), 101, "10.9.9.9"),
        ("no such pool", add(&calico(json!({"ipv4_pools": ["none"]}))), 7, "none"),
        ("no pool of IPv6", add(&calico(json!({"assign_ipv6": "true"}))), 100, "IPv6"),
        ("a bad subnet", add(&calico(json!({"subnet": "x"}))), 7, "ipam.subnet"),
        ("an overlap", add(&calico(json!({"subnet": "192.0.0.0/8"}))), 7, "192.168.0.0/16"),
        ("nothing wanted", add(&calico(json!({"assign_ipv4": "false"}))), 7, "no address"),
        ("a bad name", add(&conf(json!({}))).container("abc-"), 4, "cannot be stored"),
        ("no etcd", add(&conf(json!({"etcd_endpoints": "http://127.0.0.1:9"}))), 11, "127.0.0.1:9"),
        ("no plugin", add(&conf(json!({"ipam": {"type": "none"}}))), 106, "CNI_PATH"),
    ];
    for (case, call, code, why) in cases {
        let said = call.fails(code);
        assert!(said.contains(why), "{case}: {said}");
        nothing_is_left(&world, &pod, case);
    }
    // The allow check: with nothing wrong it works.
    add(&conf(json!({}))).succeeds();
    assert_eq!(pod.links(), ["eth0"]);
}

/// What etcd refuses for good is not written, so nobody has to look for it later.
#[test]
fn an_endpoint_that_etcd_refuses() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    // More than etcd takes in one request.
    let conf = world.conf("n", json!({"labels": {"large": "x".repeat(1_700_000)}}));
    let said = world.call("ADD", &conf).netns(pod.path()).fails(102);
    assert!(said.contains("too large"), "{said}");
    nothing_is_left(&world, &pod, "too large");
    let small = world.conf("n", json!({"labels": {"small": "x"}}));
    world.call("ADD", &small).netns(pod.path()).succeeds();
}

#[test]
fn a_store_that_is_not_ready() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({}));
    world.put("clusterinformations/default", r#"{"spec":{"datastoreReady":false}}"#);
    let said = world.call("ADD", &conf).netns(pod.path()).fails(11);
    assert!(said.contains("not ready"), "{said}");
    nothing_is_left(&world, &pod, "not ready");
    world.put("clusterinformations/default", r#"{"spec":{"datastoreReady":true}}"#);
    world.call("ADD", &conf).netns(pod.path()).succeeds();
}

#[test]
fn the_datastore_is_where_the_agent_has_it() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({}));
    let add = || world.call("ADD", &conf).netns(pod.path());
    let toml = world.path("etc/agent.toml");
    std::fs::write(&toml, "[datastore]\nendpoints = [\"http://127.0.0.1:7\"]\n").unwrap();
    assert!(add().fails(11).contains("127.0.0.1:7"));
    std::fs::write(&toml, "[datastore\n").unwrap();
    assert!(add().fails(7).contains("agent.toml"));
    nothing_is_left(&world, &pod, "agent.toml");
    std::fs::write(&toml, "[datastore]\nendpoints = [\"http://127.0.0.1:2379\"]\n").unwrap();
    add().succeeds();
}

#[test]
fn a_full_pool_and_a_taken_address() {
    let Some(world) = world() else { return };
    let (one, two) = (Netns::new("pod"), Netns::new("pod"));
    let ipam = json!({"type": "calico-ipam", "subnet": "10.3.0.0/31"});
    let conf = world.conf("n", json!({"ipam": ipam}));
    world.call("ADD", &conf).netns(one.path()).args("IP=10.3.0.0").succeeds();
    let before = world.holdings();
    let other = || world.call("ADD", &conf).container(OTHER).netns(two.path());
    let said = other().args("IP=10.3.0.0").fails(101);
    assert!(said.contains("10.3.0.0") && said.contains(POD), "{said}");
    assert_eq!(world.holdings(), before);
    // Both or none.
    other().args("IP=10.3.0.1,10.3.0.0").fails(101);
    assert_eq!(world.holdings(), before);
    other().succeeds();
    let third = Netns::new("pod");
    let full = world.holdings();
    let said = world.call("ADD", &conf).container("third").netns(third.path()).fails(100);
    assert!(said.contains("10-3-0-0-31"), "{said}");
    assert_eq!((world.holdings(), third.links()), (full, vec![]));
}

#[test]
fn an_interface_that_is_there_is_not_touched() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({}));
    // Another plugin's.
    drop(pod.ip("link add eth0 type veth peer name eth9"));
    let said = world.call("ADD", &conf).netns(pod.path()).fails(4);
    assert!(said.contains("eth0 already"), "{said}");
    world.call("DEL", &conf).netns(pod.path()).succeeds();
    assert_eq!(pod.links(), ["eth0", "eth9"], "another plugin's interface was removed");
    assert_eq!(world.holdings(), [""; 0]);
    // Our own: the runtime must not add twice, and the pod keeps what it has.
    drop(pod.ip("link del eth0"));
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    let before = world.holdings();
    world.call("ADD", &conf).netns(pod.path()).fails(4);
    assert_eq!((world.holdings(), pod.links()), (before, vec!["eth0".to_owned()]));
}

/// The runtime made the namespace anew and asks again, without a DEL.
#[test]
fn an_earlier_add_of_the_same_interface_is_cleaned_up() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    for record in [true, false] {
        let (one, two) = (Netns::new("pod"), Netns::new("pod"));
        world.call("ADD", &conf).netns(one.path()).succeeds();
        if !record {
            std::fs::remove_dir_all(world.path("state/attachments")).unwrap();
        }
        world.call("ADD", &conf).netns(two.path()).succeeds();
        assert_eq!((one.links(), two.links()), (vec![], vec!["eth0".to_owned()]));
        let allocated = world.holdings().into_iter().filter(|held| held.contains('#')).count();
        assert_eq!(allocated, 1, "with a record: {record}");
        world.call("DEL", &conf).netns(two.path()).succeeds();
        assert_eq!(world.holdings(), [""; 0]);
    }
}

#[test]
fn an_answer_that_nobody_reads_is_a_failure() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({}));
    let mut child = world.call("ADD", &conf).netns(pod.path()).stdout("/dev/full").spawn();
    assert!(!child.wait().unwrap().success());
    nothing_is_left(&world, &pod, "/dev/full");
    assert_eq!(world.stored(&format!("{RESOURCES}profiles/")).len(), 1, "the network's own stays");
}
