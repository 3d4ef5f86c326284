//! Random worlds, changed step by step, and real packets: what passes must be what an independent
//! evaluator ([`calico_e2e::evaluator`]) reads in the datastore for pods, and what the reference says of
//! the whole way where hosts police their uplinks.
//!
//! Each world comes from a seed, which is printed with every mismatch. `CALICO_SEED=<seed>` plays
//! one world again; `CALICO_ROUNDS=<n>` plays n worlds.

use std::collections::BTreeMap;
use std::env;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use calico_e2e::evaluator::Evaluator;
use calico_e2e::host::Flavour;

use crate::chance::Chance;
use crate::lab::{Lab, Mismatch};
use crate::ways::Ways;
use crate::world::{Change, World, difference};

mod chance;
mod hosts;
mod lab;
mod object;
mod pods;
mod rules;
mod spoil;
mod staged;
mod version;
mod ways;
mod world;

/// Worlds of a default run.
const ROUNDS: u64 = 14;
/// Worlds at random ask some things seldom: a run that has not asked everything often enough goes on,
/// up to so many times as long.
const AT_MOST: u64 = 3;
/// Changes of each world.
const STEPS: usize = 12;
/// Questions after each change.
const QUESTIONS: usize = 260;
/// More need not be seen before somebody looks.
const ENOUGH: usize = 6;

fn number(name: &str) -> Result<Option<u64>> {
    let text = env::var(name).ok();
    text.map(|text| text.parse().with_context(|| format!("{name} is {text:?}"))).transpose()
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "seeds, counts and mismatches")]
fn random_policies(label: &str, flavour: Flavour) -> Result<()> {
    let fixed = number("CALICO_SEED")?;
    let rounds = number("CALICO_ROUNDS")?.unwrap_or(if fixed.is_some() { 1 } else { ROUNDS });
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let first = fixed.unwrap_or(now.as_millis() as u64 % 1_000_000_000);
    let mut lab = Lab::new(label, flavour)?;
    let (mut objects, mut asked, mut passed, mut slow) = (BTreeMap::new(), 0, 0, 0);
    let (mut closed, mut told) = (0, BTreeMap::<String, usize>::new());
    let mut reports = Vec::new();
    let start = Instant::now();
    let mut steps = 0;
    // Only a run at length can ask for everything.
    let complete = fixed.is_none() && rounds >= ROUNDS;
    let mut next = first;
    let enough = |next: u64, lacking: &[String]| {
        next >= first + rounds && (!complete || lacking.is_empty())
            || next >= first + rounds * AT_MOST
    };
    while !enough(next, &hosts::lacking(closed, &told)) {
        let seed = next;
        next += 1;
        let mut world = World::new(seed);
        let mut chance = Chance::new(!seed);
        let mut change = difference(&objects, &world.objects());
        for step in 0..=STEPS {
            objects = world.objects();
            lab.apply(&change).with_context(|| format!("CALICO_SEED={seed}, step {step}"))?;
            if asked == 0 {
                lab.wait_for_routes()?;
            }
            let evaluator = Evaluator::new(objects.clone());
            let ways = Ways::new(&objects)?;
            let questions = lab.questions(&mut chance, QUESTIONS);
            let (tally, wrong) = lab
                .check(&evaluator, &ways, &questions)
                .with_context(|| format!("CALICO_SEED={seed}, step {step}"))?;
            asked += questions.len();
            passed += tally.passed;
            slow += tally.slow;
            closed += tally.closed;
            for (what, count) in tally.told {
                *told.entry(what).or_default() += count;
            }
            steps += 1;
            for mismatch in wrong {
                let what = format!("CALICO_SEED={seed}, step {step}, {flavour:?}");
                let text = report(&lab, &evaluator, &objects, &change, &mismatch);
                eprintln!("{what}\n{text}");
                reports.push(format!("{what}: {}", mismatch.text));
            }
            if reports.len() >= ENOUGH {
                break;
            }
            change = world.step();
        }
        if reports.len() >= ENOUGH {
            break;
        }
    }
    println!(
        "{flavour:?}: seeds {first}..{next}, {steps} matrices, {asked} questions, {passed} passed, \
         {slow} only when asked again, {} mismatches, {:?}",
        reports.len(),
        start.elapsed()
    );
    println!("{closed} closed by host endpoints, which said: {told:#?}");
    let lacking = hosts::lacking(closed, &told);
    if complete && reports.is_empty() && !lacking.is_empty() {
        bail!("host endpoints decided too seldom: {lacking:?}");
    }
    if !reports.is_empty() {
        bail!("{} mismatches:\n{}", reports.len(), reports.join("\n"));
    }
    Ok(())
}

/// Everything that somebody needs who wants to know why.
fn report(
    lab: &Lab,
    evaluator: &Evaluator,
    objects: &BTreeMap<String, String>,
    change: &Change,
    mismatch: &Mismatch,
) -> String {
    let mut text = format!("{}\n", mismatch.text);
    let mut ids: Vec<String> = Vec::new();
    for end in mismatch.ends {
        text += &evaluator.describe(end);
        text.push('\n');
        ids.extend(evaluator.policies_of(end));
    }
    let ends = mismatch.ends.map(|end| format!("\"{end}/"));
    for (key, value) in objects {
        let tail = key.rsplit("projectcalico.org/").next().unwrap_or_default();
        let (kind, name) = tail.split_once('/').unwrap_or_default();
        let shown = match kind {
            "workloadendpoints" => ends.iter().any(|end| value.contains(end.as_str())),
            "globalnetworkpolicies" | "networkpolicies" => ids.iter().any(|id| id == name),
            _ => true,
        };
        if shown {
            text += &format!("{tail} {value}\n");
        }
    }
    text += &format!("refused: {:?}\n", evaluator.refused);
    text += "changed in this step:\n";
    for (key, value) in change.puts.iter().take(12) {
        text += &format!("  {key} {value}\n");
    }
    for key in change.deletes.iter().take(12) {
        text += &format!("  deleted {key}\n");
    }
    for end in mismatch.ends {
        text += &lab.rules_of(end).unwrap_or_else(|error| format!("{error:#}\n"));
    }
    text
}

calico_e2e::on_each_dataplane! {
    smoke: random_policies, "rnd";
}
