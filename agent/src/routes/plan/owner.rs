//! Whose a route is.

use super::Rules;
use super::actual::Sight;
use super::route::{CALICO_PROTOCOL, LAST_COMMON_PROTOCOL, Route, RouteKind, is_link_scope};

/// `RTPROT_KERNEL`.
const KERNEL_PROTOCOL: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Ours,
    Unknown,
    LeftOver,
    Foreign,
}

pub(super) fn owner(route: &Route, sight: &Sight, rules: &Rules<'_>) -> Owner {
    let calico = route.protocol == CALICO_PROTOCOL;
    // The number that the settings say may be another program's too: DHCP's, BIRD's. It marks where
    // only we write; what we write elsewhere, blackholes, never has it.
    let mark =
        calico || (route.protocol == rules.protocol && rules.protocol > LAST_COMMON_PROTOCOL);
    let on_pod = route.device.is_some_and(|device| rules.pods.contains_key(&device));
    let on_former = route.device.is_some_and(|device| rules.former.contains(&device));
    if route.protocol == KERNEL_PROTOCOL || is_link_scope(route.destination.address()) {
        Owner::Foreign
    } else if sight.adopted || ((on_pod || on_former) && mark && !route.indirect) {
        Owner::Ours
    } else if on_pod {
        Owner::Unknown
    } else if calico && route.kind == RouteKind::Blackhole {
        Owner::Ours
    } else if calico {
        Owner::LeftOver
    } else {
        Owner::Foreign
    }
}
