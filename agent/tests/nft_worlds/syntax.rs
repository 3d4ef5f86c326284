//! What is rendered is what nft takes: its own listing of it is asked for, too, in a namespace of its
//! own. Needs root.
//!
//! `CALICO_LISTINGS` = how many worlds of each kind (12).

use std::io::Write as _;
use std::process::{Command, Stdio};

use calico_datastore::model::Family;
use calico_worlds::World;

use crate::hosts::Machine;
use crate::number;
use crate::subject::{Subject, settings};

/// What nft prints of a table that it was given; an error says what it said.
#[expect(clippy::disallowed_methods, reason = "nft is asked by itself, in a namespace of its own")]
fn listed(text: &str) -> Result<String, String> {
    let script = "nft -f - && nft list ruleset";
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The words of a listing: elements come in any order, and a set of one is a single one the next time.
fn words(list: &str) -> Vec<&str> {
    let split = |c: char| c.is_whitespace() || [',', '{', '}'].contains(&c);
    let mut words: Vec<&str> = list.split(split).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words
}

#[test]
fn nft_takes_what_is_rendered_and_lists_it() {
    let worlds = number("CALICO_LISTINGS", 12);
    let first = number("CALICO_SEED", 1);
    let mut rules = 0;
    for seed in first..first + worlds {
        let (world, host) = (World::with_hosts(seed), World::host(seed));
        let pods = World::random(seed);
        let subject = Subject::new(&pods.node, pods.updates(), settings(seed));
        let machine = Machine::new(&world, world.updates(), seed, &host);
        for made in [&subject.made, &machine.subject.made] {
            let text = made.ruleset(Family::V4).listing();
            let list = listed(&text).unwrap_or_else(|said| panic!("seed {seed}: {said}\n{text}"));
            // The listing is what nft takes again, and the same then.
            let again = listed(&list).unwrap();
            let differ = list.lines().zip(again.lines()).filter(|(a, b)| words(a) != words(b));
            let differ: Vec<_> = differ.collect();
            assert_eq!(words(&list), words(&again), "seed {seed}: {differ:#?}");
            let count = |text: &str| text.lines().filter(|line| line.starts_with("\t\t")).count();
            assert!(count(&list) >= made.rules(), "seed {seed}:\n{list}");
            rules += made.rules();
        }
    }
    println!("{rules} rules of {} tables", 2 * worlds);
    let said = listed("table inet x { chain c { ip saddr 10.0.0.0/8 accepted } }").unwrap_err();
    assert!(said.contains("syntax error"), "{said}");
}
