//! What is there afterwards, as `ip` shows it.

use calico_cni::network;
use serde_json::{Value, json};

use super::world::{Netns, world};
use super::{ips, name, plan, second};

/// Picks some members of an object.
fn pick(value: &Value, keys: &[&str]) -> Value {
    keys.iter()
        .map(|key| ((*key).to_owned(), value[*key].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn link(ns: &Netns, name: &str) -> Value {
    ns.list(&format!("addr show dev {name}")).remove(0)
}

/// (address, prefix length, whether it is checked or has been found to be a duplicate) of one scope.
fn addresses(ns: &Netns, device: &str, scope: &str) -> Vec<(String, u64, bool)> {
    let link = link(ns, device);
    let list = link["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] == scope);
    list.map(|a| {
        let checked = a.get("tentative").is_some() || a.get("dadfailed").is_some();
        (a["local"].as_str().unwrap().to_owned(), a["prefixlen"].as_u64().unwrap(), checked)
    })
    .collect()
}

/// Routes over a device, as `destination via gateway scope`.
fn routes(ns: &Netns, family: &str, table: &str) -> Vec<String> {
    let list = ns.list(&format!("{family} route show table {table}"));
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines: Vec<String> = list
        .iter()
        .filter(|route| route["dst"] != "fe80::/64" && route["type"] == "unicast")
        .map(|route| {
            let part = |key: &str| text(&route[key]);
            format!(
                "{} via {} dev {} {}",
                part("dst"),
                part("gateway"),
                part("dev"),
                part("protocol")
            )
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_first_interface_is_as_promised() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    // A host that makes no link-local addresses.
    world.host.write("ipv6/conf/default/addr_gen_mode", "1");
    let plan = network::Plan { mac: Some("ca:11:c0:00:00:02".parse().unwrap()), ..plan(&pod) };
    let made = world.run(async || network::create(&plan).await.unwrap());
    assert_eq!(Some(made.mac), plan.mac);

    let outside = link(&world.host, "cali1");
    assert_eq!(
        pick(&outside, &["address", "mtu", "operstate"]),
        json!({"address": "ee:ee:ee:ee:ee:ee", "mtu": 1430, "operstate": "UP"})
    );
    let outside = world.host.list("link show dev cali1").remove(0);
    assert_eq!(outside["inet6_addr_gen_mode"], "eui64");
    assert_eq!(outside["linkinfo"]["info_kind"], "veth");
    // At once, not after a duplicate address detection.
    let gateway = ("fe80::ecee:eeff:feee:eeee".to_owned(), 64, false);
    assert_eq!(addresses(&world.host, "cali1", "link"), [gateway]);
    assert_eq!(addresses(&world.host, "cali1", "global"), []);

    let inside = link(&pod, "eth0");
    assert_eq!(
        pick(&inside, &["address", "mtu", "operstate"]),
        json!({"address": "ca:11:c0:00:00:02", "mtu": 1430, "operstate": "UP"})
    );
    let own = [("10.65.0.2".to_owned(), 32, false), ("fd80::2".to_owned(), 128, false)];
    assert_eq!(addresses(&pod, "eth0", "global"), own);
    let flags = link(&pod, "lo")["flags"].clone();
    assert!(flags.as_array().unwrap().contains(&json!("UP")), "{flags}");

    assert_eq!(
        routes(&pod, "-4", "main"),
        ["169.254.1.1 via - dev eth0 boot", "default via 169.254.1.1 dev eth0 boot"]
    );
    assert_eq!(pod.list("-4 route show 169.254.1.1")[0]["scope"], "link");
    assert_eq!(
        routes(&pod, "-6", "main"),
        ["default via fe80::ecee:eeff:feee:eeee dev eth0 boot", "fd80::2 via - dev eth0 kernel"]
    );
    let mut neighbours: Vec<Value> = pod
        .list("neigh show dev eth0 nud permanent")
        .iter()
        .map(|entry| pick(entry, &["dst", "lladdr"]))
        .collect();
    neighbours.retain(|entry| !entry["dst"].as_str().unwrap().starts_with("ff02:"));
    neighbours.sort_by_key(ToString::to_string);
    assert_eq!(
        neighbours,
        [
            json!({"dst": "169.254.1.1", "lladdr": "ee:ee:ee:ee:ee:ee"}),
            json!({"dst": "fe80::ecee:eeff:feee:eeee", "lladdr": "ee:ee:ee:ee:ee:ee"}),
        ]
    );
    assert_eq!(pod.read("ipv6/conf/eth0/accept_ra"), "0");
    // No rule of ours: the main table has it.
    assert_eq!(pod.list("-4 rule show").len(), 3);
}

#[test]
fn a_drawn_address_is_told() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let made = world.run(async || network::create(&plan(&pod)).await.unwrap());
    assert_eq!(link(&pod, "eth0")["address"], made.mac.to_string());
    assert_ne!(made.mac.to_string(), network::HOST_MAC);
}

#[test]
fn one_family_leaves_the_other_alone() {
    let Some(world) = world() else { return };
    let (four, six) = (world.pod(), world.pod());
    let v4 = network::Plan { addresses: ips(&["10.65.0.2"]), ..plan(&four) };
    let v6 = network::Plan { addresses: ips(&["fd80::3"]), host_name: name("cali3"), ..plan(&six) };
    world.run(async || {
        network::create(&v4).await.unwrap();
        network::create(&v6).await.unwrap();
    });
    assert_eq!(routes(&four, "-4", "main").len(), 2);
    assert_eq!(routes(&four, "-6", "main"), [""; 0]);
    assert_eq!(routes(&six, "-4", "main"), [""; 0]);
    assert_eq!(routes(&six, "-6", "main").len(), 2);
}

#[test]
fn a_runtime_that_switched_ipv6_off_does_not_matter() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    for ns in [&world.host, &pod] {
        ns.write("ipv6/conf/all/disable_ipv6", "1");
        ns.write("ipv6/conf/default/disable_ipv6", "1");
    }
    pod.write("ipv6/conf/default/accept_ra", "2");
    let with = plan(&pod);
    world.run(async || network::create(&with).await.unwrap());
    assert_eq!(addresses(&pod, "eth0", "global").len(), 2);
    assert_eq!(pod.read("ipv6/conf/eth0/accept_ra"), "0");
    world.host.ip("route add fd80::2 dev cali1");
    assert!(pod.reaches("fd80::2", &world.host, "fe80::ecee:eeff:feee:eeee", "eth0"));
    // Without IPv6 addresses it stays off.
    let other = world.pod();
    other.write("ipv6/conf/default/disable_ipv6", "1");
    let without =
        network::Plan { addresses: ips(&["10.65.0.3"]), host_name: name("cali9"), ..plan(&other) };
    world.run(async || network::create(&without).await.unwrap());
    assert_eq!(other.read("ipv6/conf/eth0/disable_ipv6"), "1");
    assert_eq!(world.host.read("ipv6/conf/cali9/disable_ipv6"), "1");
}

#[test]
fn many_addresses() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    let mut addresses_wanted = ips(&["fd80::2"]);
    // More requests than one batch takes.
    addresses_wanted.extend((1..=100).map(|n| std::net::IpAddr::from([10, 65, 1, n])));
    let plan = network::Plan { addresses: addresses_wanted, ..plan(&pod) };
    world.run(async || network::create(&plan).await.unwrap());
    assert_eq!(addresses(&pod, "eth0", "global").len(), 101);
    assert_eq!(routes(&pod, "-4", "main").len(), 2);
}

#[test]
fn a_further_interface_has_a_table_of_its_own() {
    let Some(world) = world() else { return };
    let pod = world.pod();
    world.run(async || {
        network::create(&plan(&pod)).await.unwrap();
        network::create(&second(&pod)).await.unwrap();
    });
    let main = routes(&pod, "-4", "main");
    assert!(main.iter().all(|route| route.contains("dev eth0")), "{main:?}");
    let table = (1_000_000 + link(&pod, "eth1")["ifindex"].as_u64().unwrap()).to_string();
    assert_eq!(
        routes(&pod, "-4", &table),
        ["169.254.1.1 via - dev eth1 boot", "default via 169.254.1.1 dev eth1 boot"]
    );
    assert_eq!(routes(&pod, "-6", &table), ["default via fe80::ecee:eeff:feee:eeee dev eth1 boot"]);
    for (family, source) in [("-4", "10.66.0.2"), ("-6", "fd81::2")] {
        let rules = pod.list(&format!("{family} rule show"));
        let own: Vec<&Value> = rules.iter().filter(|rule| rule["table"] == table).collect();
        assert_eq!(own.len(), 1, "{rules:?}");
        assert_eq!((&own[0]["src"], &own[0]["priority"]), (&json!(source), &json!(20000)));
    }
    // Made again, the rules do not pile up; removed from inside, none stays.
    let again = second(&pod);
    let before = pod.list("-4 rule show").len();
    let gone = world.run(async || {
        assert!(network::delete(&again.host_name).await.unwrap());
        network::create(&again).await.unwrap();
        assert_eq!(pod.list("-4 rule show").len(), before);
        network::delete_inside(&again.netns, &again.ifname).await.unwrap()
    });
    assert!(gone);
    assert_eq!(world.host.interfaces(), ["cali1"]);
    assert_eq!((pod.list("-4 rule show").len(), pod.list("-6 rule show").len()), (3, 2));
}
