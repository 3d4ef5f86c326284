//! What rules can say.

use calico_datastore::model::{Action, Cidr, Family, Peer, Protocol, Rule, Unevaluable, Update};

use super::{Feature, each_list, each_rule};

pub(super) const FEATURES: &[Feature] = &[
    Feature::objects("protocol", 450, |u| each_rule(u, |r| r.protocol = None)),
    Feature::objects("notProtocol", 40, |u| each_rule(u, |r| r.not_protocol = None)),
    Feature::objects("icmp", 10, |u| each_rule(u, |r| r.icmp = None)),
    Feature::objects("code of icmp", 2, |u| {
        each_rule(u, |r| r.icmp.iter_mut().for_each(|icmp| icmp.code = None));
    }),
    Feature::objects("notICMP", 5, |u| each_rule(u, |r| r.not_icmp = None)),
    Feature::objects("code of notICMP", 4, |u| {
        each_rule(u, |r| r.not_icmp.iter_mut().for_each(|icmp| icmp.code = None));
    }),
    Feature::objects("ipVersion", 30, |u| each_rule(u, |r| r.family = None)),
    Feature::objects("source nets", 70, |u| each_rule(u, |r| r.source.nets.clear())),
    Feature::objects("destination nets", 65, |u| each_rule(u, |r| r.destination.nets.clear())),
    Feature::objects("source notNets", 50, |u| each_rule(u, |r| r.source.not_nets.clear())),
    Feature::objects("destination notNets", 45, |u| {
        each_rule(u, |r| r.destination.not_nets.clear());
    }),
    Feature::objects("nets of one family", 85, |u| {
        each_side(u, |side| side.nets.extend(missing(&side.nets, ["0.0.0.0/0", "::/0"])));
    }),
    Feature::objects("notNets of one family", 40, |u| {
        each_side(u, |side| {
            side.not_nets.extend(missing(&side.not_nets, ["198.18.0.0/32", "2001:db8:ffff::/128"]));
        });
    }),
    Feature::objects("source selector", 100, |u| each_rule(u, |r| r.source.selector = None)),
    Feature::objects("destination selector", 100, |u| {
        each_rule(u, |r| r.destination.selector = None);
    }),
    Feature::objects("source notSelector", 25, |u| each_rule(u, |r| r.source.not_selector = None)),
    Feature::objects("destination notSelector", 20, |u| {
        each_rule(u, |r| r.destination.not_selector = None);
    }),
    Feature::objects("source ports", 15, |u| each_rule(u, |r| r.source.ports.ranges.clear())),
    Feature::objects("destination ports", 45, |u| {
        each_rule(u, |r| r.destination.ports.ranges.clear());
    }),
    Feature::objects("source notPorts", 6, |u| {
        each_rule(u, |r| r.source.not_ports.ranges.clear());
    }),
    Feature::objects("destination notPorts", 10, |u| {
        each_rule(u, |r| r.destination.not_ports.ranges.clear());
    }),
    Feature::objects("source named ports", 10, |u| {
        each_rule(u, |r| r.source.ports.named.clear());
    }),
    Feature::objects("destination named ports", 45, |u| {
        each_rule(u, |r| r.destination.ports.named.clear());
    }),
    Feature::objects("named notPorts", 2, |u| {
        each_side(u, |side| side.not_ports.named.clear());
    }),
    Feature::objects("named ports without protocol", 20, |u| {
        each_rule(u, |r| {
            if r.protocol.is_none() {
                r.destination.ports.named.clear();
                r.destination.not_ports.named.clear();
            }
        });
    }),
    Feature::objects("protocol of a named port", 5, |u| {
        each_named_port(u, |protocol| *protocol = Protocol::TCP);
    }),
    Feature::objects("Allow", 750, |u| without_action(u, Action::Allow, true, true)),
    Feature::objects("Deny", 100, |u| without_action(u, Action::Deny, true, true)),
    Feature::objects("Pass in a policy", 90, |u| without_action(u, Action::Pass, true, false)),
    Feature::objects("Pass in a profile", 3, |u| without_action(u, Action::Pass, false, true)),
    Feature::objects("Log decides nothing", 100, |u| {
        each_rule(u, |r| {
            if r.action == Action::Log {
                r.action = Action::Allow;
            }
        });
    }),
    Feature::objects("services", 20, |u| {
        known(u, |r| r.unevaluable == Some(Unevaluable::Services))
    }),
    Feature::objects("http of an Allow or a Pass", 25, |u| {
        known(u, |r| r.unevaluable == Some(Unevaluable::Http) && r.action != Action::Deny);
    }),
    Feature::objects("http of a Deny", 5, |u| {
        each_list(u, |rules, _| {
            rules.iter_mut().for_each(|rule| {
                if rule.unevaluable == Some(Unevaluable::Http) && rule.action == Action::Deny {
                    rule.unevaluable = Some(Unevaluable::Services);
                }
            });
        });
    }),
];

fn each_side(updates: &mut [Update], mut change: impl FnMut(&mut Peer)) {
    each_rule(updates, |rule| {
        change(&mut rule.source);
        change(&mut rule.destination);
    });
}

/// What gives a list that is of one family something of the other.
fn missing(nets: &[Cidr], of_all: [&str; 2]) -> Vec<Cidr> {
    let lacks = |family: Family| nets.iter().all(|net| net.family() != family);
    let of_all = Family::ALL.into_iter().zip(of_all);
    let given = of_all.filter(|(family, _)| !nets.is_empty() && lacks(*family));
    given.filter_map(|(_, net)| net.parse().ok()).collect()
}

/// Rules with an action log instead: they keep their places and decide nothing.
fn without_action(updates: &mut [Update], action: Action, policies: bool, profiles: bool) {
    each_list(updates, |rules, of_policy| {
        let meant = if of_policy { policies } else { profiles };
        for rule in rules.iter_mut().filter(|rule| meant && rule.action == action) {
            rule.action = Action::Log;
        }
    });
}

fn known(updates: &mut [Update], meant: impl Fn(&Rule) -> bool) {
    each_rule(updates, |rule| {
        if meant(rule) {
            rule.unevaluable = None;
        }
    });
}

fn each_named_port(updates: &mut [Update], change: impl Fn(&mut Protocol)) {
    use std::sync::Arc;
    for update in updates {
        let ports = match update {
            Update::WorkloadEndpoint(_, Some(endpoint)) => &mut Arc::make_mut(endpoint).ports,
            Update::HostEndpoint(_, Some(endpoint)) => &mut Arc::make_mut(endpoint).ports,
            _ => continue,
        };
        ports.iter_mut().for_each(|port| change(&mut port.protocol));
    }
}
