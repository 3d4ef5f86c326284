//! Renders BIRD's configuration: pure.
//!
//! The template `bird2.cfg.j2` says what BIRD 2 is told; here it is decided which blocks and pools
//! it is told of, in `fit` which peers. Equal input gives equal text, so an unchanged file
//! means that nothing is to be done. It does no I/O.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName};
use imbl::OrdSet;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use super::control::protocol_name;
use super::fit::fit;
use crate::desired::{BgpState, MeshPeer};

const TEMPLATE: &str = include_str!("bird2.cfg.j2");

/// What the configuration depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// This host and its peers.
    pub bgp: &'a BgpState,
    /// This host's allocation blocks.
    pub blocks: &'a OrdSet<Cidr>,
    /// Names of pod interfaces begin with one of these.
    pub interface_prefixes: &'a [String],
}

/// There is no configuration for this input.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// This host has no Node yet, or not any more.
    #[error(
        "the datastore has no node of this host that can be read: status says why it is not registered \
         or what is refused; one that somebody deleted is made again when calico-agent starts (in the \
         v1 layout by calicoctl)"
    )]
    NotRegistered,
    /// BIRD needs an IPv4 address as its router id.
    #[error("this host has no IPv4 address in the datastore; set one with --ip or IP=")]
    NoAddress,
    /// A mistake in the template.
    #[error("cannot render BIRD's configuration")]
    Template(#[source] minijinja::Error),
}

