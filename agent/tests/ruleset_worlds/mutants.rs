//! Broken rendering is found. A mutant is a mistake that a renderer could make: everywhere a rule of
//! one kind is left out, comes one place later, or ends in another target; everywhere a criterion of
//! one kind is forgotten or turned round. It is found when, in some world, a packet fares otherwise.
//!
//! Kinds are told from the text: which chain, which criteria and target, names and numbers left away.
//! What is not found has to be in [`EQUIVALENT`], with the reason why it means the same.

use std::collections::{BTreeMap, BTreeSet};

use calico_agent::felix::rendered::Rendered;
use calico_datastore::model::Family;
use calico_reference::Reference;
use calico_ruleset::{Outcome, Ruleset};
use calico_worlds::World;

use crate::elements::{Line, kind_of_chain};
use crate::frame::{Probe, models, probes};
use crate::kernel::read;
use crate::subject::{Flight, Subject, place, settings};
use crate::{crafted, number};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mistake {
    /// The rule is not there.
    LeftOut,
    /// It stands behind the next one.
    Later,
    /// It does the opposite.
    Target,
    /// The criterion is not there.
    Forgotten,
    /// The criterion asks the opposite.
    Negated,
}

pub(crate) use Mistake::{Forgotten, Later, LeftOut, Negated, Target};

/// A mistake in everything of a kind: in rules, or in one criterion of rules.
type Mutant = (Mistake, String);

/// Mutants that mean the same, by the beginnings of their kinds, and why.
const EQUIVALENT: &[(Mistake, &str, &str)] = &[
    (LeftOut, "rules: --jump LOG", LOGGED),
    (LeftOut, "rules: -m mark --mark 0x40000/0x40000 --jump LOG", LOGGED),
    (Later, "rules: --jump LOG", LOGGED),
    (Later, "rules: -m mark --mark 0x40000/0x40000 --jump LOG", LOGGED),
    (LeftOut, "cali-anti-spoof: --source 127.0.0.0/8", TWICE),
    (LeftOut, "cali-anti-spoof: -m set ! --match-set calilocal-endpoints", TWICE),
    (Target, "cali-anti-spoof: --source 127.0.0.0/8", TWICE),
    (Target, "cali-anti-spoof: -m set ! --match-set calilocal-endpoints", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 130", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 131", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 132", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 133", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 135", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 136", TWICE),
    (Forgotten, "cali-anti-spoof: -m icmp --icmp-type 14", TWICE),
    (LeftOut, "cali-wl-to-host: -m set ! --match-set calilocal-endpoints", TWICE),
    (Target, "cali-wl-to-host: -m set ! --match-set calilocal-endpoints", TWICE),
    (Later, "cali-wl-to-host: -m set ! --match-set calilocal-endpoints", TWICE),
    (LeftOut, "cali-wl-dispatch: --jump DROP", TWICE),
    (Target, "cali-wl-dispatch: --jump DROP", TWICE),
    (LeftOut, "cali-wl-forward: --jump MARK --set-mark 0x0/0xf0000", CLEARED),
    (Later, "cali-wl-forward: --jump MARK --set-mark 0x0/0xf0000", CLEARED),
    (LeftOut, "cali-wl-to-host: --jump MARK --set-mark 0x0/0xf0000", CLEARED),
    (Later, "cali-wl-to-host: --jump MARK --set-mark 0x0/0xf0000", CLEARED),
    (LeftOut, "cali-wl-forward: --jump RETURN", LAST),
    (Target, "FORWARD: --jump", LAST),
    (Target, "INPUT: --jump", LAST),
    (Target, "PREROUTING: --jump", LAST),
    (Target, "POSTROUTING: --jump", LAST),
    (Target, "cali-POSTROUTING: --jump", LAST),
    (Target, "cali-FORWARD: -o cali+ --goto", LAST),
    (Target, "cali-INPUT: -i cali+ --goto", LAST),
    (Target, "cali-PREROUTING: -i cali+ --goto", LAST),
    (
        Target,
        "cali-FORWARD: -i cali+ --goto",
        "what comes back is asked once more, and answered the same",
    ),
    (Later, "cali-FORWARD: -i cali+", SAME_TARGET),
    (Later, "cali-anti-spoof: --jump mac", SAME_TARGET),
    (Later, "cali-anti-spoof: --destination 127", SAME_TARGET),
    (Later, "cali-anti-spoof: --source 127", SAME_TARGET),
    (Later, "cali-anti-spoof: --source fe80::/10", SAME_TARGET),
    (Later, "cali-anti-spoof: --source ::/128 -p icmp -m icmp --icmp-type 13", SAME_TARGET),
    (Later, "cali-anti-spoof: -m set --match-set calilocal-endpoints", SAME_TARGET),
    (Later, "cali-wl-forward: -i cali+ -m set ! --match-set calilocal-endpoints", SAME_TARGET),
    (Later, "cali-wl-to-host: -p icmp -m icmp --icmp-type 13", SAME_TARGET),
    (Later, "cali-wl-forward: -i cali+ -p", BOTH),
    (Later, "cali-wl-to-host: -p 4", BOTH),
    (Later, "cali-wl-to-host: -p udp", BOTH),
    (Later, "cali-wl-forward: -i cali+ --jump cali-wl-dispatch", BOTH),
    (Later, "cali-wl-forward: -m conntrack", DISJOINT),
    (Later, "cali-wl-to-host: -m conntrack", DISJOINT),
    (LeftOut, "cali-drop-wl: -m set --match-set", COUNTS),
    (LeftOut, "cali-reject-wl: -m set --match-set", COUNTS),
    (Later, "cali-drop-wl: -m set --match-set", COUNTS),
    (Later, "cali-reject-wl: -m set --match-set", COUNTS),
    (Forgotten, "cali-drop-wl: -m set --match-set", COUNTS),
    (Forgotten, "cali-reject-wl: -m set --match-set", COUNTS),
    (Negated, "cali-drop-wl: -m set --match-set", COUNTS),
    (Negated, "cali-reject-wl: -m set --match-set", COUNTS),
    (LeftOut, "cali-wl-forward: -i cali+ -m conntrack --ctstate INVALID", COUNTS),
    (Later, "cali-wl-forward: -i cali+ -m conntrack --ctstate INVALID", COUNTS),
    (Later, "rules: --jump DROP", "behind it are the rules of an allow: both have to be passed"),
];

