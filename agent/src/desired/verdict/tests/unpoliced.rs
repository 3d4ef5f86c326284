//! Endpoints on interfaces that are none of pods: no rule asks about them, so nothing is denied.

use super::*;

/// Endpoint 2 takes nothing, and is on `interface`.
fn on(interface: &str) -> DesiredState {
    let mut state = state(vec![]);
    rename(&mut state, 2, interface);
    state
}

fn rename(state: &mut DesiredState, n: u8, interface: &str) {
    let mut endpoint = LocalEndpoint::clone(&state.endpoints[&id(n)]);
    endpoint.interface = interface.parse().unwrap();
    state.endpoints.insert(id(n), Arc::new(endpoint));
}

fn asked(state: &DesiredState, n: u8, side: Side, flow: &Flow) -> (bool, Reason) {
    let host = BTreeSet::new();
    let verdict = Judge::new(state, &host).ask(&id(n), side, flow).unwrap();
    (verdict.allowed, verdict.reason)
}

#[test]
fn nobody_is_asked_about_them() {
    let denied = (Side::Destination, false, Reason::NothingAllows);
    assert!(ask(&on("cali2"), v4()).contains(&denied));
    let state = on("eth7");
    assert!(ask(&state, v4()).iter().all(|(side, ..)| *side == Side::Source));
    assert!(passes(&state, v4()));
    assert_eq!(asked(&state, 2, Side::Destination, &v4()), (true, Reason::NotOfPods));
    // Nor about what they send, whatever its source.
    let sent = tcp("10.65.0.2", "198.51.100.7", 80);
    assert_eq!(ask(&state, sent), []);
    let as_another = tcp("10.65.0.9", "198.51.100.7", 80);
    assert_eq!(asked(&state, 2, Side::Source, &as_another), (true, Reason::NotOfPods));
    let host = BTreeSet::new();
    assert_eq!(Judge::new(&state, &host).endpoints_with(ip("10.65.0.2")), [&id(2)]);
    // With that prefix they are pods like any other.
    let mut both = on("eth7");
    let interface_prefixes = vec!["cali".to_owned(), "eth".to_owned()];
    both.settings = Arc::new(Settings { interface_prefixes, ..Settings::default() });
    assert!(ask(&both, v4()).contains(&denied));
}

#[test]
fn one_that_is_down_is_not_policed_either() {
    let mut state = on("eth7");
    let mut endpoint = LocalEndpoint::clone(&state.endpoints[&id(2)]);
    endpoint.active = false;
    state.endpoints.insert(id(2), Arc::new(endpoint));
    assert!(passes(&state, v4()));
    assert_eq!(asked(&state, 2, Side::Destination, &v4()), (true, Reason::NotOfPods));
}

#[test]
fn who_shares_its_interface_does_not_take_it_from_a_pod() {
    let mut state = on("eth7");
    rename(&mut state, 1, "eth7");
    for n in [1, 2] {
        let there = if n == 1 { Side::Source } else { Side::Destination };
        assert_eq!(asked(&state, n, there, &v4()), (true, Reason::NotOfPods), "{n}");
    }
}

#[test]
fn its_address_is_not_taken_for_a_listed_one() {
    let mut state = on("eth7");
    state.settings = Arc::new(Settings { source_spoofing: true, ..Settings::default() });
    let mut lister = LocalEndpoint::clone(&state.endpoints[&id(1)]);
    lister.spoof = nets(&["10.65.0.0/24"]);
    state.endpoints.insert(id(1), Arc::new(lister));
    put_profile(&mut state, "none", vec![]);
    let host = BTreeSet::new();
    let asked = |source: &str| {
        Judge::new(&state, &host).ask_spoofers(&tcp(source, "198.51.100.7", 80)).len()
    };
    // Nobody else has 10.65.0.9; what comes from 10.65.0.2 is of the endpoint that is not policed.
    assert_eq!((asked("10.65.0.9"), asked("10.65.0.2")), (1, 0));
}

