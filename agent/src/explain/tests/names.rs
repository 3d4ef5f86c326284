//! What people type, and who is meant.

use super::world::{MANIFESTS, running, whole};
use crate::explain::{Directory, Peer, PeerError};

fn found(directory: &Directory, text: &str) -> String {
    match directory.find(text) {
        Ok(Peer::Pod(pod)) => pod.id.to_string(),
        Ok(Peer::Host(name, addresses)) => format!("host {name} {addresses:?}"),
        Ok(Peer::Address(address)) => address.to_string(),
        Ok(Peer::External(external)) => format!("external {}", external.address),
        Ok(Peer::Network(net)) => format!("net {net}"),
        Ok(Peer::Outside) => "outside".to_owned(),
        Err(PeerError::Ambiguous { candidates, .. }) => format!("? {}", candidates.join(" ")),
        Err(error) => format!("! {error}"),
    }
}

#[test]
fn a_pod_is_called_in_many_ways() {
    let directory = whole(MANIFESTS).directory;
    let backend = "calico-01/cni/default/0b61d5d2-77aa/eth0";
    for text in [
        backend,
        "cni/default/0b61d5d2-77aa/eth0",
        "default/0b61d5d2-77aa/eth0",
        "default/0b61d5d2-77aa",
        "0b61d5d2-77aa",
        "0b61d5d2-77aa/eth0",
        "cali0b61d5d2",
        "0b61d5d2",
        "0b61d",
        "default/0b61",
    ] {
        assert_eq!(found(&directory, text), backend, "{text}");
    }
    let both = format!("? {backend} calico-02/cni/other/0b61aaaa-0000/eth0");
    assert_eq!(found(&directory, "0b61"), both);
    // Too short for a beginning, and no name.
    for text in ["0b6", "web", "", "calico-03"] {
        let said = found(&directory, text);
        assert!(said.starts_with('!') && said.contains("default/c89f2f35-1b7e/eth0"), "{said}");
    }
}

#[test]
fn addresses_networks_and_hosts() {
    let directory = whole(MANIFESTS).directory;
    for (text, meant) in [
        ("192.168.0.1", "192.168.0.1"),
        ("fd80::1", "fd80::1"),
        ("192.168.0.1/32", "192.168.0.1"),
        ("10.0.0.0/8", "net 10.0.0.0/8"),
        ("outside", "outside"),
        ("host", "host calico-01 [172.18.18.101, fd00::101]"),
        ("calico-02", "host calico-02 [172.18.18.102]"),
    ] {
        assert_eq!(found(&directory, text), meant, "{text}");
    }
    let nobody = Directory { here: None, ..directory };
    assert!(found(&nobody, "host").starts_with('!'));
}

#[test]
fn an_agent_knows_its_own_pods_and_its_neighbours() {
    let directory = running(MANIFESTS).directory;
    assert_eq!(found(&directory, "0b61"), "calico-01/cni/default/0b61d5d2-77aa/eth0");
    assert_eq!(found(&directory, "calico-02"), "host calico-02 [172.18.18.102]");
    let said = found(&directory, "407208a5");
    assert!(said.starts_with('!') && !said.contains("407208a5-9e0c"), "{said}");
    assert!(said.ends_with("; --offline knows the pods of all hosts"), "{said}");
}

#[test]
fn an_error_does_not_list_thousands() {
    let known = whole(MANIFESTS).directory.pods[0].clone();
    let directory = Directory { pods: vec![known; 1000], complete: true, ..Directory::default() };
    let said = found(&directory, "web");
    assert!(said.ends_with(" and 988 more") && said.len() < 500, "{said}");
}
