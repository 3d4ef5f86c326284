//! An explanation as text: the outcome first, then the way to it. Pure.

use std::fmt::{self, Write as _};

use super::document::{
    Answer, End, EndKind, Explanation, Outcome, RuleAsked, RulesAsked, SideAnswer,
};

/// The text for people.
pub fn render(explanation: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, explanation);
    out
}

fn write(out: &mut String, explanation: &Explanation) -> fmt::Result {
    let mut shown: Vec<&Answer> = Vec::new();
    for answer in &explanation.answers {
        headline(out, answer)?;
        let same = shown
            .iter()
            .find(|other| other.because == answer.because && steps_of(other) == steps_of(answer));
        if let Some(other) = same {
            let (from, to) = (other.from.address, other.to.address);
            writeln!(out, "{INDENT}decided by the same rules as {from} → {to}")?;
        } else {
            writeln!(out, "{INDENT}{}", answer.because)?;
            shown.push(answer);
        }
    }
    for answer in shown {
        let has_steps = |side: &SideAnswer| {
            !side.tiers.is_empty() || !side.profiles.is_empty() || side.hook.is_some()
        };
        if answer.sides.iter().any(has_steps) {
            writeln!(out)?;
            if explanation.answers.len() > 1 {
                writeln!(out, "{} → {}", answer.from.address, answer.to.address)?;
            }
        }
        for side in &answer.sides {
            way(out, side)?;
        }
    }
    writeln!(out)?;
    let basis = &explanation.basis;
    match &basis.agent {
        Some(node) => write!(out, "The agent on {node} says so")?,
        None => write!(out, "Calculated from {}", basis.datastore)?,
    }
    writeln!(out, ", revision {}", basis.revision)?;
    for change in &basis.changes {
        writeln!(out, "  with {change}")?;
    }
    for note in &explanation.notes {
        writeln!(out, "Note: {note}")?;
    }
    Ok(())
}

const INDENT: &str = "         ";

/// What decided, without addresses: the rules that were asked and whether they matched.
fn steps_of(answer: &Answer) -> Vec<(&str, bool)> {
    let rules = answer.sides.iter().flat_map(|side| {
        let policies = side.tiers.iter().flat_map(|tier| &tier.policies);
        policies.chain(&side.profiles).flat_map(|policy| &policy.rules)
    });
    rules.map(|rule| (rule.text.as_str(), rule.matches)).collect()
}

/// `ALLOWED  default/web/eth0 (10.65.0.2) → outside (203.0.113.1) tcp port 80`.
fn headline(out: &mut String, answer: &Answer) -> fmt::Result {
    let outcome = match answer.outcome {
        Outcome::Unpoliced => "NO RULE",
        Outcome::Allowed => "ALLOWED",
        Outcome::Unknown => "UNKNOWN",
        Outcome::Denied => "DENIED",
    };
    let (from, to) = (end(&answer.from), end(&answer.to));
    write!(out, "{outcome:<7}  {from} → {to} {}", answer.protocol)?;
    if let Some((kind, code)) = answer.icmp {
        write!(out, " type {kind} code {code}")?;
    }
    if let Some(port) = answer.from.port {
        write!(out, " source port {port}")?;
    }
    if let Some(port) = answer.to.port {
        write!(out, " port {port}")?;
    }
    writeln!(out)
}

fn end(end: &End) -> String {
    if !end.networks.is_empty() {
        return end.networks.join(", ");
    }
    let address = match end.external {
        Some(external) => format!("{external} → {}", end.address),
        None => end.address.to_string(),
    };
    match (&end.kind, &end.name, &end.node) {
        (EndKind::Pod, Some(name), Some(node)) => format!("{name} ({address} on {node})"),
        (EndKind::Host, _, Some(node)) => format!("host {node} ({address})"),
        _ => address,
    }
}

fn way(out: &mut String, side: &SideAnswer) -> fmt::Result {
    let verdict = match side.allowed {
        Some(true) => "allowed",
        Some(false) => "denied",
        None => "not known",
    };
    let on = side.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let at = match (&side.hook, &side.interface) {
        (Some(hook), Some(interface)) => format!(" ({interface}, {hook})"),
        (Some(hook), None) => format!(" ({hook})"),
        (None, _) => String::new(),
    };
    let (whose, reason) = (&side.endpoint, &side.reason);
    writeln!(out, "{} of {whose}{at}{on}: {verdict}: {reason}", side.side)?;
    for tier in &side.tiers {
        writeln!(out, "  tier {}", tier.tier)?;
        for policy in &tier.policies {
            rules(out, "policy", policy)?;
        }
        match tier.end.as_deref() {
            Some("pass") => writeln!(out, "    end of the tier: pass, on to what comes next")?,
            Some(end) => writeln!(out, "    end of the tier: {end}")?,
            None => {}
        }
    }
    for profile in &side.profiles {
        rules(out, "profile", profile)?;
    }
    Ok(())
}

fn rules(out: &mut String, kind: &str, asked: &RulesAsked) -> fmt::Result {
    let indent = if kind == "profile" { "  " } else { "    " };
    writeln!(out, "{indent}{kind} {}", asked.name)?;
    if asked.rules.is_empty() {
        writeln!(out, "{indent}  has no rule for this direction")?;
    }
    let width = |text: fn(&RuleAsked) -> usize| asked.rules.iter().map(text).max().unwrap_or(0);
    let place = width(|rule| rule.rule.chars().count());
    for rule in &asked.rules {
        let (sign, then) = match (rule.matches, rule.action.as_str()) {
            (false, _) => (" ", String::new()),
            (true, "pass") => ("→", "matches: goes on behind this tier".to_owned()),
            (true, "log") => ("·", "matches: is logged, and goes on".to_owned()),
            (true, _) => ("→", "matches and decides".to_owned()),
        };
        let why = rule.why_not.as_deref().unwrap_or(&then);
        let why = match (rule.action.as_str(), kind) {
            ("pass", "profile") if rule.matches => "matches: goes on behind this profile",
            _ => why,
        };
        writeln!(out, "{indent}{sign} {:<place$}  {}", rule.rule, rule.text)?;
        writeln!(out, "{indent}  {:place$}    {why}", "")?;
        for set in rule.sets.iter().filter(|set| rule.matches && set.member.is_some()) {
            let member = set.member.as_deref().unwrap_or_default();
            let (side, selector, many) = (&set.side, &set.selector, set.members);
            let many = if many == 1 { "1 member".to_owned() } else { format!("{many} members") };
            writeln!(out, "{indent}  {:place$}    {side} is {member} of {selector} ({many})", "")?;
        }
    }
    Ok(())
}