const COUNTS: &str = "the rule behind it drops all the same: this one counts";
const LOGGED: &str = "what is logged goes on as it is";
const TWICE: &str = "the same is asked in the table raw and in the table filter";
const CLEARED: &str = "every bit gets a value again before it is asked";
const LAST: &str = "nothing comes behind it";
const SAME_TARGET: &str =
    "the next rule does the same to what it matches, or matches other packets";
const BOTH: &str = "both have to let it through";
const DISJOINT: &str = "no packet is in both states, and marks do not matter to states";

/// Mutants that mean the same: the mistake, how its kind begins, and why.
pub(crate) type Equivalent = [(Mistake, &'static str, &'static str)];

/// The place of a mutant among those.
fn equivalent(all: &Equivalent, (mistake, kind): &Mutant) -> Option<usize> {
    all.iter().position(|(m, start, _)| m == mistake && kind.starts_with(start))
}

/// A world with all packets that it is sent, and what became of them.
pub(crate) struct Prepared {
    sets: [String; 2],
    lines: [Vec<Line>; 2],
    flights: [Vec<Flight>; 2],
    sound: [Vec<u8>; 2],
    /// Lines that may stand in any order are not displaced.
    commuting: bool,
}

impl Prepared {
    fn of_pods(seed: u64, world: &World, questions: usize) -> Self {
        let updates = world.updates();
        let reference = Reference::new(&updates);
        let subject = Subject::new(&world.node, updates, settings(seed));
        let mut flights = [Vec::new(), Vec::new()];
        for question in world.questions(seed, questions) {
            // By itself, and where it leads to another endpoint of this host.
            let both = subject.flight_between(&question).map(|(_, flight)| flight);
            let all = [subject.flight(&question), both].into_iter().flatten();
            flights[place(question.packet.family())].extend(all);
        }
        for question in models(world, seed) {
            let probes = probes(&subject, &reference, &question).into_iter();
            let probes = probes.map(|Probe { packet, host, .. }| (packet, host));
            flights[place(question.packet.family())].extend(probes);
        }
        let lines = Family::ALL.map(|family| {
            let text = &subject.made.texts[place(family)].tables;
            Line::all(&closed(seed, text))
        });
        Self::new(lines, subject.made.texts.map(|text| text.sets), flights, false)
    }

    pub(crate) fn new(
        lines: [Vec<Line>; 2],
        sets: [String; 2],
        flights: [Vec<Flight>; 2],
        commuting: bool,
    ) -> Self {
        let mut this = Self { sets, lines, flights, sound: Default::default(), commuting };
        this.sound = Family::ALL.map(|family| {
            let ruleset = this.read(family, Line::text(&this.lines[place(family)]));
            this.fates(family, &ruleset.unwrap_or_else(|error| panic!("{error}")))
        });
        this
    }

