//! Broken rendering of what host endpoints are made of is found: as `mutants.rs`, each table by itself.

use calico_datastore::model::Family;
use calico_reference::Host;
use calico_worlds::{Trip, World};

use crate::elements::{Line, kind_of_chain};
use crate::hosts::{Machine, others, set_up};
use crate::hosts_frame::frames;
use crate::mutants::{
    Equivalent, Forgotten, Later, LeftOut, Negated, Prepared, Target, assert_found, closed, prepare,
};
use crate::subject::place;
use crate::{hosts_crafted, number};

/// Mutants that mean the same, and why.
const EQUIVALENT: &Equivalent = &[
    (LeftOut, "filter cali-FORWARD: --jump MARK", CLEARED),
    (LeftOut, "filter cali-INPUT: --jump MARK", CLEARED),
    (LeftOut, "filter cali-OUTPUT: --jump MARK --set-mark 0x0/0xe0000", CLEARED),
    (LeftOut, "filter cali-OUTPUT: --jump MARK --set-mark 0x0/0xf0000", CLEARED),
    (LeftOut, "filter host: --jump MARK --set-mark 0x0/0x30000", CLEARED),
    (LeftOut, "mangle host: --jump MARK --set-mark 0x0/0x30000", CLEARED),
    (LeftOut, "mangle cali-POSTROUTING: --jump MARK", CLEARED),
    (LeftOut, "raw cali-PREROUTING: --jump MARK --set-mark 0x0/0xe0000", CLEARED),
    (LeftOut, "raw host: --jump MARK --set-mark 0x0/0x30000", CLEARED),
    (Later, "filter cali-FORWARD: --jump MARK", CLEARED),
    (Later, "filter cali-OUTPUT: --jump MARK --set-mark 0x0/0xe0000", CLEARED),
    (Later, "filter cali-OUTPUT: --jump cali-to-host-endpoint", CLEARED),
    (Later, "filter host: --jump cali-failsafe", CLEARED),
    (Later, "filter host-forward: -m conntrack --ctstate INVALID", CLEARED),
    (Later, "mangle host: --jump cali-failsafe", CLEARED),
    (Later, "mangle cali-POSTROUTING: --jump MARK", CLEARED),
    (Later, "raw cali-OUTPUT: --jump MARK --set-mark 0x0/0xe0000", CLEARED),
    (Later, "raw cali-PREROUTING: --jump MARK", CLEARED),
    (Later, "raw cali-PREROUTING: --jump cali-from-host-endpoint", CLEARED),
    (Later, "raw host: --jump cali-failsafe", CLEARED),
    (LeftOut, "filter cali-FORWARD: -i cali+ -m set !", TWICE),
    (Later, "filter cali-FORWARD: -o cali+ -m set !", CLEARED),
    (LeftOut, "filter cali-OUTPUT: -o cali+", TWICE),
    (LeftOut, "mangle cali-POSTROUTING: -o cali+", TWICE),
    (LeftOut, "filter cali-to-host-endpoint: -o cali+", TWICE),
    (LeftOut, "mangle cali-to-host-endpoint: -o cali+", TWICE),
    (Target, "filter cali-to-host-endpoint: -o cali+", TWICE),
    (Target, "mangle cali-to-host-endpoint: -o cali+", TWICE),
    (Later, "filter cali-OUTPUT: -o cali+", TWICE),
    (Later, "mangle cali-POSTROUTING: -o cali+", TWICE),
    (Later, "filter cali-to-host-endpoint: -o cali+", TWICE),
    (Later, "mangle cali-to-host-endpoint: -o cali+", TWICE),
    (LeftOut, "raw cali-PREROUTING: -i cali+", TWICE),
    (Later, "raw cali-PREROUTING: -i cali+", TWICE),
    (Target, "raw cali-PREROUTING: -i cali+", TWICE),
    (LeftOut, "filter cali-from-host-endpoint: -i cali+", TWICE),
    (Target, "filter cali-from-host-endpoint: -i cali+", TWICE),
    (Later, "filter cali-from-host-endpoint: -i cali+", TWICE),
    (LeftOut, "raw cali-from-host-endpoint: -i cali+", TWICE),
    (Target, "raw cali-from-host-endpoint: -i cali+", TWICE),
    (Later, "raw cali-from-host-endpoint: -i cali+", TWICE),
    (Later, "filter cali-INPUT: -i cali+", TWICE),
    (LeftOut, "filter cali-forward-end: -m mark --mark 0x10000/0x10000 --jump RETURN", LAST),
    (LeftOut, "raw cali-OUTPUT: -m mark --mark 0x10000/0x10000 --jump ACCEPT", LAST),
    (LeftOut, "raw cali-PREROUTING: -m mark --mark 0x10000/0x10000 --jump ACCEPT", LAST),
    (Target, "filter INPUT: --jump", LAST),
    (Target, "filter FORWARD: --jump", LAST),
    (Target, "filter OUTPUT: --jump", LAST),
    (Target, "mangle PREROUTING: --jump", LAST),
    (Target, "mangle POSTROUTING: --jump", LAST),
    (Target, "raw PREROUTING: --jump", LAST),
    (Target, "raw OUTPUT: --jump", LAST),
    (Target, "filter cali-FORWARD: --goto cali-forward-end", LAST),
    (Target, "filter cali-from-hep-forward: --goto", LAST),
    (Target, "filter cali-to-hep-forward: --goto", LAST),
    (Target, "filter cali-from-host-endpoint: --goto", LAST),
    (Target, "filter cali-to-host-endpoint: --goto", LAST),
    (Target, "mangle cali-from-host-endpoint: --goto", LAST),
    (Target, "mangle cali-to-host-endpoint: --goto", LAST),
    (Target, "mangle cali-PREROUTING: --jump cali-from-host-endpoint", LAST),
    (Target, "mangle cali-POSTROUTING: --jump cali-to-host-endpoint", LAST),
    (Target, "raw cali-from-host-endpoint: --goto", LAST),
    (Target, "raw cali-to-host-endpoint: --goto", LAST),
    (Later, "mangle cali-PREROUTING: --jump cali-from-host-endpoint", LAST),
    (LeftOut, "filter cali-from-hep-forward: -i lo", NEVER),
    (Target, "filter cali-from-hep-forward: -i lo", NEVER),
    (LeftOut, "filter cali-to-hep-forward: -o lo", NEVER),
    (Target, "filter cali-to-hep-forward: -o lo", NEVER),
    (LeftOut, "mangle cali-failsafe-out: -p * -m icmp", NEVER),
    (Target, "mangle cali-failsafe-out: -p * -m icmp", NEVER),
    (Forgotten, "mangle cali-failsafe-out: -m icmp", NEVER),
    (Negated, "mangle cali-failsafe-out: -m icmp", NEVER),
    (LeftOut, "mangle host: -m conntrack --ctstate RELATED,ESTABLISHED", NEVER),
    (Target, "mangle host: -m conntrack --ctstate RELATED,ESTABLISHED", NEVER),
    (LeftOut, "filter host: -m conntrack --ctstate RELATED,ESTABLISHED --jump MARK", ENDS),
    (Later, "filter host: -m conntrack --ctstate RELATED,ESTABLISHED --jump MARK", ENDS),
    (Target, "filter host: -m conntrack --ctstate RELATED,ESTABLISHED --jump MARK", ENDS),
    (Later, "filter host: -m conntrack --ctstate RELATED,ESTABLISHED", DISJOINT),
    (
        Later,
        "filter host-forward: -m conntrack --ctstate RELATED,ESTABLISHED --jump RETURN",
        DISJOINT,
    ),
    (Later, "mangle host: -m conntrack --ctstate RELATED,ESTABLISHED", DISJOINT),
    (Later, "filter cali-FORWARD: -m mark --mark 0x0/0x10000", BOTH),
    (Later, "filter cali-FORWARD: -i cali+", BOTH),
    (Target, "filter cali-FORWARD: -i cali+", BOTH),
    (Target, "filter cali-FORWARD: -o cali+ --goto", BOTH),
];

