//! What guests of OpenStack may do before any policy: ask their host for an address, a name, or their
//! metadata. Each rule names their interfaces, so nothing of it is for anybody else.

use calico_datastore::model::Family;

use crate::config::{METADATA_SERVICE, OPENSTACK_PREFIX, Settings};

/// Ports of DHCP and DHCPv6: client, server.
fn dhcp(family: Family) -> (u16, u16) {
    match family {
        Family::V4 => (68, 67),
        Family::V6 => (546, 547),
    }
}

/// DHCP of one that has no address yet: its source is in no set.
pub(super) fn asks_for_an_address(
    settings: &Settings,
    family: Family,
    target: &str,
) -> Option<String> {
    let (client, server) = dhcp(family);
    let nobody = match family {
        Family::V4 => "0.0.0.0/32",
        Family::V6 => "fe80::/10",
    };
    settings.has_openstack().then(|| {
        format!(
            "-i {OPENSTACK_PREFIX}+ -p udp --source {nobody} -m udp --sport {client} \
             --dport {server} {target}"
        )
    })
}

/// What one with an address of its own asks: DHCP again, DNS, metadata.
pub(super) fn asks_its_host(settings: &Settings, family: Family) -> Vec<String> {
    if !settings.has_openstack() {
        return Vec::new();
    }
    let (client, server) = dhcp(family);
    let from = format!("-i {OPENSTACK_PREFIX}+");
    let mut lines = vec![
        format!("{from} -p udp -m udp --sport {client} --dport {server} --jump ACCEPT"),
        format!("{from} -p udp -m udp --dport 53 --jump ACCEPT"),
    ];
    if let Some(service) = settings.metadata_service().filter(|_| family == Family::V4) {
        let (address, port) = (service.ip(), service.port());
        lines.push(format!(
            "{from} -p tcp --destination {address}/32 -m tcp --dport {port} --jump ACCEPT"
        ));
    }
    lines
}

/// The address that guests know leads to the metadata service.
pub(super) fn to_metadata_service(settings: &Settings, family: Family) -> Option<String> {
    let service = settings.metadata_service().filter(|_| family == Family::V4)?;
    let (address, port) = (METADATA_SERVICE.ip(), METADATA_SERVICE.port());
    Some(format!(
        "-i {OPENSTACK_PREFIX}+ -p tcp --destination {address}/32 -m tcp --dport {port} \
         --jump DNAT --to-destination {service}"
    ))
}
