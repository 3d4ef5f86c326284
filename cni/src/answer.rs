//! What ADD answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::{Cidr, Family};

use crate::gateway;
use crate::interface::Connected;
use crate::network::HOST_MAC;
use crate::protocol::{Dns, Interface, Invocation, Ip, Route, Success};

/// The result: the host side, then the pod's; every address with the gateway that `gateway` says.
pub(crate) fn success(
    call: &Invocation,
    connected: &Connected,
    addresses: &[IpAddr],
    gateway: &dyn Fn(Family) -> IpAddr,
    dns: Dns,
) -> Success {
    let host = Interface {
        name: connected.host_name.as_str().to_owned(),
        mac: HOST_MAC.to_owned(),
        mtu: Some(connected.mtu),
        sandbox: None,
    };
    let pod = Interface {
        name: call.ifname.clone(),
        mac: connected.mac.to_string(),
        mtu: Some(connected.mtu),
        sandbox: call.netns.as_ref().map(|path| path.display().to_string()),
    };
    let ips = addresses.iter().map(|address| {
        let family = Family::of(*address);
        Ip {
            address: (*address, family.host_len()),
            gateway: Some(gateway(family)),
            interface: Some(1),
        }
    });
    let families = Family::ALL.into_iter().filter(|family| {
        connected.default_routes && addresses.iter().any(|a| Family::of(*a) == *family)
    });
    let routes = families
        .filter_map(|family| {
            // What is in the pod, whatever gateway the result names.
            let dst = everything(family)?;
            Some(Route { dst, gw: Some(gateway::link_local(family)) })
        })
        .collect();
    Success { interfaces: vec![host, pod], ips: ips.collect(), routes, dns }
}

fn everything(family: Family) -> Option<Cidr> {
    let any = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Cidr::new(any, 0).ok()
}
