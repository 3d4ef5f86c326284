//! DEL, whatever is left of the pod.

use serde_json::json;

use crate::world::{Netns, OTHER, RESOURCES, world};

#[test]
fn nothing_is_left_in_any_case() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    for case in [
        "as usual",
        "no CNI_NETNS",
        "namespace gone",
        "reboot",
        "no record",
        "twice",
        "interface gone",
    ] {
        let pod = Netns::new("pod");
        let path = pod.path();
        world.call("ADD", &conf).netns(&path).succeeds();
        assert!(world.holdings().len() >= 5, "{case}: {:?}", world.holdings());
        let del = world.call("DEL", &conf);
        let del = match case {
            "no CNI_NETNS" => del,
            "namespace gone" => {
                drop(pod);
                del.netns(&path)
            }
            "reboot" => {
                drop(pod);
                del
            }
            "no record" => {
                std::fs::remove_dir_all(world.path("state/attachments")).unwrap();
                del.netns(&path)
            }
            "interface gone" => {
                drop(world.host.ip("link del calic89f2f35-1b"));
                del.netns(&path)
            }
            _ => del.netns(&path),
        };
        del.succeeds();
        if case == "twice" {
            del.succeeds();
        }
        assert_eq!(world.holdings(), [""; 0], "{case}");
    }
}

#[test]
fn another_pod_is_left_alone() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    let (one, two) = (Netns::new("pod"), Netns::new("pod"));
    world.call("ADD", &conf).netns(one.path()).succeeds();
    let before = world.holdings();
    let rest = || {
        let now = world.holdings();
        now.into_iter().filter(|held| !held.ends_with(".lock")).collect::<Vec<_>>()
    };
    let expected: Vec<_> = before.iter().filter(|h| !h.ends_with(".lock")).cloned().collect();
    // One that never was, also with the namespace of the first.
    world.call("DEL", &conf).container(OTHER).netns(two.path()).succeeds();
    world.call("DEL", &conf).container(OTHER).netns(one.path()).succeeds();
    world.call("DEL", &conf).ifname("eth1").netns(one.path()).succeeds();
    assert_eq!(rest(), expected);
    assert_eq!(one.links(), ["eth0"]);
}

#[test]
fn the_host_was_renamed_meanwhile() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    let pod = Netns::new("pod");
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    std::fs::write(world.path("state/nodename"), "another").unwrap();
    world.call("DEL", &conf).netns(pod.path()).succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}

#[test]
fn without_the_datastore_the_interface_goes_and_the_rest_is_remembered() {
    let Some(mut world) = world() else { return };
    let conf = world.conf("n", json!({}));
    let pod = Netns::new("pod");
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    world.stop_etcd();
    let said = world.call("DEL", &conf).netns(pod.path()).fails(11);
    assert!(said.contains("127.0.0.1:2379") || said.contains("4001"), "{said}");
    assert_eq!((world.host.links(), pod.links()), (vec![], vec![]));
    let record = world.path("state/attachments").join(format!("{}_eth0.json", crate::world::POD));
    let record = std::fs::read_to_string(record).unwrap();
    assert!(record.contains(r#""stage": "deleting""#), "{record}");
    world.start_etcd();
    assert_eq!(world.stored(&format!("{RESOURCES}workloadendpoints/")).len(), 1);
    // What the agent's collector does, somebody may do by hand as well.
    world.call("DEL", &conf).succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}

/// Somebody edited the configuration while the pod ran, or no ADD ever took it.
#[test]
fn a_configuration_that_add_refuses() {
    let Some(world) = world() else { return };
    let good = world.conf("n", json!({}));
    for (case, more) in [
        ("a bad field", json!({"mtu": "wide"})),
        ("no name", json!({"name": ""})),
        ("a bad name", json!({"name": "a/b"})),
        ("no node name", json!({"nodename_file": "/none", "nodename": ""})),
        ("a bad pool", json!({"ipam": {"type": "calico-ipam", "subnet": "x"}})),
    ] {
        let bad = world.conf("n", more);
        let pod = Netns::new("pod");
        world.call("ADD", &bad).netns(pod.path()).fails(7);
        world.call("DEL", &bad).netns(pod.path()).succeeds();
        world.call("ADD", &good).netns(pod.path()).succeeds();
        world.call("DEL", &bad).netns(pod.path()).succeeds();
        assert_eq!((world.holdings(), pod.links()), (vec![], vec![]), "{case}");
    }
    // What says where the datastore is has no substitute: the rest goes, and the record stays.
    let bad = world.conf("n", json!({"etcd_endpoints": "h:1"}));
    let pod = Netns::new("pod");
    world.call("ADD", &good).netns(pod.path()).succeeds();
    let said = world.call("DEL", &bad).netns(pod.path()).fails(7);
    assert!(said.contains("etcd_endpoints"), "{said}");
    assert_eq!((world.host.links(), pod.links()), (vec![], vec![]));
    assert_eq!(world.stored(&format!("{RESOURCES}workloadendpoints/")).len(), 1);
    let said = std::fs::read_to_string(world.path("state/attachments").join(&world.records()[1]));
    assert!(said.unwrap().contains(r#""stage": "deleting""#));
    world.call("DEL", &good).succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}
