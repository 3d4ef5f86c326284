//! The BGP part: who this host is and with whom it peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use calico_datastore::model::{AsNumber, BgpConfiguration, Cidr, Family, Name, Node};

use crate::desired::{BgpState, MeshPeer};

/// Nodes and BGP settings as stored.
#[derive(Debug, Default)]
pub(super) struct BgpTable {
    nodes: BTreeMap<Name, Arc<Node>>,
    configurations: HashMap<Name, Arc<BgpConfiguration>>,
}

impl BgpTable {
    /// A node is new, different or gone. False when nothing changed.
    pub(super) fn set_node(&mut self, name: &Name, node: Option<&Arc<Node>>) -> bool {
        let old = match node {
            Some(node) => self.nodes.insert(name.clone(), Arc::clone(node)),
            None => self.nodes.remove(name),
        };
        old.as_ref() != node
    }

    /// A BGPConfiguration is new, different or gone. False when nothing changed.
    pub(super) fn set_configuration(
        &mut self,
        name: &Name,
        configuration: Option<&Arc<BgpConfiguration>>,
    ) -> bool {
        let old = match configuration {
            Some(value) => self.configurations.insert(name.clone(), Arc::clone(value)),
            None => self.configurations.remove(name),
        };
        old.as_ref() != configuration
    }

    /// True without nodes and configurations.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.configurations.is_empty()
    }

    /// What BIRD on `host` needs.
    pub(super) fn state(&self, host: &Name, pools: Vec<(Cidr, bool)>) -> BgpState {
        let cluster = self.configurations.get("default");
        let own = self.configurations.get(format!("node.{host}").as_str());
        let severity = [own, cluster].into_iter().flatten().find_map(|c| c.log_severity.as_deref());
        let node = self.nodes.get(host);
        let cluster_as = cluster.and_then(|c| c.as_number);
        let numbers = [node.and_then(|node| node.as_number), cluster_as];
        let cluster_as = cluster_as.filter(is_number).unwrap_or(AsNumber::DEFAULT);
        BgpState {
            node: host.clone(),
            registered: node.is_some(),
            ipv4: node.and_then(|node| node.ipv4),
            ipv6: node.and_then(|node| node.ipv6),
            as_number: own_number(numbers),
            mesh: match node {
                Some(node) if cluster.is_none_or(|c| c.node_to_node_mesh) => {
                    self.mesh(host, node, cluster_as)
                }
                _ => Vec::new(),
            },
            listen_port: cluster.and_then(|c| c.listen_port),
            pools,
            log_severity: bird_severity(severity).to_owned(),
        }
    }

    /// Every other node that takes part in BGP, by each address of a family that this host has too.
    /// Route reflectors take no part in the mesh, as this host or as the other. What BIRD can take of
    /// them is said, and told, where its configuration is made.
    fn mesh(&self, host: &Name, own: &Node, cluster_as: AsNumber) -> Vec<MeshPeer> {
        if !meshed(own) {
            return Vec::new();
        }
        let others = self.nodes.iter().filter(|(name, node)| *name != host && meshed(node));
        let peers = others.flat_map(|(name, node)| {
            let reachable = node.bgp_addresses().filter(|address| {
                own.bgp_addresses().any(|own| Family::of(own) == Family::of(*address))
            });
            reachable.map(move |address| MeshPeer {
                address,
                node: name.clone(),
                as_number: node.as_number.unwrap_or(cluster_as),
            })
        });
        let mut peers: Vec<MeshPeer> = peers.collect();
        peers.sort_unstable();
        peers
    }
}

/// False for 0, which is reserved (RFC 7607).
fn is_number(number: &AsNumber) -> bool {
    number.0 != 0
}

/// The first that is a number. 0 only when nothing else is said: whoever takes 64512 for it can tell.
fn own_number(said: [Option<AsNumber>; 2]) -> AsNumber {
    let said = || said.into_iter().flatten();
    said().find(is_number).or_else(|| said().next()).unwrap_or(AsNumber::DEFAULT)
}

fn meshed(node: &Node) -> bool {
    node.bgp && node.route_reflector_cluster_id.is_none()
}

