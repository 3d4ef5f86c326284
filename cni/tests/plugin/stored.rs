//! What ADD answers, makes and stores.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{HOST_ADDRESS, Netns, OTHER, POD, RESOURCES, world};

/// Byte for byte what the original stores, but for what is drawn or told by a clock.
#[test]
fn a_pod_of_rkt() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let conf = world.conf("network1", json!({"cniVersion": "0.1.0"}));
    let answer = world.call("ADD", &conf).netns(pod.path()).succeeds();
    let address = answer["ip4"]["ip"].as_str().unwrap().to_owned();
    assert!(address.starts_with("192.168.") && address.ends_with("/32"), "{answer}");
    assert_eq!(answer["ip4"]["gateway"], HOST_ADDRESS, "rkt forwards ports over that interface");
    assert!(answer.get("ips").is_none() && answer.get("interfaces").is_none(), "{answer}");

    let link = &pod.ip("address show dev eth0")[0];
    let bare = address.trim_end_matches("/32");
    assert_eq!(link["addr_info"][0]["local"], bare);
    let mac = link["address"].as_str().unwrap();
    assert_eq!(world.host.links(), ["calic89f2f35-1b"]);
    assert_eq!(pod.ip("route get 1.2.3.4")[0]["gateway"], "169.254.1.1");

    let name = "calico--01-cni-c89f2f35--1b7e--4a57--9d6c--0f8e2b6a4d11-eth0";
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let (key, text) = endpoints.first_key_value().unwrap();
    assert_eq!(*key, format!("{RESOURCES}workloadendpoints/default/{name}"));
    let stored: Value = serde_json::from_str(text).unwrap();
    let (uid, born) = (&stored["metadata"]["uid"], &stored["metadata"]["creationTimestamp"]);
    let expected = format!(
        r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","namespace":"default","uid":{uid},"creationTimestamp":{born},"labels":{{"projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"cni"}}}},"spec":{{"orchestrator":"cni","node":"calico-01","containerID":"{POD}","endpoint":"eth0","ipNetworks":["{address}"],"profiles":["network1"],"interfaceName":"calic89f2f35-1b","mac":"{mac}"}}}}"#
    );
    assert_eq!(*text, expected);

    let profiles = world.stored(&format!("{RESOURCES}profiles/"));
    assert_eq!(profiles.len(), 1);
    let profile: Value =
        serde_json::from_str(&profiles[&format!("{RESOURCES}profiles/network1")]).unwrap();
    let spec = r#"{"ingress":[{"action":"Allow","source":{"selector":"has(network1)"},"destination":{}}],"egress":[{"action":"Allow","source":{},"destination":{}}],"labelsToApply":{"network1":""}}"#;
    assert_eq!(
        profile["spec"].to_string(),
        serde_json::from_str::<Value>(spec).unwrap().to_string()
    );

    let handles = world.stored("/calico/ipam/v2/handle/");
    assert_eq!(
        handles.keys().collect::<Vec<_>>(),
        [&format!("/calico/ipam/v2/handle/network1.{POD}")]
    );
    let blocks = world.stored("/calico/ipam/v2/assignment/");
    let block: Value = serde_json::from_str(blocks.values().next().unwrap()).unwrap();
    let attribute = &block["attributes"][0];
    assert_eq!(attribute["handle_id"], format!("network1.{POD}"));
    assert_eq!(attribute["secondary"]["node"], "calico-01");
    assert!(attribute["secondary"]["timestamp"].as_str().unwrap().ends_with(" +0000 UTC"));
    assert_eq!(attribute["secondary"].as_object().unwrap().len(), 2);
    assert_eq!(world.records(), [format!("{POD}.lock"), format!("{POD}_eth0.json")]);
}

#[test]
fn each_version_has_its_shape() {
    let Some(world) = world() else { return };
    for (version, list) in
        [(None, false), (Some("0.2.0"), false), (Some("0.3.1"), true), (Some("1.1.0"), true)]
    {
        let pod = Netns::new("pod");
        let more = version.map_or_else(|| json!({}), |version| json!({"cniVersion": version}));
        let conf = world.conf("n", more);
        let answer = world.call("ADD", &conf).netns(pod.path()).succeeds();
        assert_eq!(answer.get("ips").is_some(), list, "{version:?}: {answer}");
        assert_eq!(answer.get("ip4").is_some(), !list, "{version:?}: {answer}");
        if list {
            assert_eq!(answer["ips"][0]["gateway"], "169.254.1.1");
            assert_eq!(answer["ips"][0]["interface"], 1);
            assert_eq!(answer["interfaces"][1]["sandbox"], pod.path().to_str().unwrap());
            assert_eq!(answer["interfaces"][0]["name"], "calic89f2f35-1b");
            assert_eq!(answer["interfaces"][1].get("mtu").is_some(), version == Some("1.1.0"));
        }
        world.call("DEL", &conf).netns(pod.path()).succeeds();
        assert_eq!(world.holdings(), [""; 0]);
    }
}

