//! Rulesets at random, packets, and the counters of the kernel.

use std::collections::BTreeMap;

use calico_ruleset::{Family, Fate, Host as Machine, Packet, Ruleset};

use crate::Chance;
use crate::draw::{LABS, Lab, packets, ruleset};
use crate::host::{Host, Pod, each_flavour};
use crate::netns::sh;
use crate::wire;

/// How often each rule matched: by table, chain and place.
pub(crate) type Counts = BTreeMap<(String, String, usize), u64>;

/// Two pods that take everything and answer nothing.
pub(crate) struct Place<'a> {
    host: &'a mut Host,
    pods: [Pod; 2],
}

impl<'a> Place<'a> {
    pub(crate) fn new(host: &'a mut Host) -> Self {
        // Set when they are made.
        sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
             sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0");
        let pods = [host.pod(1), host.pod(2)];
        for lab in &LABS {
            let (ip, len) = if lab.v6 { ("ip -6", 128) } else { ("ip", 32) };
            let nodad = if lab.v6 { "nodad" } else { "" };
            sh(&format!(
                "{ip} addr add {}/{len} dev lo {nodad}; {ip} addr add {}/{len} dev lo {nodad}
                 {ip} route add {}/{len} dev calipod2",
                lab.host, lab.server, lab.far,
            ));
            // Nobody has to be asked where anybody is.
            for (to, n) in [(lab.pods[0], 1), (lab.pods[1], 2), (lab.far, 2)] {
                sh(&format!(
                    "{ip} neigh replace {to} lladdr 02:00:00:00:00:0{n} dev calipod{n} nud permanent"
                ));
            }
        }
        for pod in &pods {
            pod.netns.sh("ip -6 neigh replace fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent");
            for v in ["", "6"] {
                let own = if v.is_empty() { "169.254.0.0/16" } else { "fe80::/10" };
                pod.netns.sh(&format!(
                    "ip{v}tables-legacy -w -t raw -A PREROUTING -s {own} -j DROP
                     ip{v}tables-legacy -w -t raw -A PREROUTING -j DROP"
                ));
            }
        }
        Self { host, pods }
    }

    fn tool(&self, lab: &Lab, what: &str) -> String {
        format!("ip{}tables-{}-{what}", if lab.v6 { "6" } else { "" }, self.host.tool())
    }

    /// Loads a ruleset in place of any other.
    fn load(&self, lab: &Lab, tables: &str) {
        self.load_with(lab, tables, &lab.sets());
    }

    /// The same with sets of its own.
    pub(crate) fn load_with(&self, lab: &Lab, tables: &str, sets: &str) {
        let empty = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n";
        for lab in &LABS {
            sh(&format!("{} <<'END'\n{empty}END", self.tool(lab, "restore")));
        }
        sh(&format!("ipset destroy; ipset restore <<'END'\n{sets}END"));
        sh(&format!("{} <<'END'\n{tables}END", self.tool(lab, "restore")));
        sh("sysctl -qw net.netfilter.nf_conntrack_checksum=0; conntrack -F 2> /dev/null");
    }

    /// Packets that pod 2 got.
    fn arrived(&self, lab: &Lab) -> u64 {
        let tool = if lab.v6 { "ip6tables" } else { "iptables" };
        let saved = self.pods[1].netns.sh(&format!("{tool}-legacy-save -c -t raw"));
        let line = saved.lines().filter(|line| line.contains("-A PREROUTING")).nth(1).unwrap();
        line[1..].split_once(':').unwrap().0.parse().unwrap()
    }

    /// Sends packets to a ruleset that was just loaded: what the tool prints then, and how many came
    /// to pod 2.
    pub(crate) fn send(
        &self,
        lab: &Lab,
        from_pod: &[Packet],
        from_host: &[Packet],
    ) -> (String, u64) {
        let before = self.arrived(lab);
        let packets = from_pod.to_vec();
        self.pods[0].netns.run(move || wire::send(&packets));
        wire::send(from_host);
        // The last one is on its way through another processor's queue at most.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let saved = sh(&format!("{} -c", self.tool(lab, "save")));
        (saved, self.arrived(lab) - before)
    }
}

/// What the kernel counted.
pub(crate) fn counted(saved: &str) -> Counts {
    let mut counts = Counts::new();
    let mut table = "";
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some((counters, rule)) =
            line.strip_prefix('[').and_then(|l| l.split_once("] -A "))
        {
            let chain = rule.split(' ').next().unwrap();
            let place = places.entry((table, chain)).or_default();
            let packets: u64 = counters.split_once(':').unwrap().0.parse().unwrap();
            if packets > 0 {
                counts.insert((table.to_owned(), chain.to_owned(), *place), packets);
            }
            *place += 1;
        }
    }
    counts
}

