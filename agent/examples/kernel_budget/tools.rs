//! The same change by the system's own tools: what `calico-agent plan` says that they would be told.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use calico_agent::felix::preview::{FelixPreview, GroupChange};

use crate::netns::{run, try_run};

/// Programs and what each is told, in order.
#[derive(Debug)]
pub struct Script(Vec<(Vec<String>, String)>);

impl Script {
    /// Of a plan.
    pub fn of(plan: &FelixPreview) -> Self {
        let mut all = Self(Vec::new());
        all.step(&["nft", "-f", "-"], plan.nftables.join("\n"));
        let group =
            |one: &GroupChange| format!("link set dev {} group {}\n", one.interface, one.to);
        all.step(&["ip", "-batch", "-"], plan.groups.iter().map(group).collect());
        all.step(&["nft", "-f", "-"], plan.nftables_after.join("\n"));
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
