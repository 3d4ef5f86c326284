//! What `calico-agent plan` prints is what `nft -f` takes, line for line, and what the table becomes by it: in random
//! walks from state to state, by way of what is found and by way of what changed. Needs root.
//!
//! `CALICO_SPOKEN` = how many walks (6), `CALICO_SEED` = the first one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use calico_agent::config::Settings;
use calico_agent::felix::counters::Counters;
use calico_agent::felix::nftables::compare::compare;
use calico_agent::felix::nftables::contents::Contents;
use calico_agent::felix::nftables::object::Change;
use calico_agent::felix::nftables::render::{Options, Renderer, Steps};
use calico_agent::felix::nftables::table::Table;
use calico_agent::felix::nftables::text;
use calico_agent::felix::scene::Stage;
use calico_agent::routes::monitor::{Link, Links};
use calico_worlds::{Chance, World};

use crate::changes::state;
use crate::netns::Netns;
use crate::number;
use crate::subject::settings;

/// States of each walk.
const STEPS: usize = 6;

/// Gives commands to nft, which takes all of them.
fn tell(netns: &Netns, commands: &[String], what: &str) {
    if commands.is_empty() {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{}", commands.join("\n")).unwrap();
    let path = file.path().display();
    let said = netns.sh(&format!("nft -c -f {path} 2>&1 && nft -f {path} 2>&1 || echo refused"));
    assert!(!said.contains("refused"), "{what}: {said}\n{}", commands.join("\n"));
}

fn open(netns: &Netns) -> Table {
    netns.run(|| Table::open("calico", Counters::default()).unwrap())
}

/// A listing by object: the lines of a chain in order, all words of a set. Sets have no order, also those in a rule.
fn objects(netns: &Netns) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut all: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut object = None;
    for line in netns.sh("nft list ruleset").lines() {
        let depth = line.chars().take_while(|c| *c == '\t').count();
        if depth == 1 && line.ends_with('{') {
            let name = line.trim_matches(['\t', ' ', '{']).to_owned();
            all.insert(name.clone(), Vec::new());
            object = Some(name);
            continue;
        }
        let Some(lines) = object.as_ref().and_then(|name| all.get_mut(name)) else { continue };
        let words = line.split(|c: char| c.is_whitespace() || [',', '{', '}'].contains(&c));
        let words = words.filter(|word| !word.is_empty()).map(str::to_owned);
        match lines.last_mut() {
            // A long list goes on in the next line.
            Some(last) if depth > 2 => last.extend(words),
            _ => lines.push(words.collect()),
        }
    }
    all.values_mut().flatten().for_each(|line| line.sort());
    all
}

/// What nft lists of a table that was made at once.
fn made(contents: &Contents) -> BTreeMap<String, Vec<Vec<String>>> {
    let netns = Netns::new();
    tell(&netns, &[text::table("calico", contents)], "at once");
    objects(&netns)
}

fn assert_same(netns: &Netns, contents: &Contents, what: &str) {
    let (there, wanted) = (objects(netns), made(contents));
    for (name, lines) in &wanted {
        assert_eq!(there.get(name), Some(lines), "{what}: {name}");
    }
    assert_eq!(there.len(), wanted.len(), "{what}: {:?}", there.keys());
}

#[derive(Debug, Default)]
struct Counts {
    lines: usize,
    deleted: usize,
    led: usize,
}

impl Counts {
    fn of(&mut self, commands: &[String]) {
        let begin = |word: &str| commands.iter().filter(|line| line.starts_with(word)).count();
        self.lines += commands.len();
        self.deleted += begin("delete chain");
        self.led += commands
            .iter()
            .filter(|line| {
                // A class that gets another chain: its group leads elsewhere.
                line.starts_with("delete element inet calico pods-")
            })
            .count();
    }
}

fn walk(seed: u64, counts: &mut Counts) {
    let mut chance = Chance::new(seed);
    let world = match seed % 3 {
        0 => World::random(seed),
        1 => World::with_hosts(seed),
        _ => World::with_extras(seed),
    };
    let mut of = Settings::clone(&settings(seed));
    (of.source_spoofing, of.floating_ips) = (seed % 3 == 2, seed % 3 == 2);
    let of = Arc::new(of);
    let options = Options { groups: seed % 4 != 1, random_fully: true };
    let mut renderer = Renderer::new(&of, options).unwrap();
    let mut stage = Stage::default();
    let mut links = Links::new();
    for (index, name) in (1..).zip(["eth0", "eth1", "lo"]) {
        links.insert(name.parse().unwrap(), Link { index, up: true, ..Link::default() });
    }
    // One table is read before each plan, as by the command. Beside it one that is written as the daemon does it, and
    // one that is told the words of that.
    let (read, daemon, told) = (Netns::new(), Netns::new(), Netns::new());
    let mut kept = open(&daemon);
    for step in 0..STEPS {
        let what = format!("seed {seed}, step {step}");
        let state = Arc::new(state(&world, &of, &mut chance));
        let update = stage.update(&state, &links);
        let scene = stage.scene(&state);
        let steps = match update.changed() {
            Some(changed) => renderer.changed(&scene, changed),
            None => Steps { now: renderer.all(&scene).as_changes(), after: Vec::new() },
        };
        let wanted = renderer.clone().all(&scene);

        let spoken = kept.commands(&[&steps.now, &steps.after]);
        for (commands, changes) in spoken.iter().zip([&steps.now, &steps.after]) {
            tell(&told, commands, &what);
            kept.write(changes).unwrap();
            counts.of(commands);
        }
        assert_same(&told, &wanted, &what);

        let mut table = open(&read);
        let found = table.read().unwrap();
        if let Some(found) = &found {
            table.agree(found, &wanted);
        }
        let difference = compare(found.as_ref(), &wanted);
        let transactions: [&[Change]; 2] = [&difference.now, &difference.after];
        for commands in table.commands(&transactions) {
            tell(&read, &commands, &format!("{what}, as it was found"));
            counts.of(&commands);
        }
        assert_same(&read, &wanted, &what);
    }
    // Asleep it is told to wake, and nothing else.
    kept.read().unwrap();
    assert!(!kept.is_asleep());
    daemon.sh("nft add table inet calico '{ flags dormant; }'");
    kept.read().unwrap();
    assert!(kept.is_asleep());
    let [wake, nothing] = kept.commands(&[&[], &[]]).try_into().unwrap();
    assert!(nothing.is_empty());
    tell(&daemon, &wake, "asleep");
    kept.read().unwrap();
    assert!(!kept.is_asleep(), "{wake:?}");
}

#[test]
fn nft_takes_the_words_of_a_change_as_they_are() {
    let (walks, first) = (number("CALICO_SPOKEN", 6), number("CALICO_SEED", 1));
    let mut counts = Counts::default();
    for seed in first..first + walks {
        walk(seed, &mut counts);
    }
    println!("{walks} walks of {STEPS} states: {counts:?}");
    assert!(walks < 6 || (counts.lines > 5000 && counts.deleted > 50 && counts.led > 20));
}
