//! CHECK, GC, STATUS, VERSION, and the binary as `calico-ipam`.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use calico_cni::attachment::Attachments;
use serde_json::{Value, json};

use crate::world::{Netns, OTHER, POD, RESOURCES, world};

#[test]
fn check_tells_every_difference() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let mut conf = world.conf("n", json!({"cniVersion": "0.4.0"}));
    let answer = world.call("ADD", &conf).netns(pod.path()).succeeds();
    world.call("CHECK", &conf).netns(pod.path()).fails(7);
    conf["prevResult"] = answer;
    let check = || world.call("CHECK", &conf).netns(pod.path());
    check().succeeds();
    drop(pod.ip("route del default"));
    drop(pod.ip("neigh del 169.254.1.1 dev eth0"));
    let said = check().fails(105);
    assert!(said.contains("no default route of IPv4") && said.contains("neighbour"), "{said}");
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let key = endpoints.keys().next().unwrap().clone();
    world.store(async |store| store.delete(&key).await.unwrap());
    let said = check().fails(105);
    assert!(said.contains("is not in the datastore"), "{said}");
    drop(world.host.ip("link del calic89f2f35-1b"));
    assert!(check().fails(105).contains("the interface is gone"));
}

#[test]
fn gc_removes_what_is_no_valid_attachment_and_nothing_else() {
    let Some(world) = world() else { return };
    let conf = |network: &str| world.conf(network, json!({"cniVersion": "1.1.0"}));
    let pods: Vec<_> = (0..4).map(|_| Netns::new("pod")).collect();
    let ids = [POD, OTHER, "third", "fourth"];
    for (at, id) in ids.iter().enumerate() {
        let network = if at == 3 { "n2" } else { "n1" };
        world.call("ADD", &conf(network)).container(id).netns(pods[at].path()).succeeds();
    }
    // One of them is known to the datastore alone.
    std::fs::remove_file(world.path("state/attachments/third_eth0.json")).unwrap();
    let mut gc = conf("n1");
    gc["cni.dev/valid-attachments"] = json!([{"containerID": POD, "ifname": "eth0"}]);
    world.call("GC", &gc).succeeds();
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let left: Vec<_> = endpoints
        .values()
        .map(|t| serde_json::from_str::<Value>(t).unwrap()["spec"]["containerID"].clone())
        .collect();
    assert_eq!(left, [json!(POD), json!("fourth")]);
    assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 2);
    let links: Vec<_> = pods.iter().map(|pod| pod.links().len()).collect();
    assert_eq!(links, [1, 0, 0, 1]);
    // An address that only its handle names.
    let ipam = world.path("bin/calico-ipam");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calico"), &ipam).unwrap();
    world
        .call("ADD", &conf("n1"))
        .program(&ipam)
        .container("fifth")
        .netns(pods[1].path())
        .succeeds();
    assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 3);
    world.call("GC", &gc).succeeds();
    assert_eq!(world.stored("/calico/ipam/v2/handle/").len(), 2);
}

#[test]
fn status_says_what_is_missing() {
    let Some(mut world) = world() else { return };
    let conf = world.conf("n", json!({"cniVersion": "1.1.0"}));
    let protected =
        world.conf("n", json!({"cniVersion": "1.1.0", "policy_setup_timeout_seconds": 5}));
    world.call("STATUS", &conf).succeeds();
    assert!(world.call("STATUS", &protected).fails(51).contains("calico-agent"));
    for (answer, code) in [("HTTP/1.1 200 OK", 0), ("HTTP/1.1 503 Service Unavailable", 51)] {
        let socket = world.path("run/agent.sock");
        let _ = std::fs::remove_file(&socket);
        let agent = UnixListener::bind(&socket).unwrap();
        let served = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = agent.accept().unwrap();
            let mut asked = [0; 1024];
            let read = stream.read(&mut asked).unwrap();
            assert!(asked[..read].starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(format!("{answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        });
        let call = world.call("STATUS", &protected);
        if code == 0 {
            drop(call.succeeds())
        } else {
            drop(call.fails(code))
        }
        served.join().unwrap();
    }
    world.put("ippools/first", r#"{"spec":{"cidr":"192.168.0.0/16","disabled":true}}"#);
    assert!(world.call("STATUS", &conf).fails(50).contains("no pool"));
    world.stop_etcd();
    world.call("STATUS", &conf).fails(50);
}

#[test]
fn version_needs_nothing() {
    let Some(world) = world() else { return };
    let answer = world.call("VERSION", &json!({"cniVersion": "0.4.0"})).succeeds();
    assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
}

#[test]
fn as_calico_ipam_it_only_gives_addresses() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let program = world.path("bin/calico-ipam");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calico"), &program).unwrap();
    let mut conf = world.conf("n", json!({"cniVersion": "0.4.0", "type": "bridge"}));
    let call =
        |command: &str, conf: &Value| world.call(command, conf).program(&program).netns(pod.path());
    let answer = call("ADD", &conf).args("IP=192.168.7.7").succeeds();
    assert_eq!(answer["ips"][0]["address"], "192.168.7.7/32");
    assert!(answer.get("interfaces").is_none_or(|list| list.as_array().unwrap().is_empty()));
    assert_eq!((world.host.links(), pod.links()), (vec![], vec![]));
    assert_eq!(world.stored(&format!("{RESOURCES}workloadendpoints/")).len(), 0);
    let before = world.holdings();
    let said = call("ADD", &conf).container(OTHER).args("IP=192.168.7.7").fails(101);
    assert!(said.contains("192.168.7.7"), "{said}");
    assert_eq!(world.holdings(), before);
    conf["prevResult"] = answer;
    call("CHECK", &conf).succeeds();
    call("DEL", &conf).succeeds();
    call("DEL", &conf).succeeds();
    assert!(call("CHECK", &conf).fails(105).contains("192.168.7.7"));
    assert_eq!(world.holdings().into_iter().filter(|h| h.contains('#')).count(), 0);
}

/// Who cleans up holds a container's lock: no address is given or taken beside him.
#[test]
fn as_calico_ipam_it_waits_for_the_lock_of_the_container() {
    let Some(world) = world() else { return };
    let program = world.path("bin/calico-ipam");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calico"), &program).unwrap();
    let conf = world.conf("n", json!({"cniVersion": "0.4.0", "type": "bridge"}));
    let records = Attachments::in_state_dir(&world.path("state"));
    let handles = || world.stored("/calico/ipam/v2/handle/").len();
    for (command, before, after) in [("ADD", 0, 1), ("DEL", 1, 0)] {
        let held = records.lock(POD, Duration::ZERO).unwrap().unwrap();
        let call = world.call(command, &conf).program(&program).netns("/var/run/netns/none");
        let child = call.spawn();
        // Another container's is another one.
        world.call(command, &conf).program(&program).container(OTHER).netns("/x").succeeds();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(handles(), before + after, "{command}");
        drop(held);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert_eq!(handles(), 2 * after, "{command}");
    }
    assert_eq!(world.records(), [""; 0], "no lock stays");
}
