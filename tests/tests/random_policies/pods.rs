//! The pods: four on each host.

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_e2e::tutorial::{HOSTS, PODS, PodSpec};

const fn more(
    name: &'static str,
    host: usize,
    container_id: &'static str,
    last: u8,
    mac: &'static str,
) -> PodSpec {
    PodSpec {
        name,
        host: HOSTS[host].name,
        network: "frontend",
        container_id,
        v4: Ipv4Addr::new(192, 168, 0, last),
        v6: Ipv6Addr::new(0xfd80, 0x24e2, 0xf998, 0x72d6, 0, 0, 0, last as u16),
        mac,
    }
}

/// All of them. The first and the last are the controls.
pub(crate) const ALL_PODS: [PodSpec; 8] = [
    PODS[0],
    PODS[1],
    PODS[2],
    PODS[3],
    more("extra-1", 0, "d1000000-0001-4000-8000-000000000001", 2, "ca:fe:1d:52:bb:e5"),
    more("extra-2", 0, "d2000000-0002-4000-8000-000000000002", 3, "ca:fe:1d:52:bb:e6"),
    more("extra-3", 1, "d3000000-0003-4000-8000-000000000003", 66, "ca:fe:1d:52:bb:e7"),
    more("extra-4", 1, "d4000000-0004-4000-8000-000000000004", 67, "ca:fe:1d:52:bb:e8"),
];

/// True for the pods that the control policy selects.
pub(crate) fn is_control(pod: usize) -> bool {
    pod == 0 || pod + 1 == ALL_PODS.len()
}
