use super::*;

/// Endpoint 2 takes what it gets; endpoint 1 may send to port 80 only, and lists prefixes.
fn listing(spoof: &[&str]) -> DesiredState {
    let mut state = state(vec![any(Action::Allow)]);
    let to_80 = rule(|rule| {
        rule.protocol = Some(Protocol::TCP);
        rule.destination.ports = vec![PortRange::single(80)];
    });
    let rules = ActiveRules { ingress: Vec::new(), egress: vec![to_80] };
    state.profiles.insert(Name::from("none"), Arc::new(rules));
    let mut endpoint = (*state.endpoints[&id(1)]).clone();
    endpoint.spoof = nets(spoof);
    state.endpoints.insert(id(1), Arc::new(endpoint));
    state.settings = Arc::new(Settings { source_spoofing: true, ..Settings::default() });
    state
}

fn suspects(state: &DesiredState, flow: Flow) -> Vec<(WorkloadEndpointId, bool)> {
    let host = BTreeSet::from([ip(HOST), ip("2001:db8::1")]);
    let verdicts = Judge::new(state, &host).ask_spoofers(&flow);
    assert!(verdicts.iter().all(|one| one.side == Side::Source));
    let workload = |one: &Verdict| one.subject.workload().cloned().unwrap();
    verdicts.iter().map(|one| (workload(one), one.allowed)).collect()
}

#[test]
fn who_lists_a_source_is_asked_about_it() {
    let state = listing(&["10.66.0.0/16", "fd66::/64"]);
    for (from, to) in [("10.66.0.5", "10.65.0.2"), ("fd66::5", "fd65::2")] {
        assert_eq!(suspects(&state, tcp(from, to, 80)), [(id(1), true)]);
        assert_eq!(suspects(&state, tcp(from, to, 81)), [(id(1), false)]);
    }
    // Somebody else's address, and one that only another host would have.
    assert_eq!(suspects(&state, tcp("10.67.0.5", "10.65.0.2", 81)), []);
    assert_eq!(suspects(&state, tcp("10.66.0.5", "198.51.100.9", 81)), [(id(1), false)]);
    // The default of `DefaultEndpointToHostAction` drops what is for the host.
    assert_eq!(suspects(&state, tcp("10.66.0.5", HOST, 80)), [(id(1), false)]);

    // Without leave the list is nothing, and neither is that of one that is not in force.
    let mut honest = state.clone();
    honest.settings = Arc::default();
    assert_eq!(suspects(&honest, tcp("10.66.0.5", "10.65.0.2", 81)), []);
    let mut down = state;
    let mut endpoint = (*down.endpoints[&id(1)]).clone();
    endpoint.active = false;
    down.endpoints.insert(id(1), Arc::new(endpoint));
    assert_eq!(suspects(&down, tcp("10.66.0.5", "10.65.0.2", 81)), []);
}

#[test]
fn who_lists_everything_is_not_asked_about_what_cannot_be_his() {
    let state = listing(&["0.0.0.0/0", "::/0"]);
    assert_eq!(suspects(&state, tcp("198.51.100.9", "10.65.0.2", 81)), [(id(1), false)]);
    // The host's own, an endpoint's own (the owner is judged), and what is for itself.
    assert_eq!(suspects(&state, tcp("10.65.0.2", "198.51.100.9", 81)), []);
    assert_eq!(suspects(&state, tcp(HOST, "198.51.100.9", 81)), []);
    assert_eq!(suspects(&state, tcp("10.65.0.1", "198.51.100.9", 81)), []);
    assert_eq!(suspects(&state, tcp("198.51.100.9", "10.65.0.1", 81)), []);
    assert_eq!(suspects(&state, tcp("2001:db8::1", "fd65::2", 81)), []);
}
