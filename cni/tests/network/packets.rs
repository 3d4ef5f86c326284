//! Packets between a host and its pods, on a host without a default route: nothing but the
//! neighbour entries leads to the gateways.

use calico_cni::network;

use super::world::{Netns, World, world};
use super::{ips, name, plan, second};

/// The host's own addresses, on its loopback.
const HOST: [&str; 2] = ["10.99.0.1", "fd99::1"];
const POD: [&str; 2] = ["10.65.0.2", "fd80::2"];

fn prepare(world: &World) {
    world.host.ip("link set lo up");
    for address in HOST {
        // On a busy machine an IPv6 address stays tentative for a while, even that of a loopback.
        let at_once = if address.contains(':') { " nodad" } else { "" };
        world.host.ip(&format!("addr add {address} dev lo{at_once}"));
    }
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        world.host.write(key, "1");
    }
}

fn route(world: &World, addresses: &[&str], device: &str) {
    for address in addresses {
        world.host.ip(&format!("route add {address} dev {device}"));
    }
}

/// Both families, from the pod and to it.
fn talks(world: &World, pod: &Netns) -> [bool; 4] {
    let out = |n: usize| pod.reaches(POD[n], &world.host, HOST[n], "");
    let back = |n: usize| world.host.reaches(HOST[n], pod, POD[n], "");
    [out(0), back(0), out(1), back(1)]
}

#[test]
fn both_families_pass_once_the_host_has_routes() {
    let Some(world) = world() else { return };
    prepare(&world);
    let pod = world.pod();
    world.run(async || network::create(&plan(&pod)).await.unwrap());
    assert_eq!(talks(&world, &pod), [false; 4], "the host has no route to the pod");
    route(&world, &POD, "cali1");
    assert_eq!(talks(&world, &pod), [true; 4]);

    // Nobody answers for 169.254.1.1.
    pod.ip("neigh del 169.254.1.1 dev eth0");
    assert_eq!(talks(&world, &pod)[..2], [false; 2]);
    pod.ip("neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent");
    assert_eq!(talks(&world, &pod), [true; 4]);

    // Down, and up again: the IPv6 gateway is back, without a second of doubt.
    world.host.ip("link set cali1 down");
    assert_eq!(talks(&world, &pod), [false; 4]);
    world.host.ip("link set cali1 up");
    route(&world, &POD, "cali1");
    assert_eq!(talks(&world, &pod), [true; 4]);
}

#[test]
fn the_first_packet_between_two_new_pods_arrives() {
    let Some(world) = world() else { return };
    prepare(&world);
    let (one, two) = (world.pod(), world.pod());
    let other = network::Plan {
        host_name: name("cali9"),
        addresses: ips(&["10.65.0.9", "fd80::9"]),
        ..plan(&two)
    };
    world.run(async || {
        network::create(&plan(&one)).await.unwrap();
        network::create(&other).await.unwrap();
    });
    route(&world, &POD, "cali1");
    assert!(!one.reaches(POD[1], &two, "fd80::9", ""));
    route(&world, &["10.65.0.9", "fd80::9"], "cali9");
    assert!(one.reaches(POD[1], &two, "fd80::9", ""));
    assert!(one.reaches(POD[0], &two, "10.65.0.9", ""));
}

#[test]
fn a_further_interface_answers_by_itself() {
    let Some(world) = world() else { return };
    prepare(&world);
    let pod = world.pod();
    let further = ["10.66.0.2", "fd81::2"];
    // The pod and the host both check where a packet comes from.
    for ns in [&world.host, &pod] {
        ns.write("ipv4/conf/all/rp_filter", "1");
    }
    world.run(async || {
        network::create(&plan(&pod)).await.unwrap();
        network::create(&second(&pod)).await.unwrap();
    });
    route(&world, &POD, "cali1");
    route(&world, &further, "cali2");
    assert_eq!(talks(&world, &pod), [true; 4]);
    let asks = || further.iter().zip(HOST).all(|(to, own)| world.host.reaches(own, &pod, to, ""));
    let begins = || further.iter().zip(HOST).all(|(own, to)| pod.reaches(own, &world.host, to, ""));
    assert!(asks() && begins());

    // Without the first interface, the answers do not go there.
    world.host.ip("link set cali1 down");
    assert!(asks() && begins());
    for (family, from) in [("-4", further[0]), ("-6", further[1])] {
        pod.ip(&format!("{family} rule del from {from}"));
    }
    for (to, own) in further.iter().zip(HOST) {
        assert!(!world.host.reaches(own, &pod, to, ""), "{to} without its rule");
    }
}