/// The text of BIRD's configuration file.
///
/// # Errors
/// When this host is not registered, or has no IPv4 address.
pub fn render(input: &Input<'_>) -> Result<String, RenderError> {
    let bgp = input.bgp;
    let without = if bgp.registered { RenderError::NoAddress } else { RenderError::NotRegistered };
    let router_id = bgp.ipv4.ok_or(without)?;
    let fit = fit(bgp);
    let part = |own| family_part(own, &fit.mesh, input);
    let mut families = vec![part(IpAddr::V4(router_id))];
    families.extend(fit.ipv6.map(|own| part(IpAddr::V6(own))));
    // The text goes into a quoted pattern; what cannot begin an interface's name excludes none.
    let prefixes: Vec<String> = input
        .interface_prefixes
        .iter()
        .filter(|prefix| prefix.parse::<InterfaceName>().is_ok())
        .cloned()
        .collect();
    let debug = match bgp.log_severity.to_ascii_lowercase().as_str() {
        "debug" => "  debug all;\n",
        "none" => "",
        _ => "  debug { states };\n",
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .map_err(RenderError::Template)?;
    environment.set_syntax(syntax);
    environment
        .render_str(
            TEMPLATE,
            context! {
                node => plain(bgp.node.as_str()),
                router_id => router_id.to_string(),
                as_number => fit.as_number.0,
                port => bgp.listen_port.map_or_else(String::new, |port| format!(" port {port}")),
                has_ipv6 => fit.ipv6.is_some(),
                debug,
                prefixes,
                families,
            },
        )
        .map_err(RenderError::Template)
}

/// The part of the template about the family of this host's address `own`.
fn family_part(own: IpAddr, mesh: &[&MeshPeer], input: &Input<'_>) -> Value {
    let family = Family::of(own);
    let (title, channel) = match family {
        Family::V4 => ("IPv4", "ipv4"),
        Family::V6 => ("IPv6", "ipv6"),
    };
    let host_len = family.host_len();
    let blocks: Vec<&Cidr> = input.blocks.iter().filter(|block| block.family() == family).collect();
    // The block of one address is the pod's route itself: no blackhole, and nothing inside it.
    let wide: Vec<&Cidr> = blocks.iter().copied().filter(|block| !block.is_host()).collect();
    let text = |list: &[&Cidr]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
    let inside: Vec<String> = wide
        .iter()
        .map(|block| format!("{block}{{{},{host_len}}}", block.prefix_len() + 1))
        .collect();
    let pools = |exported: bool| -> Vec<String> {
        let pools = input.bgp.pools.iter();
        pools
            .filter(|(pool, export)| pool.family() == family && *export == exported)
            .map(|(pool, _)| format!("{pool}+"))
            .collect()
    };
    let mine = own.to_string();
    let peers: Vec<Value> = mesh
        .iter()
        .filter(|peer| Family::of(peer.address) == family)
        .map(|peer| {
            let address = peer.address.to_string();
            context! {
                name => protocol_name("Mesh", peer.address),
                node => plain(peer.node.as_str()),
                as_number => peer.as_number.0,
                // Text, not number: both sides must come to the same answer as the original's.
                passive => address > mine,
                address,
            }
        })
        .collect();
    context! {
        title,
        number => family.number(),
        channel,
        address => mine,
        aggregates => text(&wide),
        blocks => text(&blocks),
        inside,
        hidden => pools(false),
        pools => pools(true),
        peers,
    }
}

/// A name for a comment or a quoted text: nothing in it can end either.
fn plain(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::MeshPeer;
    use calico_datastore::model::AsNumber;

    fn peer(address: &str, node: &str, number: u32) -> MeshPeer {
        MeshPeer {
            address: address.parse().unwrap(),
            node: node.into(),
            as_number: AsNumber(number),
        }
    }

    fn state() -> BgpState {
        BgpState {
            node: "calico-01".into(),
            registered: true,
            ipv4: Some("172.17.8.101".parse().unwrap()),
            ipv6: Some("fd80:24e2::101".parse().unwrap()),
            as_number: AsNumber(64512),
            mesh: vec![
                peer("172.17.8.9", "calico-09", 64512),
                peer("172.17.8.101", "calico-01", 64512),
                peer("172.17.8.102", "calico \"02\";\n}", 65001),
                peer("fd80:24e2::102", "calico-02", 64512),
            ],
            listen_port: None,
            pools: vec![
                ("192.168.0.0/16".parse().unwrap(), true),
                ("10.9.0.0/16".parse().unwrap(), false),
                ("fd80:24e2:f998:72d6::/64".parse().unwrap(), true),
            ],
            log_severity: "info".to_owned(),
        }
    }

    fn blocks(list: &[&str]) -> OrdSet<Cidr> {
        list.iter().map(|block| block.parse::<Cidr>().unwrap()).collect()
    }

    fn text(bgp: &BgpState, list: &[&str]) -> String {
        let input = Input {
            bgp,
            blocks: &blocks(list),
            interface_prefixes: &["cali".to_owned(), "tap\"".to_owned()],
        };
        render(&input).unwrap()
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(
            "bird2",
            text(&state(), &["192.168.0.64/26", "192.168.9.9/32", "fd80:24e2:f998:72d6::40/122"])
        );
    }

    #[test]
    fn golden_without_blocks_pools_and_ipv6() {
        let bgp = BgpState {
            ipv6: None,
            pools: Vec::new(),
            listen_port: Some(1790),
            log_severity: "debug".to_owned(),
            ..state()
        };
        insta::assert_snapshot!("bird2_bare", text(&bgp, &[]));
    }

    #[test]
    fn no_address_no_configuration() {
        let bgp = BgpState { ipv4: None, ..state() };
        let input = Input { bgp: &bgp, blocks: &OrdSet::new(), interface_prefixes: &[] };
        assert!(matches!(render(&input), Err(RenderError::NoAddress)));
        let nobody = BgpState { registered: false, ..bgp.clone() };
        let error = render(&Input { bgp: &nobody, ..input }).unwrap_err();
        assert!(matches!(error, RenderError::NotRegistered));
        assert!(!error.to_string().contains("--ip"), "it may have been given: {error}");
    }

    #[test]
    fn exactly_one_side_is_passive() {
        // As text "172.17.8.9" is greater than "172.17.8.101".
        let ours = state();
        let theirs = BgpState {
            ipv4: Some("172.17.8.9".parse().unwrap()),
            mesh: vec![peer("172.17.8.101", "calico-01", 64512)],
            ..state()
        };
        let passive = |bgp: &BgpState, name: &str| {
            let text = text(bgp, &[]);
            let start = text.find(&format!("protocol bgp {name} ")).unwrap();
            let body = &text[start..];
            body[..body.find('}').unwrap()].contains("passive on")
        };
        assert!(passive(&ours, "Mesh_172_17_8_9"));
        assert!(!passive(&theirs, "Mesh_172_17_8_101"));
    }

    #[test]
    fn no_name_breaks_out_of_its_quotes() {
        let text = text(&state(), &[]);
        assert!(text.contains("description \"Mesh: calico__02____\";"), "{text}");
        assert!(!text.contains("tap"), "{text}");
    }

    #[test]
    fn a_mistake_in_the_template_is_an_error() {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        assert!(environment.render_str("{{ no_such_thing }}", context! {}).is_err());
    }
}
