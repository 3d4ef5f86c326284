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
