//! Tables by name, and properties of any plan.

mod protocol;

use super::*;

use proptest::prelude::*;

const PODS: [u32; 2] = [1, 2];
const HOST: u32 = 9;
static NOTHING: BTreeSet<u32> = BTreeSet::new();

#[derive(Clone, Debug, Default)]
struct Wants {
    routes: BTreeMap<Cidr, Want>,
    neighbours: BTreeMap<(u32, IpAddr), Mac>,
}

impl Wanted for Wants {
    fn route(&self, destination: &Cidr) -> Option<Want> {
        self.routes.get(destination).copied()
    }

    fn neighbour(&self, device: u32, address: IpAddr) -> Option<Mac> {
        self.neighbours.get(&(device, address)).copied()
    }

    fn destinations(&self) -> BTreeSet<Cidr> {
        self.routes.keys().copied().collect()
    }

    fn neighbours(&self) -> BTreeSet<(u32, IpAddr)> {
        self.neighbours.keys().copied().collect()
    }
}

fn pods() -> BTreeMap<u32, InterfaceName> {
    PODS.iter().map(|index| (*index, format!("cali{index}").parse().unwrap())).collect()
}

fn rules(pods: &BTreeMap<u32, InterfaceName>, now: u64) -> Rules<'_> {
    Rules {
        protocol: CALICO_PROTOCOL,
        remove_external: true,
        keep: false,
        ipv6: true,
        pods,
        former: &NOTHING,
        now: Duration::from_secs(now),
    }
}

fn route(destination: &str, device: u32, protocol: u8) -> Route {
    let destination: Cidr = destination.parse().unwrap();
    Route {
        destination,
        metric: Route::default_metric(destination.family()),
        tos: 0,
        scope: Route::pod_scope(destination.family()),
        kind: RouteKind::Unicast,
        device: Some(device),
        indirect: false,
        protocol,
        source: None,
    }
}

fn blackhole(destination: &str, protocol: u8) -> Route {
    Route { kind: RouteKind::Blackhole, device: None, scope: 0, ..route(destination, 0, protocol) }
}

fn pod(destination: &str, device: u32) -> Wants {
    let routes =
        BTreeMap::from([(destination.parse().unwrap(), Want::Pod { device, source: None })]);
    Wants { routes, ..Wants::default() }
}

/// The plan for routes that were first seen at second 0.
fn planned(wants: &Wants, there: &[Route], now: u64) -> Plan {
    let mut actual = Actual::default();
    actual.set_all(there.to_vec(), Vec::new(), Duration::ZERO);
    let pods = pods();
    plan(wants, &actual, &Scope::All, &rules(&pods, now))
}

const POD: &str = "10.65.0.2/32";

#[test]
fn a_missing_route_is_added() {
    let plan = planned(&pod(POD, 1), &[], 0);
    assert_eq!(plan.ops, [Op::AddRoute(route(POD, 1, 80))]);
}

#[test]
fn a_right_route_stays() {
    for protocol in [80, BOOT_PROTOCOL] {
        let plan = planned(&pod(POD, 1), &[route(POD, 1, protocol)], 100);
        assert_eq!(plan.ops, [], "protocol {protocol}");
        assert_eq!(plan.adopt.len(), usize::from(protocol == BOOT_PROTOCOL));
    }
}

#[test]
fn a_boot_route_with_felix_metric_is_adopted_too() {
    let felix = Route { metric: 1024, ..route(POD, 1, BOOT_PROTOCOL) };
    let plan = planned(&pod(POD, 1), &[felix], 0);
    assert_eq!((plan.ops, plan.adopt), (vec![], vec![felix]));
}

#[test]
fn a_route_to_another_pod_is_replaced_at_once() {
    for protocol in [80, BOOT_PROTOCOL, 4] {
        let old = route(POD, 2, protocol);
        let plan = planned(&pod(POD, 1), &[old], 0);
        assert_eq!(plan.ops, [Op::ReplaceRoute { old, new: route(POD, 1, 80) }]);
    }
}

