//! What is rendered for host endpoints, in the kernel: random worlds are loaded, packets are sent to the
//! host, from it and through it, and every rule of ours, in every table, must have counted those that
//! the interpreter says it matches.
//!
//! `CALICO_RULESETS` = how many worlds of each family and flavour (20).

use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::felix::rendered::{Rendered, rendered};
use calico_agent::reconcile;
use calico_agent::routes::monitor::{Link, Links};
use calico_datastore::model::Family;
use calico_ruleset::{Packet, Ruleset};
use calico_worlds::World;

use crate::Chance;
use crate::draw::{LABS, Lab, packets};
use crate::host::each_flavour;
use crate::random::{Counts, Place, counted, expected};

/// Interfaces that host endpoints name, and what they are called here.
const INTERFACES: [(&str, &str); 2] = [("eth0", "calipod1"), ("eth1", "calipod2")];

/// The world of a seed whose host endpoints are about the interfaces that packets come by.
fn world(seed: u64) -> World {
    let mut world = World::with_hosts(seed);
    for (key, value) in &mut world.objects {
        let Some(name) = value["spec"]["interfaceName"].as_str() else { continue };
        let other = if key.contains("/hostendpoints/") {
            INTERFACES
                .iter()
                .find(|(one, _)| *one == name)
                .map_or(name, |(_, here)| here)
                .to_owned()
        } else {
            // No pod is behind those.
            name.replace("cali", "wl")
        };
        value["spec"]["interfaceName"] = other.into();
    }
    world
}

fn text(seed: u64, family: Family) -> Rendered {
    let (world, host) = (world(seed), World::host(seed));
    let settings = Settings { interface_prefixes: vec!["wl".to_owned()], ..Settings::default() };
    let mut calculator = Calculator::new(world.node.clone());
    calculator.apply(world.updates());
    let mut links = Links::new();
    for (interface, (_, name)) in host.interfaces.iter().zip(INTERFACES) {
        let addresses = interface.addresses.iter().copied().collect();
        links.insert(name.parse().unwrap(), Link { up: true, addresses, ..Link::default() });
    }
    let desired = calculator.desired(Arc::new(settings), 1);
    rendered(&reconcile::World { desired, links }, family).unwrap()
}

/// What nobody sent for the test (neighbours, errors, answers) leaves each table before our chains.
fn without_noise(lab: &Lab, tables: &str) -> String {
    let mut text = String::new();
    for (table, hooks) in [
        ("raw", &["PREROUTING", "OUTPUT"][..]),
        ("mangle", &["PREROUTING", "POSTROUTING"]),
        ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ] {
        let ours = tables.split_once(&format!("*{table}\n")).map_or("", |(_, rest)| rest);
        let ours = ours.split_once("COMMIT\n").map_or("", |(ours, _)| ours);
        let (names, rules): (Vec<&str>, Vec<&str>) =
            ours.lines().partition(|line| line.starts_with(':'));
        let first = hooks.iter().map(|hook| format!("-A {hook} -j t-noise"));
        let meant = [lab.all, lab.host].map(|source| format!("-A t-noise -s {source} -j RETURN"));
        let mut lines = vec![format!("*{table}"), ":t-noise - [0:0]".to_owned()];
        lines.extend(names.into_iter().map(str::to_owned));
        lines.extend(first.chain(meant).chain(["-A t-noise -j ACCEPT".to_owned()]));
        lines.extend(rules.into_iter().map(str::to_owned));
        lines.push("COMMIT\n".to_owned());
        text += &lines.join("\n");
    }
    text
}

fn ours(mut counts: Counts) -> Counts {
    counts.retain(|(_, chain, _), _| chain.starts_with("cali-"));
    counts
}

#[test]
fn the_kernel_counts_what_host_endpoints_match() {
    let rounds = std::env::var("CALICO_RULESETS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    each_flavour(move |host, _| {
        let place = Place::new(host);
        let mut chance = Chance(0x0005_ab1e);
        let (mut matched, mut fates) = ([0, 0, 0, 0], [0, 0]);
        for seed in 0..rounds {
            for lab in &LABS {
                let (family, own) = match lab.v6 {
                    true => (Family::V6, calico_ruleset::Family::V6),
                    false => (Family::V4, calico_ruleset::Family::V4),
                };
                let text = text(seed, family);
                let tables = without_noise(lab, &text.tables);
                let parsed = Ruleset::parse(own, &tables, &text.sets)
                    .unwrap_or_else(|error| panic!("{error}\n{tables}"));
                let from_outside = packets(lab, &mut chance, false, 60);
                let from_host = packets(lab, &mut chance, true, 40);
                place.load_with(lab, &tables, &text.sets);
                let (saved, arrived) = place.send(lab, &from_outside, &from_host);
                let all: Vec<&Packet> = from_outside.iter().chain(&from_host).collect();
                let (counts, arrive, some) = expected(&parsed, lab, &all);
                let counts = ours(counts);
                assert_eq!(ours(counted(&saved)), counts, "world {seed}\n{tables}\n{saved}");
                assert_eq!(arrived, arrive, "world {seed}\n{tables}");
                for (table, ..) in counts.keys() {
                    let at = ["raw", "mangle", "nat", "filter"].iter().position(|one| one == table);
                    matched[at.unwrap()] += 1;
                }
                fates = [fates[0] + some[0], fates[1] + some[1]];
            }
        }
        println!("{rounds} worlds: rules that matched in each table {matched:?}; {fates:?}");
        let many = usize::try_from(rounds).unwrap();
        assert!(fates.iter().all(|count| *count > many * 20), "{fates:?}");
        assert!(
            matched[0] > many * 8 && matched[1] > many * 8 && matched[3] > many * 20,
            "{matched:?}"
        );
    });
}