fn machine(lab: &Lab) -> Machine {
    let mut machine = Machine::default();
    machine.limits_match(true);
    for address in [lab.host, lab.server] {
        machine.address(address.parse().unwrap());
    }
    for (to, interface) in
        [(lab.pods[0], "calipod1"), (lab.pods[1], "calipod2"), (lab.far, "calipod2")]
    {
        machine.route(to, interface).unwrap();
    }
    machine
}

/// What the interpreter expects: counters, packets to pod 2, and how many passed and did not.
pub(crate) fn expected(
    ruleset: &Ruleset,
    lab: &Lab,
    packets: &[&Packet],
) -> (Counts, u64, [usize; 2]) {
    let machine = machine(lab);
    let (mut counts, mut arrive, mut fates) = (Counts::new(), 0, [0, 0]);
    for packet in packets {
        let outcome = ruleset.walk(&machine, packet).unwrap();
        for at in &outcome.matched {
            let (chain, place) = ruleset.place(*at);
            let key = (at.table.name().to_owned(), chain.to_owned(), place);
            *counts.entry(key).or_default() += 1;
        }
        arrive += u64::from(outcome.fate == Fate::Sent("calipod2".to_owned()));
        fates[usize::from(outcome.fate.passed())] += 1;
    }
    (counts, arrive, fates)
}

#[test]
fn the_kernel_counts_what_the_interpreter_matches() {
    let rounds = std::env::var("CALICO_RULESETS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    each_flavour(move |host, _| {
        let place = Place::new(host);
        let mut chance = Chance(0x0001_ab1e);
        let (mut rules, mut matched, mut fates) = (0, 0, [0, 0]);
        for round in 0..rounds {
            for lab in &LABS {
                let family = if lab.v6 { Family::V6 } else { Family::V4 };
                let tables = ruleset(lab, &mut chance);
                let parsed = Ruleset::parse(family, &tables, &lab.sets())
                    .unwrap_or_else(|error| panic!("{error}\n{tables}"));
                let from_pod = packets(lab, &mut chance, false, 60);
                let from_host = packets(lab, &mut chance, true, 30);
                place.load(lab, &tables);
                let (saved, arrived) = place.send(lab, &from_pod, &from_host);
                // What the tools print means the same as what they were told.
                let printed = Ruleset::parse(family, &saved, &sh("ipset save"))
                    .unwrap_or_else(|error| panic!("{error}\n{saved}"));
                let all: Vec<&Packet> = from_pod.iter().chain(&from_host).collect();
                let (counts, arrive, some) = expected(&parsed, lab, &all);
                assert_eq!(expected(&printed, lab, &all).0, counts, "{tables}\n{saved}");
                if (counted(&saved), arrived) != (counts.clone(), arrive) {
                    println!(
                        "round {round}: expected {arrive}, arrived {arrived}\n{tables}\n{saved}"
                    );
                    one_by_one(&place, lab, &tables, &parsed, [&from_pod, &from_host]);
                    let kernel = counted(&saved);
                    let other = |(key, _): &(&(String, String, usize), &u64)| {
                        kernel.get(key) != counts.get(key)
                    };
                    let differ: Vec<_> = counts.iter().chain(&kernel).filter(other).collect();
                    panic!("only together they differ: {differ:#?}");
                }
                rules += parsed.len();
                matched += counts.len();
                fates = [fates[0] + some[0], fates[1] + some[1]];
            }
        }
        println!(
            "{rounds} rounds: {rules} rules, {matched} of them matched; dropped and passed: {fates:?}"
        );
        // Each allow beside a deny, and most rules had something to say.
        assert!(fates.iter().all(|count| *count > rounds * 30), "{fates:?}");
        assert!(matched * 3 > rules, "{matched} of {rules}");
    });
}

/// Finds the packet that the kernel and the interpreter do not agree about.
fn one_by_one(place: &Place<'_>, lab: &Lab, tables: &str, parsed: &Ruleset, all: [&[Packet]; 2]) {
    for (from_host, packets) in all.into_iter().enumerate() {
        for packet in packets {
            place.load(lab, tables);
            let one = std::slice::from_ref(packet);
            let (saved, arrived) =
                if from_host == 1 { place.send(lab, &[], one) } else { place.send(lab, one, &[]) };
            let (counts, arrive, _) = expected(parsed, lab, &[packet]);
            let outcome = parsed.walk(&machine(lab), packet).unwrap();
            assert_eq!(
                (counted(&saved), arrived),
                (counts, arrive),
                "{packet:?}\n{outcome:?}\n{}",
                outcome.trace(parsed)
            );
        }
    }
}