const CLEARED: &str = "every bit gets a value again before it is asked";
const TWICE: &str = "the same is asked in another chain as well";
const LAST: &str = "nothing comes behind it that matters";
const NEVER: &str = "no such packet comes there: neighbours are not translated, lo forwards nothing, and the \
                     interpreter translates only the first packet of a connection";
const ENDS: &str = "what returns with the mark and without it fares the same";
const DISJOINT: &str = "no packet is in both states";
const BOTH: &str = "both are asked, in any order, and what is asked twice is answered the same";

/// Lines of chains that are there for hosts.
fn is_of_hosts(line: &Line) -> bool {
    let chain = kind_of_chain(&line.chain);
    let of_pods =
        ["rules", "class", "mac", "cali-anti-spoof", "cali-wl-", "cali-drop-wl", "cali-reject-wl"];
    line.kind().split(' ').next() != Some("nat")
        && !of_pods.iter().any(|one| chain.starts_with(one))
}

fn random(seed: u64) -> Prepared {
    let (world, host) = (World::with_hosts(seed), World::host(seed));
    let trips = world.trips_of(&world.updates(), &host, seed, 160);
    prepared(seed, &world, &host, trips)
}

fn prepared(seed: u64, world: &World, host: &Host, mut trips: Vec<Trip>) -> Prepared {
    let machine = Machine::new(world, world.updates(), seed, host);
    let others = others(&machine, &mut trips);
    let among = |family| machine.subject.made.text_among(family, &others[place(family)]);
    let texts = Family::ALL.map(among);
    let mut flights = [Vec::new(), Vec::new()];
    for trip in trips {
        let Some((packet, host)) = machine.flight(&trip.0) else { continue };
        let marked = calico_ruleset::Packet { mark: u32::MAX, ..packet.clone() };
        let all = &mut flights[place(trip.0.packet.family())];
        all.extend([(packet, host.clone()), (marked, host)]);
    }
    for family in Family::ALL {
        let probes = frames(&machine, family).into_iter();
        flights[place(family)].extend(probes.map(|probe| (probe.packet, probe.host)));
    }
    let closed = |tables: &str| {
        closed(seed, tables).replace(":INPUT DROP", ":OUTPUT DROP [0:0]\n:INPUT DROP")
    };
    let lines = texts.each_ref().map(|text| Line::all_by_table(&closed(&text.tables)));
    Prepared::new(lines, texts.map(|text| text.sets), flights, true)
}

#[test]
fn broken_rendering_of_hosts_is_found() {
    let (count, first) = (number("CALICO_MUTANTS", 60), number("CALICO_SEED", 1));
    let fits = |seed: &u64| {
        let (settings, _) = set_up(*seed, &World::host(*seed));
        settings.mark_mask == 0xffff_0000 && !settings.denied_log
    };
    let seeds: Vec<u64> = (first..first + count).filter(fits).collect();
    // Those of a host made by hand, with several settings, decide most.
    let (world, host) = (hosts_crafted::world(), hosts_crafted::host());
    let trips = hosts_crafted::trips(&world, &host);
    let mut worlds = prepare(&[1, 2, 4], |seed| prepared(seed, &world, &host, trips.clone()));
    worlds.extend(prepare(&seeds, random));
    assert_found(&worlds, is_of_hosts, EQUIVALENT, 5);
}
