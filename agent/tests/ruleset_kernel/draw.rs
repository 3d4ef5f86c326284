//! Rulesets by chance: every criterion and target that the agent writes, in chains that jump to each
//! other, and packets that come near them.

use std::net::IpAddr;

use calico_ruleset::{Packet, State};

use crate::Chance;

/// What differs between the families.
pub(crate) struct Lab {
    pub(crate) v6: bool,
    /// The two pods and an address that pod 1 has no right to.
    pub(crate) pods: [&'static str; 3],
    /// This host: where its questions come from, and where its answers come from. What it has to say
    /// by itself (errors) comes from others of its addresses.
    pub(crate) host: &'static str,
    pub(crate) server: &'static str,
    /// Somebody behind pod 2.
    pub(crate) far: &'static str,
    /// The pods and who is behind them, and nobody else.
    pub(crate) all: &'static str,
}

pub(crate) const LABS: [Lab; 2] = [
    Lab {
        v6: false,
        pods: ["10.65.0.1", "10.65.0.2", "10.65.0.9"],
        host: "198.51.100.9",
        server: "198.51.100.10",
        far: "10.65.7.7",
        all: "10.65.0.0/16",
    },
    Lab {
        v6: true,
        pods: ["fd65::1", "fd65::2", "fd65::9"],
        host: "2001:db8::9",
        server: "2001:db8::10",
        far: "fd65::7:7",
        all: "fd65::/64",
    },
];

impl Lab {
    fn len(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn icmp(&self) -> (&'static str, &'static str, [u8; 3]) {
        if self.v6 {
            ("icmpv6", "-m icmp6 NOT--icmpv6-type", [128, 139, 129])
        } else {
            ("icmp", "-m icmp NOT--icmp-type", [8, 13, 0])
        }
    }

    /// The sets: nested prefixes with exceptions, ports of several protocols, interfaces.
    pub(crate) fn sets(&self) -> String {
        let family = if self.v6 { "inet6" } else { "inet" };
        let (p, len) = (self.pods, self.len());
        let half = if self.v6 { "fd65::/126" } else { "10.65.0.0/30" };
        format!(
            "create nets hash:net family {family}\nadd nets {half}\nadd nets {} nomatch\n\
             create one hash:net family {family}\nadd one {}/{len}\n\
             create ports hash:ip,port family {family}\nadd ports {},tcp:80\nadd ports {},udp:80\nadd ports {},sctp:81\nadd ports {},tcp:81\n\
             create ifs hash:net,iface family {family} counters\nadd ifs {},calipod1\nadd ifs {},calipod2\nadd ifs {half},calipod9\n\
             create noted hash:net family {family}\n",
            p[1], p[0], p[1], p[1], p[1], p[0], p[0], p[1],
        )
    }

    fn address(&self, chance: &mut Chance) -> &'static str {
        chance.one(&[
            self.pods[0],
            self.pods[0],
            self.pods[1],
            self.pods[1],
            self.pods[2],
            self.host,
            self.server,
            self.far,
        ])
    }

