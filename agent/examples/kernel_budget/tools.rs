//! The same change by the system's own tools: what `calico-agent plan` says that they would be told.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use calico_agent::felix::preview::{FelixPreview, GroupChange};

use crate::netns::{run, try_run};

/// Commands of nft in an order that the kernel takes: a key of a map that gets another verdict goes
/// first, and a chain when nothing names it any more. `held`: what there is.
fn ordered(commands: &[String], held: &str) -> String {
    let begins = |line: &str, word: &str| line.starts_with(word);
    let leaves = |line: &&String| begins(line, "delete element");
    let goes = |line: &&String| begins(line, "delete chain") || begins(line, "delete set");
    let emptied = commands.iter().filter_map(|line| line.strip_prefix("delete chain"));
    let emptied = emptied.map(|chain| format!("flush chain{chain}"));
    let replaced = commands.iter().filter_map(|line| {
        let (key, _) = line.strip_prefix("add element ")?.split_once(" : goto ")?;
        let (map, key) = key.split_once(" { ")?;
        let delete = format!("delete element {map} {{ {key} ");
        let told = commands.iter().any(|line| line.starts_with(&delete));
        let there = held.contains(&format!("{key} : goto"));
        (there && !told).then(|| delete + "}")
    });
    let (last, rest): (Vec<_>, Vec<_>) = commands.iter().partition(goes);
    let (first, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(leaves);
    let in_order = first.into_iter().chain(rest).chain(last).cloned();
    emptied.chain(replaced).chain(in_order).collect::<Vec<_>>().join("\n")
}

/// Programs and what each is told, in order.
#[derive(Debug)]
pub struct Script(Vec<(Vec<String>, String)>);

impl Script {
    /// Of a plan.
    pub fn of(plan: &FelixPreview) -> Self {
        let held = try_run(&["nft", "list", "table", "inet", "calico"], "").unwrap_or_default();
        let mut all = Self(Vec::new());
        all.step(&["nft", "-f", "-"], ordered(&plan.nftables, &held));
        let group =
            |one: &GroupChange| format!("link set dev {} group {}\n", one.interface, one.to);
        all.step(&["ip", "-batch", "-"], plan.groups.iter().map(group).collect());
        all.step(&["nft", "-f", "-"], ordered(&plan.nftables_after, &held));
        let lines = |commands: &[calico_agent::felix::ipset::Command]| {
            commands.iter().fold(String::new(), |mut text, command| {
                let _ = writeln!(text, "{command}");
                text
            })
        };
        all.step(&["ipset", "restore", "-exist"], lines(&plan.before));
        let mut programs: Vec<&str> = plan.tables.iter().map(|t| t.program.as_str()).collect();
        programs.dedup();
        for program in programs {
            let tables = plan.tables.iter().filter(|table| table.program == program);
            all.step(&[program, "--noflush"], tables.map(|table| table.text.as_str()).collect());
        }
        all.step(&["ipset", "restore", "-exist"], lines(&plan.after));
        all
    }

    fn step(&mut self, program: &[&str], input: String) {
        if !input.is_empty() {
            self.0.push((program.iter().map(|&word| word.to_owned()).collect(), input + "\n"));
        }
    }

    /// Runs them; how long they took.
    pub fn run(&self) -> Duration {
        let mut took = Duration::ZERO;
        for (program, input) in &self.0 {
            let program: Vec<&str> = program.iter().map(String::as_str).collect();
            let begin = Instant::now();
            let said = try_run(&program, input);
            took += begin.elapsed();
            if let Err(said) = said {
                println!("again: {said}");
                // The kernel lets go of a set some time after its rule.
                std::thread::sleep(Duration::from_millis(50));
                run(&program, input);
            }
        }
        took
    }
}
