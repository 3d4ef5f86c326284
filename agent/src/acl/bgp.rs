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

    /// What BIRD on `host` needs.
    pub(super) fn state(&self, host: &Name, pools: Vec<(Cidr, bool)>) -> BgpState {
        let cluster = self.configurations.get("default");
        let own = self.configurations.get(format!("node.{host}").as_str());
        let severity = [own, cluster].into_iter().flatten().find_map(|c| c.log_severity.as_deref());
        let cluster_as = cluster.and_then(|c| c.as_number).unwrap_or(AsNumber::DEFAULT);
        let node = self.nodes.get(host);
        BgpState {
            node: host.clone(),
            ipv4: node.and_then(|node| node.ipv4),
            ipv6: node.and_then(|node| node.ipv6),
            as_number: node.and_then(|node| node.as_number).unwrap_or(cluster_as),
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
    /// Route reflectors take no part in the mesh, as this host or as the other.
    fn mesh(&self, host: &Name, own: &Node, cluster_as: AsNumber) -> Vec<MeshPeer> {
        if !meshed(own) {
            return Vec::new();
        }
        let others = self.nodes.iter().filter(|(name, node)| *name != host && meshed(node));
        let peers = others.flat_map(|(name, node)| {
            let reachable = node.addresses().filter(|address| match Family::of(*address) {
                Family::V4 => own.ipv4.is_some(),
                Family::V6 => own.ipv6.is_some(),
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