    fn net(&self, chance: &mut Chance) -> String {
        match chance.below(4) {
            0 => format!("{}/{}", self.pods[0], self.len() - 1),
            1 => format!("{}/{}", self.pods[1], self.len() - 2),
            2 => self.all.to_owned(),
            _ => self.address(chance).to_owned(),
        }
    }
}

/// One criterion, which may bring a protocol along.
fn criterion(lab: &Lab, chance: &mut Chance, hook: &str, protocol: &mut Option<String>) -> String {
    let not = if chance.in_(3) { "! " } else { "" };
    let way = |chance: &mut Chance| chance.one(&["src", "dst"]);
    let ports = |chance: &mut Chance| {
        chance.one(&["80", "81", "79:80", "80,90:100", "1:79,81:65535", "40000:40010", "40001"])
    };
    match chance.below(15) {
        0 => format!("{not}-s {}", lab.net(chance)),
        1 => format!("{not}-d {}", lab.net(chance)),
        2 if matches!(hook, "PREROUTING" | "INPUT" | "FORWARD") => {
            format!("{not}-i {}", chance.one(&["calipod1", "cali+", "calipod", "eth+", "calipod2"]))
        }
        3 if matches!(hook, "OUTPUT" | "POSTROUTING" | "FORWARD") => {
            format!("{not}-o {}", chance.one(&["calipod2", "cali+", "calipod1"]))
        }
        4 | 5 if protocol.is_none() => {
            let one = chance.one(&["tcp", "udp", "sctp", "47", "253", lab.icmp().0]);
            if not.is_empty() {
                *protocol = Some(one.to_owned());
            } else {
                // No match of a protocol goes with it.
                *protocol = Some(String::new());
                return format!("! -p {one}");
            }
            String::new()
        }
        6 | 7 => {
            let one =
                protocol.get_or_insert_with(|| chance.one(&["tcp", "udp", "sctp"]).to_owned());
            if !["tcp", "udp", "sctp"].contains(&one.as_str()) {
                return String::new();
            }
            let option = chance.one(&["--sports", "--dports", "--ports"]);
            format!("-m multiport {not}{option} {}", ports(chance))
        }
        8 => {
            let one =
                protocol.get_or_insert_with(|| chance.one(&["tcp", "udp", "sctp"]).to_owned());
            if !["tcp", "udp", "sctp"].contains(&one.as_str()) {
                return String::new();
            }
            format!(
                "-m {one} {not}{} {}",
                chance.one(&["--sport", "--dport"]),
                chance.one(&["80", "79:81", "40000:40005", "81:"])
            )
        }
        9 => {
            let (name, option, types) = lab.icmp();
            if protocol.get_or_insert_with(|| name.to_owned()) != name {
                return String::new();
            }
            let kind = chance.one(&types);
            let code = chance.one(&["", "/0", "/1"]);
            format!("{}{} {kind}{code}", "", option.replace("NOT", not))
        }
        10 => format!("-m set {not}--match-set {} {}", chance.one(&["nets", "one"]), way(chance)),
        11 => format!("-m set {not}--match-set ports {},{}", way(chance), way(chance)),
        12 => {
            let quiet = chance.one(&["", " ! --update-counters"]);
            format!("-m set {not}--match-set ifs {},{}{quiet}", way(chance), way(chance))
        }
        13 => format!(
            "-m mark {not}--mark {}",
            chance.one(&["0x1/0x1", "0x0/0x3", "0x2/0x6", "0x0/0xff"])
        ),
        14 => match chance.below(4) {
            0 => format!(
                "-m conntrack {not}--ctstate {}",
                chance.one(&["NEW", "INVALID", "UNTRACKED,INVALID", "RELATED,ESTABLISHED"])
            ),
            1 if matches!(hook, "PREROUTING" | "INPUT" | "FORWARD") => {
                format!(
                    "-m mac {not}--mac-source {}",
                    chance.one(&["02:00:00:00:00:01", "02:00:00:00:00:02"])
                )
            }
            2 => format!("-m addrtype {not}{} LOCAL", chance.one(&["--src-type", "--dst-type"])),
            _ => "-m limit --limit 9999/sec --limit-burst 9999".to_owned(),
        },
        _ => String::new(),
    }
}

fn target(lab: &Lab, chance: &mut Chance, table: &str, hook: &str, later: &[String]) -> String {
    if let Some(chain) = later.first().filter(|_| chance.in_(3)) {
        let chain = if chance.in_(2) { chain.clone() } else { chance.one(later) };
        return format!("{} {chain}", chance.one(&["-j", "-j", "-g"]));
    }
    let p = lab.pods;
    let to =
        |port: u16| if lab.v6 { format!("[{}]:{port}", p[1]) } else { format!("{}:{port}", p[1]) };
    match (table, chance.below(12)) {
        (_, 0..=3) => {
            let value = chance.one(&[
                "--set-mark 0x1/0x1",
                "--set-mark 0x0/0x3",
                "--set-xmark 0x2/0x6",
                "--or-mark 0x4",
                "--xor-mark 0x1",
                "--set-mark 0x7",
            ]);
            // Only some tables let a rule change a mark on some kernels; all do on ours.
            format!("-j MARK {value}")
        }
        (_, 4) => "-j RETURN".to_owned(),
        ("nat", 5..=7) if matches!(hook, "PREROUTING" | "OUTPUT") => match chance.below(3) {
            0 => format!("-p tcp -j DNAT --to-destination {}", to(81)),
            1 => format!("-p udp -j DNAT --to-destination {}", to(80)),
            _ => format!("-j DNAT --to-destination {}", chance.one(&[p[1], lab.far])),
        },
        ("nat", 5..=7) if hook == "POSTROUTING" => {
            chance.one(&[format!("-j SNAT --to-source {}", lab.host), "-j MASQUERADE".to_owned()])
        }
        ("raw", 5) => chance.one(&["-j NOTRACK", "-j CT --notrack"]).to_owned(),
        ("filter", 5) if hook != "OUTPUT" => "-j REJECT".to_owned(),
        ("nat", _) => chance.one(&["-j ACCEPT", "-j RETURN", ""]).to_owned(),
        (_, 6) => "-j ACCEPT".to_owned(),
        (_, 7) => "-j DROP".to_owned(),
        (_, 8) => "-j NFLOG --nflog-group 9 --nflog-prefix \"a b\"".to_owned(),
        (_, 9) => "-j LOG --log-prefix \"it's 100%: \" --log-level 5".to_owned(),
        (_, 10) => "-j SET --add-set noted src --exist".to_owned(),
        _ => String::new(),
    }
}

/// A ruleset: each hook of each table leads what is ours into chains of its own.
pub(crate) fn ruleset(lab: &Lab, chance: &mut Chance) -> String {
    let hooks: [(&str, &[&str]); 4] = [
        ("raw", &["PREROUTING", "OUTPUT"]),
        ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
        ("nat", &["PREROUTING", "OUTPUT", "POSTROUTING"]),
        ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ];
    let mut text = String::new();
    for (table, hooks) in hooks {
        let (mut names, mut rules) = (String::new(), String::new());
        for hook in hooks {
            let chains: Vec<String> =
                (0..3).map(|n| format!("t-{}-{n}", hook.to_lowercase())).collect();
            // Nobody else's packets: multicast listeners and neighbours of IPv6 speak at any time.
            let way = chance.one(&["-j", "-j", "-g"]);
            if *hook != "OUTPUT" {
                rules += &format!("-A {hook} -s {} {way} {}\n", lab.all, chains[0]);
            }
            if matches!(*hook, "OUTPUT" | "POSTROUTING") {
                rules += &format!("-A {hook} -s {} {way} {}\n", lab.host, chains[0]);
            }
            for (at, name) in chains.iter().enumerate() {
                names += &format!(":{name} - [0:0]\n");
                let count = if table == "filter" || hook.starts_with('F') { 6 } else { 3 };
                for _ in 0..count {
                    let mut protocol = None;
                    let mut parts = Vec::new();
                    for _ in 0..chance.below(3) {
                        let one = criterion(lab, chance, hook, &mut protocol);
                        // Most options may come only once.
                        let name =
                            one.trim_start_matches("! ").split(' ').next().unwrap_or("").to_owned();
                        let twice = name != "-m"
                            && parts
                                .iter()
                                .any(|p: &String| p.trim_start_matches("! ").starts_with(&name));
                        // One match of a protocol: the flavours do not agree about two.
                        let ports = |p: &str| {
                            ["-m tcp", "-m udp", "-m sctp"].iter().any(|m| p.starts_with(m))
                        };
                        let twice = twice || ports(&one) && parts.iter().any(|p| ports(p));
                        if !one.is_empty() && !twice {
                            parts.push(one);
                        }
                    }
                    let mut target = target(lab, chance, table, hook, &chains[at + 1..]);
                    if let Some(rest) = target.strip_prefix("-p ") {
                        let (wanted, rest) = rest.split_once(' ').unwrap();
                        if protocol.get_or_insert_with(|| wanted.to_owned()) != wanted {
                            continue;
                        }
                        target = rest.to_owned();
                    }
                    if let Some(protocol) = protocol.filter(|p| !p.is_empty()) {
                        parts.insert(0, format!("-p {protocol}"));
                    }
                    // What ends everything for everybody leaves nothing to see.
                    let ends = target.starts_with("-j DROP") || target.starts_with("-j ACCEPT");
                    if ends && parts.len() < 2 {
                        continue;
                    }
                    parts.push(target);
                    parts.retain(|part| !part.is_empty());
                    rules += format!("-A {name} {}", parts.join(" ")).trim_end();
                    rules += "\n";
                }
            }
        }
        text += &format!("*{table}\n{names}{rules}COMMIT\n");
    }
    text
}

/// Packets of every kind, each a connection of its own: from pod 1 when `from_host` is false.
pub(crate) fn packets(lab: &Lab, chance: &mut Chance, from_host: bool, count: u16) -> Vec<Packet> {
    let mut out: Vec<Packet> = Vec::new();
    for n in 0..count {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let source =
            if from_host { lab.host } else { chance.one(&[lab.pods[0], lab.pods[0], lab.pods[2]]) };
        let places: &[&str] = if from_host {
            &[lab.pods[0], lab.pods[1], lab.far]
        } else {
            &[lab.pods[1], lab.pods[1], lab.far, lab.server]
        };
        let (source, destination) = (ip(source), ip(chance.one(places)));
        // Ports that no other packet has, so that each is the first of its connection.
        let from = 40_000 + n;
        let to = chance.one(&[79, 80, 81, 95]);
        let mut packet = match chance.below(9) {
            0..=2 => Packet::tcp(source, destination, from, to),
            3 | 4 => Packet::udp(source, destination, from, to),
            5 => Packet { protocol: 132, ..Packet::tcp(source, destination, from, to) },
            6 | 7 => {
                let kind = chance.one(&lab.icmp().2);
                let mut packet = Packet::icmp(source, destination, kind, chance.one(&[0, 0, 1]));
                if kind == lab.icmp().2[2] {
                    // An answer that nobody asked for.
                    packet.state = State::Invalid;
                }
                packet
            }
            _ => Packet::new(source, destination, if from_host { 253 } else { 47 }),
        };
        if packet.protocol == 6 && chance.in_(6) {
            packet.state = State::Invalid;
        }
        if !from_host {
            packet = packet.into_interface("calipod1").with_mac([2, 0, 0, 0, 0, 1]);
        }
        // Without anything to tell connections apart there is one, and translation finds no other.
        let same = |other: &Packet| {
            packet.ports.is_none()
                && other.protocol == packet.protocol
                && (packet.icmp.is_none()
                    || (other.source, other.destination) == (packet.source, packet.destination))
        };
        if !out.iter().any(same) {
            out.push(packet);
        }
    }
    out
}