#[test]
fn ours_goes_at_once_and_unknown_after_its_grace() {
    let ours = route(POD, 1, 80);
    assert_eq!(planned(&Wants::default(), &[ours], 0).ops, [Op::DeleteRoute(ours)]);
    for protocol in [BOOT_PROTOCOL, 4, 12] {
        let unknown = route(POD, 1, protocol);
        let early = planned(&Wants::default(), &[unknown], 9);
        assert_eq!(early.ops, []);
        assert_eq!(early.grace_routes, BTreeMap::from([(unknown.destination, GRACE)]));
        let late = planned(&Wants::default(), &[unknown], 10);
        assert_eq!((late.ops, late.grace_routes.len()), (vec![Op::DeleteRoute(unknown)], 0));
    }
}

#[test]
fn a_state_from_disk_gives_and_takes_nothing() {
    let pods = pods();
    let other = "10.65.0.9/32";
    let unknown = [
        route(other, 1, 80),
        route(other, 2, BOOT_PROTOCOL),
        blackhole("10.65.0.0/26", 80),
        route("10.65.0.8/32", 99, 80),
    ];
    let address = "10.65.0.9".parse().unwrap();
    let neighbour = Neighbour { device: 1, address, mac: None, marked: true };
    let mut actual = Actual::default();
    actual.set_all(unknown.to_vec(), vec![neighbour], Duration::ZERO);
    let of = |keep| {
        let rules = Rules { keep, ..rules(&pods, 3600) };
        plan(&pod(POD, 1), &actual, &Scope::All, &rules)
    };
    let kept = of(true);
    assert_eq!(kept.ops, [Op::AddRoute(route(POD, 1, 80))]);
    assert!(kept.grace_routes.is_empty() && kept.grace_neighbours.is_empty());
    // What the datastore does not know goes, all five.
    assert_eq!(of(false).ops.len(), 6);
}

#[test]
fn an_adopted_route_goes_at_once() {
    let boot = route(POD, 1, BOOT_PROTOCOL);
    let mut actual = Actual::default();
    actual.set_all(vec![boot], Vec::new(), Duration::ZERO);
    let pods = pods();
    let adopting = plan(&pod(POD, 1), &actual, &Scope::All, &rules(&pods, 0));
    actual.adopt(&adopting);
    // Read again: what was adopted stays so.
    actual.set_all(vec![boot], Vec::new(), Duration::from_secs(1));
    let leaving = plan(&Wants::default(), &actual, &Scope::All, &rules(&pods, 1));
    assert_eq!(leaving.ops, [Op::DeleteRoute(boot)]);
}

