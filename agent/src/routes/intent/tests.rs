//! The property that carries the fast path: what one change makes stale is enough.

use super::*;

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::desired::{AclClass, DesiredState};
use crate::reconcile::World;
use crate::routes::monitor::Link;
use crate::routes::plan::{Actual, BOOT_PROTOCOL, RouteKind, Scope, plan};

const NAMES: [&str; 3] = ["a", "b", "c"];
const INTERFACES: [&str; 4] = ["cali1", "cali2", "cali3", "other"];
const ADDRESSES: [&str; 5] =
    ["10.65.0.2/32", "10.65.0.3/32", "10.65.0.0/26", "fd00::2/128", "fe80::2/128"];
/// The last one may also be an own address.
const EXTERNAL: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 65, 0, 2)),
];
const BLOCKS: [&str; 3] = ["10.65.0.0/26", "10.65.0.2/32", "fd00::/122"];

/// One step of the world.
#[derive(Clone, Debug)]
enum Step {
    Endpoint {
        name: usize,
        interface: usize,
        addresses: Vec<usize>,
        nat: Vec<usize>,
        mac: u8,
        active: bool,
    },
    Gone(usize),
    Link {
        interface: usize,
        index: u32,
        up: bool,
    },
    NoLink(usize),
    Block(usize),
    NoBlock(usize),
    Ipv6(bool),
    FloatingIps(bool),
    /// Whether the interface `other` is one of pods, too.
    Prefix(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let addresses = prop::collection::btree_set(0usize..5, 1..4);
    let externals = prop::collection::btree_set(0usize..4, 0..3);
    prop_oneof![
        4 => (
            (0usize..3, 0usize..4), addresses, externals, 0u8..3, prop::bool::weighted(0.8)
        ).prop_map(
            |((name, interface), addresses, nat, mac, active)| Step::Endpoint {
                name,
                interface,
                addresses: addresses.into_iter().collect(),
                nat: nat.into_iter().collect(),
                mac,
                active,
            }
        ),
        1 => (0usize..3).prop_map(Step::Gone),
        3 => (0usize..4, 0u32..3, prop::bool::weighted(0.8)).prop_map(
            |(interface, generation, up)| Step::Link {
                interface,
                // Never the index of another name.
                index: 10 * (interface as u32 + 1) + generation,
                up,
            }
        ),
        1 => (0usize..4).prop_map(Step::NoLink),
        1 => (0usize..3).prop_map(Step::Block),
        1 => (0usize..3).prop_map(Step::NoBlock),
        1 => any::<bool>().prop_map(Step::Ipv6),
        1 => prop::bool::weighted(0.8).prop_map(Step::FloatingIps),
        1 => any::<bool>().prop_map(Step::Prefix),
    ]
}

fn id(name: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "host".into(),
        orchestrator: "cni".into(),
        workload: name.into(),
        endpoint: "eth0".into(),
    }
}

fn take(step: &Step, desired: &mut DesiredState, links: &mut Links) {
    match step {
        Step::Endpoint { name, interface, addresses, nat, mac, active } => {
            let endpoint = LocalEndpoint {
                interface: INTERFACES[*interface].parse().unwrap(),
                active: *active,
                mac: (*mac > 0).then(|| Mac::new([*mac; 6])),
                addresses: addresses.iter().map(|i| ADDRESSES[*i].parse().unwrap()).collect(),
                nat: nat.iter().map(|i| EXTERNAL[*i]).map(|a| (a, a)).collect(),
                spoof: Vec::new(),
                class: AclClass::default().id(),
            };
            desired.endpoints.insert(id(NAMES[*name]), Arc::new(endpoint));
        }
        Step::Gone(name) => {
            desired.endpoints.remove(&id(NAMES[*name]));
        }
        Step::Link { interface, index, up } => {
            let link = Link { index: *index, up: *up, mac: None, mtu: 1500, ..Link::default() };
            links.insert(INTERFACES[*interface].parse().unwrap(), link);
        }
        Step::NoLink(interface) => {
            links.remove(&INTERFACES[*interface].parse::<InterfaceName>().unwrap());
        }
        Step::Block(block) => {
            desired.blocks.insert(BLOCKS[*block].parse().unwrap());
        }
        Step::NoBlock(block) => {
            desired.blocks.remove(&BLOCKS[*block].parse::<Cidr>().unwrap());
        }
        Step::Ipv6(ipv6) => {
            let settings = Settings { ipv6: *ipv6, ..(*desired.settings).clone() };
            desired.settings = Arc::new(settings);
        }
        Step::Prefix(other) => {
            let prefixes = if *other { &["cali", "other"][..] } else { &["cali"] };
            let interface_prefixes = prefixes.iter().map(|&text| text.to_owned()).collect();
            let settings = Settings { interface_prefixes, ..(*desired.settings).clone() };
            desired.settings = Arc::new(settings);
        }
        Step::FloatingIps(floating_ips) => {
            let floating_ips = *floating_ips;
            let settings = Settings { floating_ips, ..(*desired.settings).clone() };
            desired.settings = Arc::new(settings);
        }
    }
}

