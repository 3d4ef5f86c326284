use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::Name;

use super::*;

fn id(name: &str) -> HostEndpointId {
    HostEndpointId { name: Name::from(name) }
}

/// (name, interface or nothing, addresses)
fn hosts(all: &[(&str, &str, &[&str])]) -> HostEndpoints {
    let mut hosts = HostEndpoints::default();
    for (name, interface, addresses) in all {
        let endpoint = LocalHostEndpoint {
            interface: (!interface.is_empty()).then(|| Name::from(*interface)),
            addresses: addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect(),
            ..LocalHostEndpoint::default()
        };
        hosts.endpoints.insert(id(name), Arc::new(endpoint));
    }
    hosts
}

fn links(all: &[(&str, &[&str])]) -> Links {
    let link = |(index, (name, addresses)): (usize, &(&str, &[&str]))| {
        let link = Link {
            index: u32::try_from(index).unwrap() + 1,
            addresses: addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect(),
            ..Link::default()
        };
        (name.parse().unwrap(), link)
    };
    all.iter().enumerate().map(link).collect()
}

fn chosen(hosts: &HostEndpoints, links: &Links) -> Vec<String> {
    let chosen = choose(hosts, links, &Settings::default());
    let named = chosen.interfaces.iter().map(|(name, id)| format!("{name}={}", id.name));
    let all = chosen.all.iter().map(|id| format!("*={}", id.name));
    let idle = chosen.idle.iter().map(|(id, idle)| {
        let sign = if matches!(idle, Idle::Wrong(_)) { '!' } else { '?' };
        format!("{sign}{}", id.name)
    });
    named.chain(all).chain(idle).collect()
}

#[test]
fn a_name_is_taken_whether_the_interface_is_there_or_not() {
    let hosts = hosts(&[("a", "eth0", &[]), ("b", "eth9", &["192.0.2.1"])]);
    let links = links(&[("eth0", &["192.0.2.1"])]);
    assert_eq!(chosen(&hosts, &links), ["eth0=a", "eth9=b"]);
}

#[test]
fn a_name_goes_before_an_address_and_the_lowest_id_before_others() {
    let one = hosts(&[
        ("a", "", &["192.0.2.1"]),
        ("b", "", &["192.0.2.2", "2001:db8::1"]),
        ("c", "", &["192.0.2.2"]),
        ("y", "eth0", &[]),
        ("z", "eth0", &[]),
    ]);
    let links = links(&[
        ("eth0", &["192.0.2.1"]),
        ("eth1", &["192.0.2.2"]),
        ("eth2", &["2001:db8::1", "2001:db8::2"]),
    ]);
    // b is about both of its interfaces.
    assert_eq!(chosen(&one, &links), ["eth0=y", "eth1=b", "eth2=b", "!a", "!c", "!z"]);
    let two = hosts(&[("a", "", &["192.0.2.9"])]);
    assert_eq!(chosen(&two, &links), ["?a"], "nobody holds it yet");
}

#[test]
fn the_interfaces_of_pods_and_excluded_ones_have_none() {
    let hosts = hosts(&[
        ("a", "cali1", &[]),
        ("b", "", &["192.0.2.1"]),
        ("c", "kube-ipvs0", &[]),
        ("d", "", &["192.0.2.2"]),
        ("e", "a-name-that-is-too-long", &[]),
    ]);
    let links = links(&[("cali7", &["192.0.2.1"]), ("kube-ipvs0", &["192.0.2.2"])]);
    assert_eq!(chosen(&hosts, &links), ["!a", "?b", "!c", "?d", "!e"]);
}

#[test]
fn all_interfaces_are_those_that_are_left() {
    let hosts = hosts(&[("a", "eth0", &[]), ("b", "*", &[]), ("c", "*", &[])]);
    let links =
        links(&[("cali7", &[]), ("eth0", &[]), ("eth1", &[]), ("kube-ipvs0", &[]), ("lo", &[])]);
    assert_eq!(chosen(&hosts, &links), ["eth0=a", "*=b", "!c"]);
    let settings = Settings::default();
    let chosen = choose(&hosts, &links, &settings);
    let about = |name: &str| -> Vec<String> {
        let id = id(name);
        chosen.links_of(&id, &links, &settings).map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(
        (about("a"), about("b"), about("c")),
        (vec!["eth0".into()], vec!["eth1".into()], vec![])
    );
    assert!(!chosen.is_empty());
    let excluded: Vec<_> = chosen.excluded.iter().map(ToString::to_string).collect();
    assert_eq!(excluded, ["kube-ipvs0"]);
}