#[test]
fn foreign_routes_are_never_touched() {
    let foreign = [
        route("0.0.0.0/0", HOST, 4),
        route("10.65.0.9/32", HOST, BOOT_PROTOCOL),
        route("fe80::/64", 1, 2),
        route("ff00::/8", 1, 4),
        route("169.254.0.0/16", 1, BOOT_PROTOCOL),
        route("10.0.0.0/24", 1, 2),
        blackhole("10.66.0.0/16", 4),
        Route { device: None, indirect: true, ..route("10.67.0.0/16", 0, 12) },
    ];
    let plan = planned(&Wants::default(), &foreign, 1000);
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_foreign_route_in_the_way_is_a_conflict() {
    let foreign = route(POD, HOST, 4);
    let plan = planned(&pod(POD, 1), &[foreign], 1000);
    assert_eq!(plan.ops, []);
    assert_eq!(plan.conflicts.len(), 1);
    assert_eq!(plan.conflicts[0].foreign, foreign);
}

#[test]
fn a_foreign_route_with_a_better_metric_is_told() {
    let ours = route("fd00::2/128", 1, 80);
    let better = Route { metric: 256, ..route("fd00::2/128", HOST, 4) };
    let worse = Route { metric: 2000, ..better };
    let wants = pod("fd00::2/128", 1);
    assert_eq!(planned(&wants, &[ours, better], 0).conflicts.len(), 1);
    assert_eq!(planned(&wants, &[ours, worse], 0).conflicts, []);
    // With the worse one ours is written beside it.
    assert_eq!(planned(&wants, &[worse], 0).ops, [Op::AddRoute(ours)]);
}

#[test]
fn blackholes_come_and_go_with_their_block() {
    const BLOCK: &str = "10.65.0.0/26";
    let ours = blackhole(BLOCK, 80);
    let wants =
        Wants { routes: BTreeMap::from([(ours.destination, Want::Blackhole)]), ..Wants::default() };
    assert_eq!(planned(&wants, &[], 0).ops, [Op::AddRoute(ours)]);
    assert_eq!(planned(&wants, &[ours], 0).ops, []);
    assert_eq!(planned(&Wants::default(), &[ours], 0).ops, [Op::DeleteRoute(ours)]);
    // The original's BIRD drops them just as well.
    let theirs = blackhole(BLOCK, 12);
    assert_eq!(planned(&wants, &[theirs], 0), Plan::default());
    // But a route somewhere else is in the way.
    assert_eq!(planned(&wants, &[route(BLOCK, HOST, 4)], 0).conflicts.len(), 1);
}

#[test]
fn gives_come_before_takes() {
    let mut wants = pod(POD, 1);
    wants.neighbours.insert((1, "10.65.0.2".parse().unwrap()), Mac::new([2; 6]));
    let plan = planned(&wants, &[route("10.65.0.3/32", 1, 80)], 0);
    let phases: Vec<u8> = plan.ops.iter().map(Op::phase).collect();
    assert_eq!(phases, [0, 1, 2]);
}

// --- properties

fn any_destination() -> impl Strategy<Value = Cidr> {
    prop::sample::select(vec![
        "10.65.0.2/32",
        "10.65.0.3/32",
        "10.65.0.0/26",
        "fd00::2/128",
        "fd00::/122",
        "fe80::/64",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn any_route() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![
        4 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Blackhole),
        1 => Just(RouteKind::Other(7)),
    ];
    let metric = prop::sample::select(vec![0u32, 32, 1024]);
    let protocol = prop::sample::select(vec![2u8, 3, 4, 12, 80]);
    (any_destination(), kind, metric, protocol, 0u32..4, prop::bool::weighted(0.2)).prop_map(
        |(destination, kind, metric, protocol, device, indirect)| {
            let device = [None, Some(1), Some(2), Some(HOST)][device as usize];
            let device = device.filter(|_| kind == RouteKind::Unicast);
            let metric = if destination.family() == Family::V6 { metric.max(1) } else { metric };
            let indirect = indirect || (kind == RouteKind::Unicast && device.is_none());
            let scope = if device.is_some() { Route::pod_scope(destination.family()) } else { 0 };
            Route {
                destination,
                metric,
                tos: 0,
                scope,
                kind,
                device,
                indirect,
                protocol,
                source: None,
            }
        },
    )
}

fn any_neighbour() -> impl Strategy<Value = Neighbour> {
    (0usize..2, 2u8..5, 1u8..3, any::<bool>()).prop_map(|(device, host, mac, marked)| Neighbour {
        device: PODS[device],
        address: IpAddr::from([10, 65, 0, host]),
        mac: Some(Mac::new([mac; 6])),
        marked,
    })
}

fn any_wants() -> impl Strategy<Value = Wants> {
    let want = prop_oneof![
        Just(Want::Blackhole),
        (0usize..2).prop_map(|device| Want::Pod { device: PODS[device], source: None }),
    ];
    let routes = prop::collection::btree_map(any_destination(), want, 0..4);
    let neighbours = prop::collection::vec(any_neighbour(), 0..3);
    (routes, neighbours).prop_map(|(mut routes, neighbours)| {
        // Nobody wants a link-local destination: the intent leaves them out.
        routes.retain(|destination, _| !is_link_scope(destination.address()));
        let neighbours = neighbours
            .into_iter()
            .filter_map(|entry| Some(((entry.device, entry.address), entry.mac?)))
            .collect();
        Wants { routes, neighbours }
    })
}

/// Written down again, independently: what nobody may take from its owner.
fn untouchable(route: &Route) -> bool {
    let on_pod = matches!(route.device, Some(1 | 2));
    route.protocol == 2
        || route.destination == "fe80::/64".parse().unwrap()
        || (!on_pod && route.protocol != 80)
}

proptest! {
    #[test]
    fn a_plan_is_right(
        wants in any_wants(),
        routes in prop::collection::vec(any_route(), 0..8),
        neighbours in prop::collection::vec(any_neighbour(), 0..4),
        late in any::<bool>(),
        remove_external in any::<bool>(),
        protocol in prop::sample::select(vec![CALICO_PROTOCOL, 12]),
    ) {
        let mut actual = Actual::default();
        actual.set_all(routes, neighbours, Duration::ZERO);
        let pods = pods();
        let rules = Rules { remove_external, protocol, ..rules(&pods, if late { 10 } else { 5 }) };
        let all = plan(&wants, &actual, &Scope::All, &rules);

        // Foreign routes are in no operation, and neither is anything twice.
        for op in &all.ops {
            if let Op::DeleteRoute(old) | Op::ReplaceRoute { old, .. } = op {
                prop_assert!(!untouchable(old), "{op:?}");
                prop_assert!(actual.at(&old.destination).any(|(route, _)| route == old));
            }
        }
        let unique: BTreeSet<_> = all.ops.iter().collect();
        prop_assert_eq!(unique.len(), all.ops.len());

        // Made place by place it is the same plan.
        let mut pieces = Vec::new();
        let mut destinations = wants.destinations();
        destinations.extend(actual.destinations());
        let mut keys = wants.neighbours();
        keys.extend(actual.neighbour_keys());
        let scopes = destinations
            .into_iter()
            .map(|one| (BTreeSet::from([one]), BTreeSet::new()))
            .chain(keys.into_iter().map(|one| (BTreeSet::new(), BTreeSet::from([one]))));
        for (destinations, neighbours) in scopes {
            let scope = Scope::Only { destinations, neighbours };
            pieces.extend(plan(&wants, &actual, &scope, &rules).ops);
        }
        pieces.sort_by_key(|op| (op.phase(), *op));
        prop_assert_eq!(&pieces, &all.ops);

        // Applied, it gives what is wanted, and nothing is left to do.
        let mut after = actual.clone();
        after.adopt(&all);
        for op in &all.ops {
            after.apply(op, rules.now);
        }
        for (destination, want) in &wants.routes {
            let fits = |(route, _): (&Route, &Sight)| satisfies(route, want, &rules);
            let excused = all.conflicts.iter().any(|c| c.destination == *destination)
                || all.grace_routes.contains_key(destination);
            prop_assert!(after.at(destination).any(fits) || excused, "{destination}");
        }
        for (key, mac) in &wants.neighbours {
            prop_assert_eq!(after.neighbour(*key).and_then(|(entry, _)| entry.mac), Some(*mac));
        }
        let again = plan(&wants, &after, &Scope::All, &rules);
        prop_assert_eq!(again.ops, vec![]);
        prop_assert_eq!(again.adopt, vec![]);
        prop_assert_eq!(again.adopt_neighbours, vec![]);
        prop_assert_eq!(again.grace_routes, all.grace_routes);

        // After the grace nothing is left on pod interfaces but what is wanted.
        if late && remove_external {
            for route in after.routes().filter(|route| matches!(route.device, Some(1 | 2))) {
                let wanted = wants.routes.get(&route.destination);
                let fits = wanted.is_some_and(|want| satisfies(route, want, &rules));
                prop_assert!(fits || untouchable(route), "{route:?}");
            }
        }
        // What is counted is what is there.
        for kind in [RouteKind::Unicast, RouteKind::Blackhole] {
            let there = after.routes().filter(|route| route.kind == kind).count();
            prop_assert_eq!(after.count(kind), there);
        }
    }

    #[test]
    fn reading_one_interface_equals_reading_all(
        before in prop::collection::vec(any_route(), 0..8),
        now in prop::collection::vec(any_route(), 0..8),
        neighbours in prop::collection::vec(any_neighbour(), 0..4),
    ) {
        // The kernel changed on interface 1 only.
        let elsewhere = |route: &&Route| route.device != Some(1);
        let mut now: Vec<Route> = now.into_iter().filter(|route| !elsewhere(&route)).collect();
        let mut piecewise = Actual::default();
        piecewise.set_all(before.clone(), Vec::new(), Duration::ZERO);
        let mut whole = piecewise.clone();
        let fresh: Vec<Neighbour> =
            neighbours.into_iter().filter(|entry| entry.device == 1).collect();
        let (touched, _) = piecewise.set_device(1, now.clone(), fresh.clone(), Duration::from_secs(1));
        now.extend(before.iter().filter(elsewhere));
        whole.set_all(now, fresh, Duration::from_secs(1));
        prop_assert_eq!(&piecewise, &whole);
        for route in before.iter().filter(|route| !elsewhere(route)) {
            prop_assert!(touched.contains(&route.destination));
        }
    }
}
