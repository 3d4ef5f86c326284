//! The tutorial's tables were written by hand: the evaluator must agree with them.

use super::*;
use crate::matrix::Family;
use crate::probe::Service;
use crate::tutorial::{self, PODS, SERVICES};

fn packet(from: IpAddr, to: IpAddr, service: Service) -> Packet {
    let (protocol, port, icmp) = match (service, from) {
        (Service::Tcp(port), _) => (6, Some(port), None),
        (Service::Udp(port), _) => (17, Some(port), None),
        (Service::Icmp, IpAddr::V4(_)) => (1, None, Some((8, 0))),
        (Service::Icmp, IpAddr::V6(_)) => (58, None, Some((128, 0))),
    };
    Packet { from, to, protocol, source_port: port.map(|_| 40000), port, icmp }
}

#[test]
fn it_agrees_with_the_tutorials_tables() {
    for (policy, asked) in [(false, 48 * 2), (true, 48 * 2)] {
        let mut pairs: BTreeMap<_, _> = tutorial::base().into_iter().collect();
        pairs.extend(tutorial::workloads());
        if policy {
            pairs.extend(tutorial::policies());
        }
        let evaluator = Evaluator::new(pairs);
        assert_eq!(evaluator.refused, BTreeMap::new());
        let mut count = 0;
        for family in [Family::V4, Family::V6] {
            let mut table = tutorial::expected(policy, family).unwrap();
            for from in PODS {
                for to in PODS.iter().filter(|to| to.name != from.name) {
                    let address = |pod: &tutorial::PodSpec| match family {
                        Family::V4 => IpAddr::from(pod.v4),
                        Family::V6 => IpAddr::from(pod.v6),
                    };
                    let mut letters = String::new();
                    for (letter, service) in SERVICES {
                        let packet = packet(address(&from), address(to), service);
                        let passes = |direction| evaluator.judge(direction, &packet).passes;
                        if passes(Direction::Egress) && passes(Direction::Ingress) {
                            letters.push(letter);
                        }
                        count += 1;
                    }
                    let before = format!("{table:?}");
                    let letters = if letters.len() == SERVICES.len() { "htui" } else { &letters };
                    table.set(from.name, to.name, letters);
                    assert_eq!(before, format!("{table:?}"), "{} {}", from.name, to.name);
                }
            }
        }
        assert_eq!(count, asked);
    }
}
