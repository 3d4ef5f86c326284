//! A plan as text that the tools themselves would take: pure.

use std::fmt::Write as _;

use super::Plan;
use crate::felix::preview::GroupChange;

/// The text for people. Empty when there is nothing to write and nothing to say.
pub fn render(plan: &Plan) -> String {
    let mut text = String::new();
    let mut part = |title: String, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(text, "# {title}\n{}", lines.join("\n"));
        }
    };
    part("nft -f".to_owned(), &plan.nftables);
    let groups = plan.groups.iter().map(|change| {
        let GroupChange { interface, from, to } = change;
        format!("ip link set {interface} group {to:#x}   # is {from:#x}")
    });
    part("groups of interfaces".to_owned(), &groups.collect::<Vec<_>>());
    part("nft -f, after that".to_owned(), &plan.nftables_after);
    part("address sets, before the tables".to_owned(), &plan.sets_before);
    for table in &plan.tables {
        part(format!("{} --noflush", table.program), &[table.text.trim_end().to_owned()]);
    }
    part("address sets, after the tables".to_owned(), &plan.sets_after);
    let sysctls: Vec<String> = plan
        .sysctls
        .iter()
        .map(|change| format!("{} = {}   # is {}", change.path, change.to, change.from))
        .collect();
    part("sysctl".to_owned(), &sysctls);
    let routes: Vec<String> = plan
        .routes
        .iter()
        .map(|change| match change.after_seconds {
            0 => change.command.clone(),
            seconds => format!("{}   # after {seconds} s, if it is still there", change.command),
        })
        .collect();
    part("routes and neighbours".to_owned(), &routes);
    if let Some(diff) = &plan.bird {
        part("BIRD's configuration".to_owned(), &[diff.trim_end().to_owned()]);
    }
    for problem in &plan.problems {
        let _ = writeln!(text, "# problem: {}: {}", problem.subject, problem.message);
    }
    if !plan.is_empty() {
        let _ = writeln!(text, "# {} at revision {}, {}", plan.node, plan.revision, plan.dataplane);
    }
    text
}