#[test]
fn a_subnet_becomes_a_pool_and_an_existing_profile_stays() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    world.put("profiles/old", r#"{"spec":{"egress":[]},"mine":true}"#);
    let ipam = json!({"type": "calico-ipam", "subnet": "10.1.0.0/28"});
    let conf = world.conf("old", json!({"ipam": ipam, "labels": {"tier": "a", "role": "net"}}));
    let args = "IP=10.1.0.9;K8S_POD_NAME=foo;label.role=pod;label.owner=me;IgnoreUnknown=1";
    let answer = world.call("ADD", &conf).netns(pod.path()).args(args).succeeds();
    assert_eq!(answer["ip4"]["ip"], "10.1.0.9/32");
    let pools = world.stored(&format!("{RESOURCES}ippools/"));
    let pool: Value =
        serde_json::from_str(&pools[&format!("{RESOURCES}ippools/10-1-0-0-28")]).unwrap();
    assert_eq!(pool["spec"]["blockSize"], 28);
    let profile =
        &world.stored(&format!("{RESOURCES}profiles/"))[&format!("{RESOURCES}profiles/old")];
    assert!(
        profile.contains(r#""mine":true"#),
        "an administrator's profile was changed: {profile}"
    );
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let endpoint: Value = serde_json::from_str(endpoints.values().next().unwrap()).unwrap();
    let labels = &endpoint["metadata"]["labels"];
    assert_eq!(
        (&labels["tier"], &labels["role"], &labels["owner"]),
        (&json!("a"), &json!("net"), &json!("me"))
    );
    // Without a wish the address is from that subnet, not from the other pool.
    let second = Netns::new("pod");
    let call = world.call("ADD", &conf).container(OTHER).netns(second.path());
    assert!(call.succeeds()["ip4"]["ip"].as_str().unwrap().starts_with("10.1.0."));
}

#[test]
fn two_networks_and_two_interfaces_in_one_pod() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    let (first, second) = (world.conf("n1", json!({})), world.conf("n2", json!({})));
    world.call("ADD", &first).netns(pod.path()).succeeds();
    world.call("ADD", &second).netns(pod.path()).ifname("eth1").succeeds();
    // A third on the first one's network: it shares the handle of its addresses.
    world.call("ADD", &first).netns(pod.path()).ifname("eth2").succeeds();
    assert_eq!(pod.links(), ["eth0", "eth1", "eth2"]);
    assert_eq!(world.host.links().len(), 3);
    let endpoints = world.stored(&format!("{RESOURCES}workloadendpoints/"));
    let nets: BTreeSet<_> = endpoints
        .values()
        .map(|text| serde_json::from_str::<Value>(text).unwrap()["spec"]["ipNetworks"].to_string())
        .collect();
    assert_eq!((endpoints.len(), nets.len()), (3, 3));
    assert_eq!(pod.ip("route show default").as_array().unwrap().len(), 1);

    world.call("DEL", &first).netns(pod.path()).ifname("eth2").succeeds();
    assert_eq!(pod.links(), ["eth0", "eth1"]);
    let allocated = world.holdings().into_iter().filter(|held| held.contains('#')).count();
    assert_eq!(allocated, 2, "the address of eth0 was given back with that of eth2");
    world.call("DEL", &first).netns(pod.path()).succeeds();
    world.call("DEL", &second).netns(pod.path()).ifname("eth1").succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}

/// Another plugin made the pod's first interface; or there is none that leads anywhere.
#[test]
fn default_routes_are_the_first_interfaces() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({"cniVersion": "1.0.0"}));
    for (routes, name) in [(true, "net1"), (false, "eth1")] {
        let pod = Netns::new("pod");
        drop(pod.ip("link add eth0 type veth peer name peer"));
        drop(pod.ip("addr add 10.50.0.2/24 dev eth0"));
        drop(pod.ip("link set eth0 up"));
        drop(pod.ip("link set peer up"));
        if routes {
            drop(pod.ip("route add default via 10.50.0.1"));
        }
        let call = |command| world.call(command, &conf).netns(pod.path()).ifname(name);
        let answer = call("ADD").succeeds();
        let through = &pod.ip("route show default")[0]["dev"];
        assert_eq!(through, if routes { "eth0" } else { name });
        let told = answer["routes"].as_array().map_or(0, Vec::len);
        assert_eq!(told, usize::from(!routes), "{answer}");
        call("DEL").succeeds();
        assert_eq!(world.holdings(), [""; 0]);
        assert_eq!(pod.links(), ["eth0", "peer"]);
    }
}