#[test]
fn what_passes_unasked_is_not_denied_for_a_pod_that_is_down() {
    let mut state = on("eth7");
    put_endpoint(&mut state, 3, &class(vec![], &["none"]));
    let mut down = LocalEndpoint::clone(&state.endpoints[&id(3)]);
    (down.active, down.addresses) = (false, nets(&["10.65.0.2/32"]));
    state.endpoints.insert(id(3), Arc::new(down));
    assert!(passes(&state, v4()));
    assert_eq!(asked(&state, 3, Side::Destination, &v4()), (false, Reason::NotInForce));
}

/// A prefix that holds every address says of none whose it is.
#[test]
fn who_may_use_every_address_does_not_speak_for_others() {
    let mut state = on("eth7");
    put_endpoint(&mut state, 3, &class(vec![], &["none"]));
    let change = |state: &mut DesiredState, n, change: &dyn Fn(&mut LocalEndpoint)| {
        let mut endpoint = LocalEndpoint::clone(&state.endpoints[&id(n)]);
        change(&mut endpoint);
        state.endpoints.insert(id(n), Arc::new(endpoint));
    };
    state.settings = Arc::new(Settings { source_spoofing: true, ..Settings::default() });
    change(&mut state, 1, &|lister| lister.spoof = nets(&["10.66.0.0/16"]));
    change(&mut state, 2, &|stray| stray.addresses = nets(&["10.65.0.2/32", "0.0.0.0/0"]));
    change(&mut state, 3, &|down| down.active = false);
    let denied = (Side::Destination, false, Reason::NotInForce);
    assert_eq!(ask(&state, tcp("198.51.100.7", "10.65.0.3", 80)), [denied]);
    let host = BTreeSet::new();
    let listed = tcp("10.66.0.5", "198.51.100.7", 80);
    assert_eq!(Judge::new(&state, &host).ask_spoofers(&listed).len(), 1);
    // Who is down neither: nobody else's packets are denied for it.
    change(&mut state, 3, &|down| down.addresses = nets(&["0.0.0.0/0"]));
    assert_eq!(ask(&state, tcp("198.51.100.7", "198.51.100.8", 80)), []);
    let passed = tcp("10.65.0.2", "198.51.100.8", 80);
    assert_eq!(asked(&state, 2, Side::Source, &passed), (true, Reason::NotOfPods));
}

#[test]
fn an_address_is_of_an_endpoint_once() {
    let mut state = on("eth7");
    let host = BTreeSet::new();
    for interface in ["eth7", "cali7"] {
        rename(&mut state, 2, interface);
        let mut twice = LocalEndpoint::clone(&state.endpoints[&id(2)]);
        twice.addresses = nets(&["10.65.0.0/24", "10.65.0.2/32", "10.65.0.0/16"]);
        state.endpoints.insert(id(2), Arc::new(twice));
        assert_eq!(Judge::new(&state, &host).endpoints_with(ip("10.65.0.2")), [&id(2)]);
    }
}

#[test]
fn they_are_looked_up_and_not_searched() {
    const MANY: u32 = 50_000;
    let mut state = state(vec![]);
    let address = |n| IpAddr::from(std::net::Ipv4Addr::from(0x0a80_0000 + n));
    let like = LocalEndpoint::clone(&state.endpoints[&id(2)]);
    for n in 0..MANY {
        let endpoint = LocalEndpoint {
            interface: format!("eth{n}").parse().unwrap(),
            addresses: vec![Cidr::host(address(n))],
            ..like.clone()
        };
        let id = WorkloadEndpointId { workload: Name::from(format!("stray{n}")), ..id(2) };
        state.endpoints.insert(id, Arc::new(endpoint));
    }
    let host = BTreeSet::new();
    let judge = Judge::new(&state, &host);
    // Each a search through all of them would take minutes.
    for n in 0..MANY {
        let flow = Flow { source: address(n), destination: address(2 * n), ..v4() };
        assert_eq!(judge.judge(&flow), []);
        assert_eq!(judge.endpoints_with(flow.source).len(), 1);
    }
}
