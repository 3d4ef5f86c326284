//! Node.

use std::net::IpAddr;

use serde::Deserialize;

use super::bgp::as_number;
use super::error::{At, FieldError};
use super::net;
use super::wire::{Metadata, Object, Scalar, Text, filled, list, resource};
use crate::model::{Cidr, Node};

#[derive(Debug, Default, Deserialize)]
struct NodeSpec<'a> {
    #[serde(borrow, default)]
    bgp: Option<Object<BgpSpec<'a>>>,
    #[serde(borrow, default)]
    addresses: Option<Vec<Object<WireAddress<'a>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BgpSpec<'a> {
    #[serde(borrow, default)]
    as_number: Option<Scalar<'a>>,
    #[serde(borrow, default)]
    ipv4_address: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipv6_address: Option<Text<'a>>,
    #[serde(borrow, default, rename = "ipv4IPIPTunnelAddr")]
    ipv4_ipip_tunnel_addr: Option<Text<'a>>,
    #[serde(borrow, default, rename = "routeReflectorClusterID")]
    route_reflector_cluster_id: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
struct WireAddress<'a> {
    #[serde(borrow, default)]
    address: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Text<'a>>,
}

pub(super) fn decode(value: &[u8]) -> Result<Node, FieldError> {
    let (metadata, spec) = resource::<NodeSpec<'_>>(value)?;
    node(&metadata, &spec).at("spec")
}

fn node(metadata: &Metadata<'_>, spec: &NodeSpec<'_>) -> Result<Node, FieldError> {
    let mut node = Node { labels: metadata.to_labels(), ..Node::default() };
    if let Some(bgp) = &spec.bgp {
        bgp_section(&mut node, bgp).at("bgp")?;
    }
    // Without a BGP address the orchestrator's idea of the node's address has to do.
    for address in fallbacks(spec) {
        match address {
            IpAddr::V4(v4) if node.ipv4.is_none() => {
                (node.ipv4, node.ipv4_network) = (Some(v4), Some(Cidr::host(address)));
                node.ipv4_is_fallback = true;
            }
            IpAddr::V6(v6) if node.ipv6.is_none() => {
                (node.ipv6, node.ipv6_network) = (Some(v6), Some(Cidr::host(address)));
                node.ipv6_is_fallback = true;
            }
            _ => {}
        }
    }
    Ok(node)
}

fn bgp_section(node: &mut Node, bgp: &BgpSpec<'_>) -> Result<(), FieldError> {
    node.bgp = true;
    node.as_number = as_number(&bgp.as_number)?;
    if let Some(text) = filled(&bgp.ipv4_address) {
        let (address, network) = net::interface_v4(text).at("ipv4Address")?;
        (node.ipv4, node.ipv4_network) = (Some(address), Some(network));
    }
    if let Some(text) = filled(&bgp.ipv6_address) {
        let (address, network) = net::interface_v6(text).at("ipv6Address")?;
        (node.ipv6, node.ipv6_network) = (Some(address), Some(network));
    }
    node.ipip_tunnel =
        filled(&bgp.ipv4_ipip_tunnel_addr).map(net::v4).transpose().at("ipv4IPIPTunnelAddr")?;
    node.route_reflector_cluster_id = filled(&bgp.route_reflector_cluster_id)
        .map(net::v4)
        .transpose()
        .at("routeReflectorClusterID")?;
    Ok(())
}

/// Internal addresses first, then external ones. What is no address (a host name) is skipped: the
/// list is the orchestrator's.
fn fallbacks<'s>(spec: &'s NodeSpec<'_>) -> impl Iterator<Item = IpAddr> + 's {
    ["InternalIP", "ExternalIP"].into_iter().flat_map(|kind| {
        list(&spec.addresses)
            .iter()
            .filter(move |entry| filled(&entry.kind) == Some(kind))
            .filter_map(|entry| net::address(entry.address.as_ref()?).ok())
    })
}