    fn read(&self, family: Family, tables: String) -> Result<Ruleset, String> {
        read(family, &Rendered { tables, sets: self.sets[place(family)].clone() })
    }

    fn fates(&self, family: Family, ruleset: &Ruleset) -> Vec<u8> {
        let flights = self.flights[place(family)].iter();
        let outcomes = flights.map(|(packet, host)| ruleset.walk(host, packet).unwrap());
        // What is masqueraded counts too: it is all that the table nat does. And what is not tracked.
        let bits =
            |outcome: Outcome| [outcome.fate.passed(), outcome.masqueraded, outcome.untracked];
        outcomes.map(|one| bits(one).iter().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
    }

    /// The text with the mistake in it; `None` when it has nothing of the kind.
    fn broken(&self, family: Family, (mistake, kind): &Mutant) -> Option<String> {
        let mut lines = self.lines[place(family)].clone();
        let mut any = false;
        let mut at = 0;
        while at < lines.len() {
            let line = &mut lines[at];
            match mistake {
                Forgotten | Negated => {
                    for element in 0..line.elements.len() {
                        if line.kind_of(element) == *kind {
                            any |= match mistake {
                                Negated => line.negate(element),
                                _ => line.forget(element),
                            };
                        }
                    }
                }
                _ if line.kind() != *kind => {}
                LeftOut => {
                    any = true;
                    lines.remove(at);
                    continue;
                }
                Target => any |= line.retarget(),
                Later => {
                    let (here, next) = (at, at + 1);
                    if next < lines.len()
                        && lines[here].chain == lines[next].chain
                        && lines[next].kind() != *kind
                        && !(self.commuting && lines[here].commutes(&lines[next]))
                    {
                        any = true;
                        lines.swap(here, next);
                        at += 1;
                    }
                }
            }
            at += 1;
        }
        any.then(|| Line::text(&lines))
    }

    /// Whether the mistake shows: `Some(true)` when the tools would refuse the text.
    fn finds(&self, mutant: &Mutant) -> Option<bool> {
        Family::ALL.into_iter().find_map(|family| {
            let tables = self.broken(family, mutant)?;
            match self.read(family, tables) {
                Err(_) => Some(true),
                Ok(ruleset) => {
                    (self.fates(family, &ruleset) != self.sound[place(family)]).then_some(false)
                }
            }
        })
    }
}

/// On some hosts nothing passes that nobody accepts.
pub(crate) fn closed(seed: u64, tables: &str) -> String {
    let policies = "*filter\n:FORWARD DROP [0:0]\n:INPUT DROP [0:0]\n";
    match seed % 2 {
        0 => tables.replace("*filter\n", policies),
        _ => tables.to_owned(),
    }
}

/// Every mistake in every kind that the worlds have, of the lines that are meant.
fn mutants(worlds: &[Prepared], meant: fn(&Line) -> bool) -> BTreeSet<Mutant> {
    let mut out = BTreeSet::new();
    for line in worlds.iter().flat_map(|world| world.lines.iter().flatten()) {
        if line.is_frame() || !meant(line) {
            continue;
        }
        let kind = line.kind();
        for mistake in [LeftOut, Later, Target] {
            out.insert((mistake, kind.clone()));
        }
        for element in 0..line.elements.len() {
            if line.is_criterion(element) {
                let kind = line.kind_of(element);
                out.insert((Forgotten, kind.clone()));
                out.insert((Negated, kind));
            }
        }
    }
    // What no world can be made to do is none.
    out.retain(|mutant| {
        worlds.iter().any(|w| Family::ALL.into_iter().any(|f| w.broken(f, mutant).is_some()))
    });
    out
}

/// The worlds of these seeds, made by two threads.
pub(crate) fn prepare(seeds: &[u64], one: impl Fn(u64) -> Prepared + Sync) -> Vec<Prepared> {
    let parts = [&seeds[..seeds.len() / 2], &seeds[seeds.len() / 2..]];
    let one = &one;
    std::thread::scope(|scope| {
        let make = |part: &[u64]| part.iter().map(|seed| one(*seed)).collect::<Vec<_>>();
        let parts = parts.map(|part| scope.spawn(move || make(part)));
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

#[test]
fn broken_rendering_is_found() {
    let (count, first) = (number("CALICO_MUTANTS", 60), number("CALICO_SEED", 1));
    // One mark mask only: the kinds tell bits apart.
    let seeds = (first..first + count).filter(|seed| settings(*seed).mark_mask == 0xffff_0000);
    let seeds: Vec<u64> = seeds.collect();
    let crafted =
        (1..).zip(crafted::worlds()).map(|(seed, world)| Prepared::of_pods(seed, &world, 400));
    let mut worlds: Vec<Prepared> = crafted.collect();
    worlds.extend(prepare(&seeds, |seed| Prepared::of_pods(seed, &World::random(seed), 80)));
    assert_found(&worlds, |_| true, EQUIVALENT, 12);
}

/// Breaks the lines that are meant in every way: each has to be found, or to be told as equivalent,
/// which has to look so in some of the worlds.
pub(crate) fn assert_found(
    worlds: &[Prepared],
    meant: fn(&Line) -> bool,
    same: &Equivalent,
    some: usize,
) {
    let mutants = mutants(worlds, meant);
    let all: Vec<&Mutant> = mutants.iter().collect();
    let enough = |one: &Mutant| if equivalent(same, one).is_some() { some } else { worlds.len() };
    let find = |one: &Mutant| worlds.iter().take(enough(one)).find_map(|world| world.finds(one));
    let (find, all) = (&find, &all);
    // Each takes every other one: those that are not found take longest.
    let found: Vec<(&Mutant, Option<bool>)> = std::thread::scope(|scope| {
        let part = |part: usize| -> Vec<(&Mutant, Option<bool>)> {
            all.iter().skip(part).step_by(2).map(|one| (*one, find(one))).collect()
        };
        let parts = [0, 1].map(|n| scope.spawn(move || part(n)));
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let mut table: BTreeMap<Mistake, [usize; 4]> = BTreeMap::new();
    let (mut unexplained, mut wrong) = (Vec::new(), Vec::new());
    for ((mistake, kind), result) in found {
        let said = equivalent(same, &(*mistake, kind.clone()));
        if said.is_some() && result.is_some() {
            wrong.push(format!("{mistake:?} {kind}"));
        }
        let column = match (result, said) {
            (Some(false), _) => 0,
            (Some(true), _) => 1,
            (None, Some(_)) => 2,
            (None, None) => {
                unexplained.push(format!("{mistake:?} {kind}"));
                3
            }
        };
        table.entry(*mistake).or_default()[column] += 1;
    }
    println!("found, refused by the tools, said to be the same, not found: {table:?}");
    let sum = |column: usize| table.values().map(|row| row[column]).sum::<usize>();
    let (killed, same, left) = (sum(0) + sum(1), sum(2), sum(3));
    let (worlds, all) = (worlds.len(), all.len());
    println!("{worlds} worlds, {all} mutants: {killed} found, {same} the same, {left} not found");
    println!("{unexplained:#?}");
    assert!(wrong.is_empty(), "said to be the same, and found: {wrong:#?}");
    // A new kind of rule needs packets that it decides about, or a reason.
    assert!(killed * 100 >= all * 75, "{table:?}");
    assert!(left * 100 <= all * 2, "not found and not explained: {unexplained:#?}");
}

#[test]
fn kinds_leave_names_away() {
    assert_eq!(kind_of_chain("cali-pi-default.a"), "rules");
    let text = "*filter\n:x - [0:0]\n-A cali-pi-x -p tcp -m set ! --match-set cali40s:abc src -m multiport ! --source-ports 1,2:3 --source 10.0.0.0/8 --jump MARK --set-mark 0x1/0x1\nCOMMIT\n";
    let lines = Line::all(text);
    assert_eq!(Line::text(&lines), text);
    let mut line = lines[2].clone();
    assert_eq!(line.kind(), "rules: --jump MARK --set-mark 0x1/0x1");
    let kinds: Vec<String> = (0..line.elements.len()).map(|n| line.kind_of(n)).collect();
    assert_eq!(kinds[1], "rules: -m set ! --match-set calis:* src");
    assert_eq!(kinds[2], "rules: -m multiport ! --source-ports *");
    assert_eq!(kinds[3], "rules: --source *");
    assert!(line.negate(1) && line.negate(3) && line.forget(2));
    assert_eq!(
        line.to_string(),
        "-A cali-pi-x -p tcp -m set --match-set cali40s:abc src ! --source 10.0.0.0/8 --jump MARK --set-mark 0x1/0x1"
    );
}
