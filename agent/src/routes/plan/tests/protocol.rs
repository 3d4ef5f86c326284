//! Which protocol numbers say whose a route is, and where.

use super::*;

#[test]
fn what_a_felix_left_elsewhere_waits_for_bird() {
    let left = Route { indirect: true, ..route("10.65.9.0/26", HOST, 80) };
    assert_eq!(planned(&Wants::default(), &[left], 9).ops, []);
    assert_eq!(planned(&Wants::default(), &[left], 10).ops, [Op::DeleteRoute(left)]);
}

#[test]
fn a_common_protocol_number_marks_nothing() {
    // With DeviceRouteProtocol = 3 a route of `ip route add` must not count as ours.
    let admin = route("10.0.0.0/8", HOST, BOOT_PROTOCOL);
    let mut actual = Actual::default();
    actual.set_all(vec![admin], Vec::new(), Duration::ZERO);
    let pods = pods();
    let rules = Rules { protocol: BOOT_PROTOCOL, ..rules(&pods, 1000) };
    assert_eq!(plan(&Wants::default(), &actual, &Scope::All, &rules), Plan::default());
}

#[test]
fn the_number_of_another_program_marks_nothing_off_pod_interfaces() {
    // DeviceRouteProtocol = 16 is DHCP's; 9 router advertisements', 12 BIRD's, 186 BGP's of FRR.
    for protocol in [9, 12, 16, 186] {
        let uplink = Route { indirect: true, scope: 0, ..route("0.0.0.0/0", HOST, protocol) };
        let theirs = [
            uplink,
            Route { metric: 100, ..uplink },
            route("192.0.2.1/32", HOST, protocol),
            Route { device: None, indirect: true, ..route("10.67.0.0/16", 0, protocol) },
            blackhole("10.66.0.0/16", protocol),
            Route { indirect: true, ..route("::/0", HOST, protocol) },
        ];
        let left = Route { indirect: true, ..route("10.65.9.0/26", HOST, CALICO_PROTOCOL) };
        let block = blackhole("10.65.0.0/26", CALICO_PROTOCOL);
        let pods = pods();
        let former = BTreeSet::from([5]);
        let ours = [route("10.65.0.3/32", 1, protocol), route("10.65.0.4/32", 5, protocol)];
        let there = [&theirs[..], &ours, &[left, block]].concat();
        let mut actual = Actual::default();
        actual.set_all(there, Vec::new(), Duration::ZERO);
        let ops = |now| {
            let rules = Rules { protocol, former: &former, ..rules(&pods, now) };
            plan(&Wants::default(), &actual, &Scope::All, &rules).ops
        };
        let mut at_once = [block, ours[0], ours[1]].map(Op::DeleteRoute);
        at_once.sort();
        assert_eq!(ops(0), at_once, "protocol {protocol}");
        // After the grace what a Felix left is gone as well, and nothing else.
        let mut late = [block, ours[0], ours[1], left].map(Op::DeleteRoute);
        late.sort();
        assert_eq!(ops(3600), late, "protocol {protocol}");
    }
}

#[test]
fn a_new_route_does_not_take_the_place_of_another_programs() {
    // A pod's address is routed over the uplink by somebody with the number that the settings say.
    let foreign = route(POD, HOST, 16);
    let mut actual = Actual::default();
    actual.set_all(vec![foreign], Vec::new(), Duration::ZERO);
    let pods = pods();
    let rules = Rules { protocol: 16, ..rules(&pods, 3600) };
    let plan = plan(&pod(POD, 1), &actual, &Scope::All, &rules);
    assert_eq!((plan.ops, plan.conflicts.len()), (vec![], 1));
}