/// Everything in files: no etcd, no ClusterInformation.
#[test]
fn a_host_without_etcd() {
    let Some(mut world) = world() else { return };
    world.stop_etcd();
    let pod = Netns::new("pod");
    let resources = world.path("etc/resources");
    std::fs::create_dir(&resources).unwrap();
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: first}\n\
                spec: {cidr: 10.60.0.0/24}\n";
    std::fs::write(resources.join("pools.yaml"), pool).unwrap();
    let conf = world.conf("n", json!({"datastore": format!("dir:{}", resources.display())}));
    let add = || world.call("ADD", &conf).netns(pod.path());
    let answer = add().args("IP=10.60.0.7").succeeds();
    assert_eq!(answer["ip4"]["ip"], "10.60.0.7/32");
    let second = Netns::new("pod");
    let other = || world.call("ADD", &conf).container(OTHER).netns(second.path());
    assert!(other().args("IP=10.60.0.7").fails(101).contains("10.60.0.7"));
    other().args("IP=10.60.0.8").succeeds();
    for (id, pod) in [(POD, &pod), (OTHER, &second)] {
        world.call("DEL", &conf).container(id).netns(pod.path()).succeeds();
    }
    assert_eq!((world.host.links(), world.records()), (vec![], vec![]));
    // The addresses are free again, and the same pod may come back.
    add().args("IP=10.60.0.8").succeeds();
    let files = std::fs::read_dir(&resources).unwrap().count();
    assert_eq!(files, 1, "the administrator's directory was written to");
}

#[test]
fn both_families() {
    let Some(world) = world() else { return };
    let pod = Netns::new("pod");
    world.put(
        "ippools/six",
        r#"{"spec":{"cidr":"fd80:24e2:f998:72d6::/64","blockSize":122,"nodeSelector":"all()"}}"#,
    );
    let ipam = json!({"type": "calico-ipam", "assign_ipv6": "true"});
    let conf = world.conf("n", json!({"ipam": ipam}));
    let answer = world.call("ADD", &conf).netns(pod.path()).succeeds();
    let six = answer["ip6"]["ip"].as_str().unwrap();
    assert!(six.starts_with("fd80:24e2:f998:72d6:") && six.ends_with("/128"), "{answer}");
    assert!(answer["ip4"]["ip"].is_string(), "{answer}");
    world.call("DEL", &conf).netns(pod.path()).succeeds();
    assert_eq!(world.holdings(), [""; 0]);
}

#[test]
fn a_name_that_another_pod_has_is_not_taken() {
    let Some(world) = world() else { return };
    let (one, two) = (Netns::new("pod"), Netns::new("pod"));
    let conf = world.conf("n", json!({}));
    world.call("ADD", &conf).netns(one.path()).succeeds();
    // The first 11 characters are the same.
    let twin = "c89f2f35-1b7e-4a57-9d6c-ffffffffffff";
    world.call("ADD", &conf).container(twin).netns(two.path()).succeeds();
    let links = world.host.links();
    assert_eq!(links.len(), 2, "{links:?}");
    // What has neither namespace nor record goes only by what is known to be its own.
    world.call("DEL", &conf).container(twin).succeeds();
    assert_eq!(world.host.links(), ["calic89f2f35-1b"]);
    assert_eq!((one.links(), two.links()), (vec!["eth0".to_owned()], vec![]));
}

#[test]
fn sixteen_at_once_have_sixteen_addresses() {
    let Some(world) = world() else { return };
    let pods: Vec<_> = (0..16).map(|_| Netns::new("pod")).collect();
    let ipam = json!({"type": "calico-ipam", "subnet": "10.2.0.0/24"});
    let conf = world.conf("n", json!({"ipam": ipam}));
    let id = |at: usize| format!("{at:02}000000-1b7e-4a57-9d6c-0f8e2b6a4d11");
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(at, pod)| {
                let (world, conf) = (&world, &conf);
                scope.spawn(move || {
                    world.call("ADD", conf).container(&id(at)).netns(pod.path()).succeeds()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: BTreeSet<_> = answers.iter().map(|a| a["ip4"]["ip"].to_string()).collect();
    assert_eq!(addresses.len(), 16, "{addresses:?}");
    for (at, pod) in pods.iter().enumerate() {
        world.call("DEL", &conf).container(&id(at)).netns(pod.path()).succeeds();
    }
    assert_eq!(world.holdings(), [""; 0]);
}
