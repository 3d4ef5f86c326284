//! Each criterion of a rule beside a packet that it does not mean.

use super::*;

#[test]
fn each_criterion_of_a_rule() {
    let ports = |list: &[(u16, u16)]| -> Vec<PortRange> {
        list.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect()
    };
    let udp = Flow { protocol: Some(Protocol::UDP), ..v4() };
    let ping = |kind, code| Flow {
        protocol: Some(Protocol::ICMP),
        ports: None,
        icmp: Some((kind, code)),
        ..v4()
    };
    let ping6 = Flow { protocol: Some(Protocol::ICMPV6), ports: None, icmp: Some((8, 0)), ..v6() };
    let gre = Flow { protocol: Protocol::from_number(47), ports: None, ..v4() };
    type Change = Box<dyn Fn(&mut ActiveRule)>;
    let cases: Vec<(&str, Change, Vec<Flow>, Vec<Flow>)> = vec![
        ("nothing", Box::new(|_| {}), vec![v4(), v6(), udp, ping(8, 0), gre], vec![]),
        ("family", Box::new(|r| r.family = Some(Family::V6)), vec![v6()], vec![v4()]),
        ("protocol", Box::new(|r| r.protocol = Some(Protocol::TCP)), vec![v4(), v6()], vec![udp]),
        ("not protocol", Box::new(|r| r.not_protocol = Some(Protocol::TCP)), vec![udp], vec![v4()]),
        (
            "ports need a protocol that has them",
            Box::new(move |r| r.destination.ports = ports(&[(80, 82), (90, 90)])),
            vec![v4(), udp, tcp("10.65.0.1", "10.65.0.2", 90)],
            vec![tcp("10.65.0.1", "10.65.0.2", 83), gre, ping(8, 0)],
        ),
        (
            "not ports",
            Box::new(move |r| r.destination.not_ports = ports(&[(80, 80)])),
            vec![tcp("10.65.0.1", "10.65.0.2", 83)],
            vec![v4(), gre, ping(8, 0)],
        ),
        (
            "source ports",
            Box::new(move |r| r.source.ports = ports(&[(40_000, 40_000)])),
            vec![v4()],
            vec![Flow { ports: Some((40_001, 80)), ..v4() }],
        ),
        (
            "type and code",
            Box::new(|r| r.icmp = Some(IcmpMatch { icmp_type: 8, code: Some(0) })),
            vec![ping(8, 0), ping6],
            vec![ping(8, 1), ping(0, 0), v4()],
        ),
        (
            "not that type",
            Box::new(|r| r.not_icmp = Some(IcmpMatch { icmp_type: 8, code: None })),
            vec![ping(0, 0)],
            vec![ping(8, 0), ping(8, 1), v4()],
        ),
        (
            "a type of another protocol",
            Box::new(|r| {
                r.protocol = Some(Protocol::ICMP);
                r.icmp = Some(IcmpMatch { icmp_type: 8, code: None });
            }),
            vec![ping(8, 0)],
            vec![ping6],
        ),
        (
            "nets",
            Box::new(|r| r.source.nets = nets(&["10.65.0.0/30", "192.0.2.0/24"])),
            vec![v4()],
            vec![v6(), tcp("10.65.0.4", "10.65.0.2", 80)],
        ),
        (
            "not nets, of one family only",
            Box::new(|r| r.source.not_nets = nets(&["10.65.0.0/32"])),
            vec![v4()],
            vec![v6(), tcp("10.65.0.0", "10.65.0.2", 80)],
        ),
        (
            "everything excluded",
            Box::new(|r| r.source.not_nets = nets(&["0.0.0.0/0", "::/0"])),
            vec![],
            vec![v4(), v6()],
        ),
        (
            "sets",
            Box::new(|r| r.source.sets = vec![SetId::new("s:nets"), SetId::new("s:all")]),
            vec![v4(), v6()],
            vec![tcp("10.65.1.0", "10.65.0.2", 80), tcp("fd66::1", "fd65::2", 80)],
        ),
        (
            "not in a set",
            Box::new(|r| r.source.not_sets = vec![SetId::new("s:nets")]),
            vec![tcp("10.65.1.0", "10.65.0.2", 80)],
            vec![v4(), v6()],
        ),
        (
            "a named port or a number",
            Box::new(|r| {
                r.destination.named_ports = vec![SetId::new("n:web")];
                r.destination.ports = vec![PortRange::single(443)];
            }),
            vec![v4(), tcp("10.65.0.1", "10.65.0.2", 443)],
            vec![v6(), udp, tcp("10.65.0.1", "10.65.0.2", 81)],
        ),
        (
            "not a named port",
            Box::new(|r| r.destination.not_named_ports = vec![SetId::new("n:web")]),
            vec![v6(), udp, gre, tcp("10.65.0.1", "10.65.0.2", 81)],
            vec![v4()],
        ),
        (
            "a named port of a protocol that has none",
            Box::new(|r| {
                r.protocol = Some(Protocol::ICMP);
                r.destination.not_named_ports = vec![SetId::new("n:web")];
            }),
            vec![],
            vec![ping(8, 0), v4()],
        ),
    ];
    for (what, change, yes, no) in cases {
        let mut state = state(vec![rule(change)]);
        state.sets.insert(SetId::new("s:nets"), set(&["10.65.0.0/24", "fd65::/64", "10.9.0.0/16"]));
        state.sets.insert(SetId::new("s:all"), set(&["0.0.0.0/0", "::/0"]));
        let web = [Member::Port(ip("10.65.0.2"), Protocol::TCP, 80)].into_iter().collect();
        let web = AddressSet { kind: SetKind::Port, selector: Arc::from("web"), members: web };
        state.sets.insert(SetId::new("n:web"), web);
        for flow in yes {
            assert!(passes(&state, flow), "{what}: {flow:?} {:?}", ask(&state, flow));
        }
        for flow in no {
            assert!(!passes(&state, flow), "{what}: {flow:?} {:?}", ask(&state, flow));
        }
    }
}
