//! Host endpoints that police their node, policies about them, and the host itself.

use calico_datastore::model::{Cidr, Protocol};
use calico_reference::{Failsafe, Host, Interface};
use serde_json::{Map, Value, json};

use super::endpoints::profiles;
use super::{Drawing, NODES, policies, rules, selectors};
use crate::chance::Chance;

/// The interfaces of the node, each with what its addresses end in.
pub(crate) const INTERFACES: [&str; 2] = ["eth0", "eth1"];
/// Ports that lists of fail-safe ports name: those of rules, and some of nobody.
const PORTS: [u16; 8] = [22, 53, 80, 80, 179, 443, 443, 8080];
/// Peers of fail-safe ports.
const PEERS: [&str; 6] = [
    "10.65.0.0/29",
    "10.0.0.0/8",
    "172.18.18.0/24",
    "203.0.113.0/24",
    "fd65::/64",
    "2001:db8::/32",
];

/// The node that is looked at: two interfaces, and fail-safe ports that are the defaults for every
/// second seed.
pub(crate) fn host(seed: u64) -> Host {
    let mut c = Chance::new(!seed);
    let interface = |(number, name): (usize, &&str)| Interface {
        name: name.parse().expect("an interface"),
        addresses: addresses(number).map(|text| text.parse().expect("an address")).to_vec(),
    };
    let (failsafe_in, failsafe_out) = if seed.is_multiple_of(2) {
        let tcp = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|port| (Protocol::TCP, port));
        let any = |(protocol, port)| Failsafe { protocol, port, net: None };
        let with = |more: &[(Protocol, u16)]| more.iter().chain(&tcp).copied().map(any).collect();
        (
            with(&[(Protocol::TCP, 22), (Protocol::UDP, 68)]),
            with(&[(Protocol::UDP, 53), (Protocol::UDP, 67)]),
        )
    } else {
        (failsafes(&mut c), failsafes(&mut c))
    };
    Host {
        node: NODES[0].into(),
        interfaces: INTERFACES.iter().enumerate().map(interface).collect(),
        failsafe_in,
        failsafe_out,
    }
}

/// Those that host endpoints expect.
fn addresses(number: usize) -> [String; 2] {
    [format!("172.18.18.{}", 100 + number), format!("fd18::{number}")]
}

fn failsafes(c: &mut Chance) -> Vec<Failsafe> {
    let one = |c: &mut Chance| {
        let net = if c.percent(40) { c.one(&PEERS).parse::<Cidr>().ok() } else { None };
        let protocol = *c.one(&[Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
        Failsafe { protocol, port: *c.one(&PORTS), net }
    };
    (0..c.below(6)).map(|_| one(c)).collect()
}

impl Drawing {
    /// More host endpoints, and policies about them.
    pub(super) fn police(&mut self, has_tiers: bool) {
        for number in 0..1 + self.chance.below(3) {
            let c = &mut self.chance;
            let labels = selectors::labels(c, 65);
            let mut spec = json!({ "node": NODES[0], "profiles": profiles(c) });
            match c.below(10) {
                0..=4 => spec["interfaceName"] = json!(c.one(&INTERFACES)),
                5..=7 => spec["interfaceName"] = json!("*"),
                _ => spec["expectedIPs"] = json!(addresses(c.below(2))),
            }
            let name = format!("{}{number}", c.one(&["a", "z"]));
            self.put("hostendpoints", None, &name, labels, &spec);
        }
        // In some worlds all of them are asked at the same hook: so several are, one after the other.
        let all_of = match self.chance.below(8) {
            0 => Some(Kind::Untracked),
            1 => Some(Kind::PreDnat),
            2 => Some(Kind::Forward),
            _ => None,
        };
        for number in 0..2 + self.chance.below(5) {
            let c = &mut self.chance;
            let kind = all_of.unwrap_or(match c.below(20) {
                0..=5 => Kind::Normal,
                6..=11 => Kind::Forward,
                12..=16 => Kind::Untracked,
                _ => Kind::PreDnat,
            });
            let tier = if has_tiers { *c.one(&policies::TIERS) } else { policies::TIERS[0] };
            let name = format!("{tier}.{}{number}", c.one(&["f", "q"]));
            let spec = policy(c, tier, kind);
            self.put("globalnetworkpolicies", None, &name, Map::new(), &spec);
        }
    }
}

/// What a policy of a host endpoint is about.
#[derive(Clone, Copy)]
enum Kind {
    Normal,
    Forward,
    Untracked,
    PreDnat,
}

fn policy(c: &mut Chance, tier: &str, kind: Kind) -> Value {
    let mut spec = json!({ "tier": tier });
    if c.percent(80) {
        spec["order"] = c.one(&[json!(10), json!(10), json!(10.5), json!(-3)]).clone();
    }
    if c.percent(70) {
        let text = if c.percent(50) { "all()".into() } else { selectors::selector(c) };
        spec["selector"] = json!(text);
    }
    let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"]), json!([])];
    spec["types"] = c.one(&types).clone();
    for direction in ["ingress", "egress"] {
        spec[direction] = rules::rules(c, Some(false), 4).into();
    }
    match kind {
        Kind::Normal => {}
        Kind::Forward => spec["applyOnForward"] = json!(true),
        Kind::Untracked => {
            spec["applyOnForward"] = json!(true);
            spec["doNotTrack"] = json!(true);
        }
        Kind::PreDnat => {
            spec["applyOnForward"] = json!(true);
            spec["preDNAT"] = json!(true);
            spec["types"] = json!(["Ingress"]);
            spec["egress"] = json!([]);
        }
    }
    spec
}