/// The original's three steps: nothing, states, everything.
fn bird_severity(configured: Option<&str>) -> &'static str {
    match configured {
        Some(text) if text.eq_ignore_ascii_case("none") => "none",
        Some(text) if text.eq_ignore_ascii_case("debug") => "debug",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node in BGP with these addresses.
    fn node(addresses: &str) -> Node {
        let mut node = Node { bgp: true, ..Node::default() };
        for address in addresses.split_whitespace() {
            match address.parse().unwrap() {
                std::net::IpAddr::V4(v4) => node.ipv4 = Some(v4),
                std::net::IpAddr::V6(v6) => node.ipv6 = Some(v6),
            }
        }
        node
    }

    fn table(nodes: impl IntoIterator<Item = (&'static str, Node)>) -> BgpTable {
        let mut table = BgpTable::default();
        for (name, node) in nodes {
            table.set_node(&name.into(), Some(&Arc::new(node)));
        }
        table
    }

    fn configure(table: &mut BgpTable, name: &str, configuration: BgpConfiguration) {
        table.set_configuration(&name.into(), Some(&Arc::new(configuration)));
    }

    fn configuration() -> BgpConfiguration {
        BgpConfiguration {
            as_number: None,
            node_to_node_mesh: true,
            listen_port: None,
            log_severity: None,
        }
    }

    fn mesh(table: &BgpTable) -> Vec<String> {
        let state = table.state(&"a".into(), Vec::new());
        state.mesh.iter().map(|p| format!("{} {} {}", p.address, p.node, p.as_number)).collect()
    }

    #[test]
    fn everybody_else_is_a_peer_by_each_family_that_both_have() {
        let world = |own| {
            let other = Node { as_number: Some(AsNumber(65001)), ..node("10.0.0.2 fd00::2") };
            table([("a", node(own)), ("b", other), ("c", node("10.0.0.1"))])
        };
        assert_eq!(
            mesh(&world("10.0.0.9 fd00::9")),
            ["10.0.0.1 c 64512", "10.0.0.2 b 65001", "fd00::2 b 65001"]
        );
        assert_eq!(mesh(&world("10.0.0.9")), ["10.0.0.1 c 64512", "10.0.0.2 b 65001"]);
        assert_eq!(mesh(&world("fd00::9")), ["fd00::2 b 65001"]);
        assert!(mesh(&world("")).is_empty());
    }

    #[test]
    fn a_host_without_an_address_is_not_one_that_nobody_knows() {
        let registered = |table: &BgpTable| {
            let state = table.state(&"a".into(), Vec::new());
            (state.registered, state.ipv4.is_some())
        };
        assert_eq!(registered(&table([("b", node("10.0.0.2"))])), (false, false));
        assert_eq!(registered(&table([("a", node(""))])), (true, false));
        assert_eq!(registered(&table([("a", node("10.0.0.1"))])), (true, true));
    }

    #[test]
    fn an_address_that_is_not_for_bgp_makes_no_peer() {
        let fallback = Node { ipv4_is_fallback: true, ..node("10.0.0.2 fd00::2") };
        let own = || node("10.0.0.1 fd00::1");
        assert_eq!(mesh(&table([("a", own()), ("b", fallback)])), ["fd00::2 b 64512"]);
        let fallback = Node { ipv6_is_fallback: true, ..own() };
        let other = node("10.0.0.2 fd00::2");
        assert_eq!(mesh(&table([("a", fallback), ("b", other)])), ["10.0.0.2 b 64512"]);
    }

    #[test]
    fn who_takes_no_part_in_the_mesh() {
        let reflector =
            |node| Node { route_reflector_cluster_id: Some([1, 0, 0, 1].into()), ..node };
        let outside = |node| Node { bgp: false, ..node };
        let (own, other) = (node("10.0.0.1"), node("10.0.0.2"));
        for (a, b, peers) in [
            (own.clone(), other.clone(), 1),
            (reflector(own.clone()), other.clone(), 0),
            (own.clone(), reflector(other.clone()), 0),
            (outside(own.clone()), other.clone(), 0),
            (own.clone(), outside(other.clone()), 0),
            (own, node(""), 0),
        ] {
            assert_eq!(
                mesh(&table([("a", a.clone()), ("b", b.clone())])).len(),
                peers,
                "{a:?} {b:?}"
            );
        }
        assert!(mesh(&table([("b", other)])).is_empty(), "this host is not registered yet");
    }

    #[test]
    fn the_mesh_can_be_switched_off_for_all() {
        let mut table = table([("a", node("10.0.0.1")), ("b", node("10.0.0.2"))]);
        assert_eq!(mesh(&table).len(), 1, "no configuration means a mesh");
        configure(
            &mut table,
            "node.a",
            BgpConfiguration { node_to_node_mesh: false, ..configuration() },
        );
        assert_eq!(mesh(&table).len(), 1, "a node's own configuration has no say");
        configure(
            &mut table,
            "default",
            BgpConfiguration { node_to_node_mesh: false, ..configuration() },
        );
        assert!(mesh(&table).is_empty());
    }

    #[test]
    fn an_as_number_is_the_nodes_or_the_clusters_or_64512() {
        let own = |number| Node { as_number: number, ..node("10.0.0.1") };
        let mut table = table([("a", own(None))]);
        let number = |table: &BgpTable| table.state(&"a".into(), Vec::new()).as_number.0;
        assert_eq!(number(&table), 64512);
        let cluster = BgpConfiguration { as_number: Some(AsNumber(65010)), ..configuration() };
        configure(&mut table, "default", cluster);
        assert_eq!(number(&table), 65010);
        table.set_node(&"a".into(), Some(&Arc::new(own(Some(AsNumber(65011))))));
        assert_eq!(number(&table), 65011);
    }

    #[test]
    fn an_as_number_of_0_says_nothing() {
        let own =
            |number: Option<u32>| Node { as_number: number.map(AsNumber), ..node("10.0.0.1") };
        for (of_node, of_cluster, number) in [
            (Some(0), Some(65010), 65010),
            (Some(65011), Some(0), 65011),
            // Nothing is left that says a number.
            (None, Some(0), 0),
            (Some(0), None, 0),
        ] {
            let mut table = table([("a", own(of_node)), ("b", node("10.0.0.2"))]);
            let as_number = of_cluster.map(AsNumber);
            configure(&mut table, "default", BgpConfiguration { as_number, ..configuration() });
            assert_eq!(table.state(&"a".into(), Vec::new()).as_number, AsNumber(number));
            let others = of_cluster.filter(|number| *number > 0).unwrap_or(64512);
            assert_eq!(mesh(&table), [format!("10.0.0.2 b {others}")]);
        }
        // Another node's stays, so that it can be named.
        let other = Node { as_number: Some(AsNumber(0)), ..node("10.0.0.2") };
        assert_eq!(mesh(&table([("a", own(None)), ("b", other)])), ["10.0.0.2 b 0"]);
    }

    #[test]
    fn a_log_severity_is_the_nodes_or_the_clusters_in_three_steps() {
        let mut table = table([("a", node("10.0.0.1"))]);
        let severity = |table: &BgpTable| table.state(&"a".into(), Vec::new()).log_severity;
        assert_eq!(severity(&table), "info");
        let at =
            |text: &str| BgpConfiguration { log_severity: Some(text.into()), ..configuration() };
        configure(&mut table, "default", at("None"));
        assert_eq!(severity(&table), "none");
        configure(&mut table, "node.b", at("Debug"));
        assert_eq!(severity(&table), "none");
        configure(&mut table, "node.a", at("Debug"));
        assert_eq!(severity(&table), "debug");
        configure(&mut table, "node.a", at("Warning"));
        assert_eq!(severity(&table), "info");
        configure(&mut table, "node.a", configuration());
        assert_eq!(severity(&table), "none", "an object without a level says nothing");
    }

    #[test]
    fn setting_what_is_there_changes_nothing() {
        let mut table = table([("a", node("10.0.0.1"))]);
        assert!(!table.set_node(&"a".into(), Some(&Arc::new(node("10.0.0.1")))));
        assert!(table.set_node(&"a".into(), Some(&Arc::new(node("10.0.0.2")))));
        assert!(table.set_node(&"a".into(), None));
        assert!(!table.set_node(&"a".into(), None));
    }
}