proptest! {
    #[test]
    fn what_is_stale_is_enough(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut desired = DesiredState::default();
        let mut links = Links::default();
        let mut intent = Intent::default();
        let mut actual = Actual::default();
        let mut states = BTreeMap::new();
        for (second, step) in steps.iter().enumerate() {
            // Far enough apart that no grace keeps anything.
            let now = Duration::from_secs(20 * second as u64);
            take(step, &mut desired, &mut links);
            let world = World { desired: Arc::new(desired.clone()), links: links.clone() };
            let mut stale = intent.update(&world);
            for device in &stale.gone {
                let (destinations, neighbours) = actual.forget_device(*device);
                stale.destinations.extend(destinations);
                stale.neighbours.extend(neighbours);
            }
            // The index on the fly is the index from scratch.
            let mut fresh = Intent::default();
            fresh.update(&world);
            prop_assert_eq!(&fresh.claims, &intent.claims);
            prop_assert_eq!(&fresh.users, &intent.users);
            prop_assert_eq!(&fresh.externals, &intent.externals);
            prop_assert_eq!(&fresh.claimed, &intent.claimed);
            prop_assert_eq!(fresh.asking, intent.asking);

            let scope = if stale.everything {
                Scope::All
            } else {
                Scope::Only {
                    destinations: stale.destinations.clone(),
                    neighbours: stale.neighbours.clone(),
                }
            };
            let made = plan(&intent, &actual, &scope, &intent.rules(now));
            for op in &made.ops {
                actual.apply(op, now);
            }
            let later = now + Duration::from_secs(15);
            let left = plan(&intent, &actual, &Scope::All, &intent.rules(later));
            prop_assert_eq!(left.ops, vec![], "after {:?} with {:?}", step, stale);
            // Whoever's state is another now is named, as the reconciler asks for them.
            let mut named = stale.endpoints.clone();
            for destination in &stale.destinations {
                named.extend(intent.claimants(destination).cloned());
            }
            for (device, _) in &stale.neighbours {
                named.extend(intent.users(*device).cloned());
            }
            if stale.everything {
                named.extend(intent.endpoints().cloned());
            }
            for id in named {
                match intent.state(&id) {
                    Some(state) => states.insert(id, state),
                    None => states.remove(&id),
                };
            }
            let all: BTreeMap<_, _> = fresh
                .endpoints()
                .filter_map(|id| Some((id.clone(), fresh.state(id)?)))
                .collect();
            prop_assert_eq!(&states, &all, "after {:?} with {:?}", step, stale);
        }
    }
}

/// A mistake in an endpoint must not cost the host its way out.
#[test]
fn an_endpoint_that_names_an_interface_of_the_host_is_refused_and_changes_nothing_there() {
    let mut desired = DesiredState::default();
    let mut links = Links::default();
    links.insert("eth0".parse().unwrap(), Link { index: 2, up: true, ..Link::default() });
    let endpoint = LocalEndpoint {
        interface: "eth0".parse().unwrap(),
        active: true,
        mac: Some(Mac::new([2; 6])),
        addresses: vec!["10.65.0.2/32".parse().unwrap()],
        nat: vec![(EXTERNAL[0], "10.65.0.2".parse().unwrap())],
        spoof: Vec::new(),
        class: AclClass::default().id(),
    };
    desired.endpoints.insert(id("a"), Arc::new(endpoint));
    let uplink = Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        metric: 0,
        tos: 0,
        scope: 0,
        kind: RouteKind::Unicast,
        device: Some(2),
        indirect: true,
        // As ip(8) writes it.
        protocol: BOOT_PROTOCOL,
        source: None,
    };
    let mut actual = Actual::default();
    actual.set_all(vec![uplink], Vec::new(), Duration::ZERO);
    let mut intent = Intent::default();
    let ops = |desired: &DesiredState, intent: &mut Intent| {
        let desired = Arc::new(desired.clone());
        intent.update(&World { desired, links: links.clone() });
        // Long after any grace.
        let rules = intent.rules(Duration::from_secs(60));
        plan(intent, &actual, &Scope::All, &rules).ops
    };
    assert_eq!(ops(&desired, &mut intent), vec![]);
    let why = "interface eth0 does not begin with InterfacePrefix (cali)".to_owned();
    assert_eq!(intent.state(&id("a")), Some(EndpointState::Error(why)));
    assert!(!intent.is_watched(2));
    // It is the name that counts: with that prefix the interface is one of pods.
    let interface_prefixes = vec!["cali".to_owned(), "eth0".to_owned()];
    desired.settings = Arc::new(Settings { interface_prefixes, ..Settings::default() });
    assert!(!ops(&desired, &mut intent).is_empty());
    assert_eq!(intent.state(&id("a")), Some(EndpointState::Up));
}

