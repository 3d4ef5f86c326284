//! An answer line by line, whoever gives it: so that two can be compared, and the difference be read.

use calico_agent::explain::document::{Answer, Outcome, RulesAsked, SideAnswer};
use calico_datastore::model::Action;
use calico_reference::{Account, Direction, Told};

/// The outcome, why, and each side with all that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) outcome: Outcome,
    pub(crate) because: String,
    pub(crate) sides: Vec<Vec<String>>,
}

/// The first line of a side.
pub(crate) fn head(
    side: &str,
    whose: &str,
    hook: Option<&str>,
    allowed: bool,
    why: &str,
) -> String {
    let verdict = if allowed { "allowed" } else { "denied" };
    format!("{side} of {whose} at {}: {verdict}: {why}", hook.unwrap_or("the pod"))
}

/// What `explain` answered.
pub(crate) fn of_answer(answer: &Answer) -> Lines {
    let sides = answer.sides.iter().map(of_side).collect();
    Lines { outcome: answer.outcome, because: answer.because.clone(), sides }
}

fn of_side(side: &SideAnswer) -> Vec<String> {
    let whose = format!("{} on {}", side.endpoint, side.node.as_deref().unwrap_or("nowhere"));
    let mut lines = vec![match side.allowed {
        Some(allowed) => head(&side.side, &whose, side.hook.as_deref(), allowed, &side.reason),
        None => format!("{whose} is not known"),
    }];
    for tier in &side.tiers {
        lines.push(format!("tier {}", tier.tier));
        for policy in &tier.policies {
            lines.push(format!("policy {}", policy.name));
            lines.extend(rules(policy));
        }
        lines.extend(tier.end.as_ref().map(|end| format!("end: {end}")));
    }
    for profile in &side.profiles {
        lines.push(format!("profile {}", profile.name));
        lines.extend(rules(profile));
    }
    lines
}

fn rules(asked: &RulesAsked) -> Vec<String> {
    let line = |at: &str, action: &str, matches| {
        format!("{at} {action} {}", if matches { "matches" } else { "does not match" })
    };
    asked.rules.iter().map(|rule| line(&rule.rule, &rule.action, rule.matches)).collect()
}

/// What the reference tells, in the same words.
pub(crate) fn of_account(account: &Account, direction: Direction) -> Vec<String> {
    let side = if direction == Direction::Ingress { "ingress" } else { "egress" };
    let line = |told: &Told| match told {
        Told::Tier(name) => format!("tier {name}"),
        Told::Policy(id) => format!("policy {id}"),
        Told::Profile(name) => format!("profile {name}"),
        Told::Rule { rule, action, matches } => {
            let action = match action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Log => "log",
                Action::Pass => "pass",
            };
            let matches = if *matches { "matches" } else { "does not match" };
            format!("{side}[{rule}] {action} {matches}")
        }
        Told::End { passes } => format!("end: {}", if *passes { "pass" } else { "deny" }),
    };
    account.told.iter().map(line).collect()
}
