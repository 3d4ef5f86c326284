//! What `inspect`, `exists` and `host_mtu` say.

use calico_cni::network::{self, Found, Plan};
use calico_datastore::model::Family;

use super::world::{Netns, World, world};
use super::{ips, name, plan, second};

fn found(world: &World, pod: &Netns, ifname: &str) -> Option<Found> {
    world.run(async || network::inspect(&pod.path(), &name(ifname)).await.unwrap())
}

#[test]
fn what_was_made_is_found() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    assert_eq!(found(&world, &pod, "eth0"), None);
    let made = world.run(async || network::create(&plan(&pod)).await.unwrap());
    let expected = Found {
        mac: made.mac,
        mtu: 1430,
        up: true,
        addresses: ips(&["10.65.0.2", "fd80::2"]),
        host_name: Some(name("cali1")),
        default_routes: vec![Family::V4, Family::V6],
        neighbours: vec![Family::V4, Family::V6],
    };
    assert_eq!(found(&world, &pod, "eth0"), Some(expected.clone()));
    assert_eq!(found(&world, &pod, "eth1"), None);
    world.run(async || network::create(&second(&pod)).await.unwrap());
    let further = found(&world, &pod, "eth1").unwrap();
    assert_eq!((further.default_routes.len(), further.neighbours.len()), (0, 2));
    assert_eq!(further.host_name, Some(name("cali2")));
    // The second does not show in the first.
    assert_eq!(found(&world, &pod, "eth0"), Some(expected.clone()));

    for (change, now) in [
        (
            "neigh del 169.254.1.1 dev eth0",
            Found { neighbours: vec![Family::V6], ..expected.clone() },
        ),
        (
            "-6 route del default dev eth0",
            Found { neighbours: vec![Family::V6], default_routes: vec![Family::V4], ..expected },
        ),
    ] {
        pod.ip(change);
        assert_eq!(found(&world, &pod, "eth0"), Some(now), "{change}");
    }
    pod.ip("link set eth0 down");
    assert!(!found(&world, &pod, "eth0").unwrap().up);

    let gone = pod.path();
    drop(pod);
    assert_eq!(world.run(async || network::inspect(&gone, &name("eth0")).await.unwrap()), None);
}

#[test]
fn a_peer_elsewhere_is_none_of_the_hosts() {
    let Some(world) = world() else { return };
    let (one, two) = (world.pod(), world.pod());
    // The host has a veth with the index that the peer has elsewhere.
    world.host.ip("link add cali1 index 77 type veth peer name other index 78");
    one.ip(&format!("link add eth0 index 78 type veth peer name far index 77 netns {}", two.name));
    assert_eq!(found(&world, &one, "eth0").unwrap().host_name, None);
    // The same with the pod's namespace at both ends.
    world.host.ip("link del cali1");
    let line = "link add cali1 index 77 type veth peer name eth5 index 80 netns";
    world.host.ip(&format!("{line} {}", one.name));
    assert_eq!(found(&world, &one, "eth0").unwrap().host_name, None);
    assert_eq!(found(&world, &one, "eth5").unwrap().host_name, Some(name("cali1")));
    // Both sides inside.
    one.ip("link add eth1 type veth peer name eth2");
    assert_eq!(found(&world, &one, "eth1").unwrap().host_name, None);
}

#[test]
fn a_host_side_exists_or_not() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let exists = || world.run(async || network::exists(&name("cali1")).await.unwrap());
    assert!(!exists());
    world.run(async || network::create(&plan(&pod)).await.unwrap());
    assert!(exists());
    // Another namespace's is another one.
    assert!(!pod.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(network::exists(&name("cali1"))).unwrap()
    }));
}

#[test]
fn the_hosts_mtu_is_that_of_its_default_routes() {
    let Some(world) = world() else { return };
    let mtu = || world.run(async || network::host_mtu().await.unwrap());
    // Pods' interfaces do not count, nor does a bridge.
    let pod = world.pod();
    world.run(async || network::create(&Plan { mtu: 1300, ..plan(&pod) }).await.unwrap());
    world.host.ip("link add br0 up type bridge");
    assert_eq!(mtu(), None);
    for (device, bytes, net) in [("up0", 9000, "192.0.2"), ("up1", 1400, "198.51.100")] {
        world.host.ip(&format!("link add {device} mtu {bytes} up type bridge"));
        world.host.ip(&format!("addr add {net}.1/24 dev {device}"));
    }
    world.host.ip("route add default via 192.0.2.254");
    assert_eq!(mtu(), Some(9000));
    world.host.ip("route replace default nexthop via 192.0.2.254 nexthop via 198.51.100.254");
    assert_eq!(mtu(), Some(1400));
}
