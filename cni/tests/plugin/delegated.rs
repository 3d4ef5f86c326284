//! A foreign address management plugin, in the directory that `CNI_PATH` names relatively.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::world::{Netns, POD, RESOURCES, World, world};

fn plugin(world: &World, answer: &str) {
    let path = world.path("bin/give");
    let log = world.path("log");
    let script = format!(
        "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >>{}\ncat >/dev/null\n\
         case $CNI_COMMAND in ADD) {answer};; esac\n",
        log.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn told(world: &World) -> Vec<String> {
    let path = world.path("log");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_foreign_plugin_gives_and_takes() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({"ipam": {"type": "give", "subnet": "its own affair"}}));
    let answer = r#"echo '{"ip4":{"ip":"10.77.0.5/24","gateway":"10.77.0.1"},"dns":{"nameservers":["10.77.0.2"]}}'"#;
    plugin(&world, answer);
    let add = || world.call("ADD", &conf).netns(pod.path()).args("IP=10.77.0.5");
    let answer = add().succeeds();
    assert_eq!(answer["ip4"]["ip"], "10.77.0.5/32");
    assert_eq!(answer["dns"]["nameservers"][0], "10.77.0.2");
    assert_eq!(told(&world), [format!("ADD {POD} eth0 IP=10.77.0.5")]);
    assert_eq!(world.stored("/calico/ipam/").len(), 0, "Calico's own gave an address too");
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    assert!(endpoints.values().all(|text| text.contains("10.77.0.5/32")), "{endpoints:?}");
    // With the arguments of the ADD, which the record has.
    world.call("DEL", &conf).succeeds();
    assert_eq!(told(&world), [format!("DEL {POD} eth0 IP=10.77.0.5")]);
    assert_eq!(world.holdings(), [""; 0]);

    plugin(&world, r#"echo '{"code":117,"msg":"all gone","details":"buy more"}'; exit 1"#);
    let said = add().fails(117);
    assert_eq!(said, "all gone; buy more");
    let last = told(&world).pop().unwrap();
    assert!(last.starts_with("DEL "), "it may have given something: {last}");
    assert_eq!((world.holdings(), pod.links()), (vec![], vec![]));
    for answer in ["echo nonsense", "echo '{}'", "exit 3"] {
        plugin(&world, answer);
        add().fails(106);
        assert_eq!((world.holdings(), pod.links()), (vec![], vec![]), "{answer}");
    }
}

#[test]
fn without_the_datastore_it_takes_back_all_the_same() {
    let Some(mut world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("n", json!({"ipam": {"type": "give"}}));
    plugin(&world, r#"echo '{"ip4":{"ip":"10.77.0.5/24"}}'"#);
    world.call("ADD", &conf).netns(pod.path()).succeeds();
    told(&world);
    world.stop_etcd();
    world.call("DEL", &conf).netns(pod.path()).fails(11);
    assert!(told(&world)[0].starts_with(&format!("DEL {POD} eth0")), "it was not told");
    assert!(pod.links().is_empty());
}

/// While GC is at work on one container, another one gets the name of an interface that the next one
/// had: it keeps it.
#[test]
fn gc_leaves_an_interface_to_who_has_its_name_by_then() {
    let Some(world) = world() else { return };
    let conf = |more| world.conf("n", more);
    let given = conf(json!({"cniVersion": "1.1.0", "ipam": {"type": "give"}}));
    let own = conf(json!({"cniVersion": "1.1.0"}));
    plugin(&world, r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.77.0.5/24"}]}'"#);
    let pods = [Netns::new("pod"), Netns::new("pod")];
    world.call("ADD", &given).container("a-first").netns(pods[0].path()).succeeds();
    world.call("ADD", &own).container(POD).netns(pods[1].path()).succeeds();
    let record = world.path(&format!("state/attachments/{POD}_eth0.json"));
    let record = std::fs::read_to_string(record).unwrap();
    let name = "calic89f2f35-1b";
    assert!(record.contains(name), "{record}");
    // Its namespace goes, and its interface with it; another one comes with that name.
    drop(pods);
    while world.host.links().contains(&name.to_owned()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let other = Netns::new("twin");
    world.host.ip(&format!("link add {name} type veth peer name eth0 netns {}", other.0));
    let twin = POD.replace("-0f8e2b6a4d11", "-0f8e2b6a4d12");
    let prepared = world.path("twin.json");
    std::fs::write(&prepared, record.replace(POD, &twin)).unwrap();
    let place = world.path(&format!("state/attachments/{twin}_eth0.json"));
    // The first one's addresses are taken back: the moment in which that happens.
    let script =
        format!("#!/bin/sh\ncat >/dev/null\ncp {} {}\n", prepared.display(), place.display());
    std::fs::write(world.path("bin/give"), script).unwrap();
    let mut gc = own;
    gc["cni.dev/valid-attachments"] = json!([{"containerID": twin, "ifname": "eth0"}]);
    world.call("GC", &gc).succeeds();
    assert_eq!(world.records(), [format!("{twin}_eth0.json")]);
    assert_eq!(world.host.links(), [name]);
    assert!(world.stored(&format!("{RESOURCES}workloadendpoints/")).is_empty());
    // Without the twin nobody has it.
    std::fs::remove_file(&place).unwrap();
    std::fs::write(world.path(&format!("state/attachments/{POD}_eth0.json")), record).unwrap();
    world.call("GC", &gc).succeeds();
    assert_eq!(world.host.links(), [""; 0]);
}