#[test]
fn only_where_pods_are_the_number_of_the_settings_is_looked_at() {
    let mut desired = DesiredState::default();
    let mut links = Links::default();
    links.insert("eth0".parse().unwrap(), Link { index: 2, up: true, ..Link::default() });
    links.insert("cali1".parse().unwrap(), Link { index: 3, up: true, ..Link::default() });
    // DHCP's.
    let settings = Settings { route_protocol: 16, ..Settings::default() };
    desired.settings = Arc::new(settings);
    desired.blocks.insert("10.65.0.0/26".parse().unwrap());
    let mut intent = Intent::default();
    intent.update(&World { desired: Arc::new(desired), links });
    for (destination, device, protocol, (looked_at, marked)) in [
        ("0.0.0.0/0", 2, 16, (false, false)),
        ("10.65.0.2/32", 3, 16, (true, true)),
        ("10.65.0.2/32", 3, BOOT_PROTOCOL, (true, false)),
        ("10.65.9.0/26", 2, CALICO_PROTOCOL, (true, true)),
        // In the way of a block of ours.
        ("10.65.0.0/26", 2, 16, (true, false)),
    ] {
        let route = Route {
            destination: destination.parse().unwrap(),
            metric: 0,
            tos: 0,
            scope: 0,
            kind: RouteKind::Unicast,
            device: Some(device),
            indirect: device == 2,
            protocol,
            source: None,
        };
        assert_eq!(
            (intent.concerns(&route), intent.is_marked(&route)),
            (looked_at, marked),
            "{route:?}"
        );
    }
}

#[test]
fn one_change_of_many_makes_little_stale() {
    let mut desired = DesiredState::default();
    let mut links = Links::default();
    for number in 0..2_000u32 {
        let interface: InterfaceName = format!("cali{number}").parse().unwrap();
        links.insert(
            interface.clone(),
            Link { index: number + 2, up: true, mac: None, mtu: 1500, ..Link::default() },
        );
        let endpoint = LocalEndpoint {
            interface,
            active: true,
            mac: Some(Mac::new([2; 6])),
            addresses: vec![Cidr::host(IpAddr::V4((0x0a41_0000 + number).into()))],
            nat: Vec::new(),
            spoof: Vec::new(),
            class: AclClass::default().id(),
        };
        desired.endpoints.insert(id(&number.to_string()), Arc::new(endpoint));
    }
    let mut intent = Intent::default();
    let world =
        |desired: &DesiredState| World { desired: Arc::new(desired.clone()), links: links.clone() };
    intent.update(&world(&desired));
    let mut one = (*desired.endpoints[&id("7")]).clone();
    one.mac = Some(Mac::new([4; 6]));
    desired.endpoints.insert(id("7"), Arc::new(one));
    let stale = intent.update(&world(&desired));
    assert!(!stale.everything);
    assert_eq!(
        (stale.destinations.len(), stale.neighbours.len(), stale.endpoints.len()),
        (1, 1, 1)
    );
    assert!(stale.read.is_empty() && stale.gone.is_empty());
    assert_eq!(intent.update(&world(&desired)), Stale::default());
}

/// Each generation comes here, and to decide costs all endpoints.
#[test]
fn who_has_an_external_address_is_decided_again_when_anything_differs_that_decides() {
    let mut desired = DesiredState::default();
    let mut links = Links::default();
    for step in [
        Step::FloatingIps(true),
        Step::Link { interface: 0, index: 10, up: true },
        Step::Link { interface: 1, index: 20, up: true },
        Step::Endpoint {
            name: 0,
            interface: 0,
            addresses: vec![0],
            nat: vec![0],
            mac: 1,
            active: true,
        },
        Step::Endpoint {
            name: 1,
            interface: 1,
            addresses: vec![1],
            nat: vec![0],
            mac: 1,
            active: true,
        },
    ] {
        take(&step, &mut desired, &mut links);
    }
    let world = |desired: &DesiredState, links: &Links| World {
        desired: Arc::new(desired.clone()),
        links: links.clone(),
    };
    let mut intent = Intent::default();
    intent.update(&world(&desired, &links));
    let external = Cidr::host(EXTERNAL[0]);
    assert_eq!(intent.externals.get(&external), Some(&id("a")));
    // Whoever decides puts this right.
    let nobody = id("nobody");
    intent.externals.insert(external, nobody.clone());
    desired.generation += 1;
    assert_eq!(intent.update(&world(&desired, &links)), Stale::default());
    // Blocks, and interfaces that are none of pods, decide nothing.
    take(&Step::Block(0), &mut desired, &mut links);
    take(&Step::Link { interface: 3, index: 40, up: true }, &mut desired, &mut links);
    intent.update(&world(&desired, &links));
    assert_eq!(intent.externals.get(&external), Some(&nobody));

    take(&Step::Link { interface: 0, index: 10, up: false }, &mut desired, &mut links);
    assert!(intent.update(&world(&desired, &links)).destinations.contains(&external));
    assert_eq!(intent.externals.get(&external), Some(&id("b")));
    take(&Step::Gone(1), &mut desired, &mut links);
    intent.update(&world(&desired, &links));
    assert_eq!(intent.externals.get(&external), Some(&id("a")));
    take(&Step::FloatingIps(false), &mut desired, &mut links);
    intent.update(&world(&desired, &links));
    assert!(intent.externals.is_empty());
}
