//! The agent's own table as nft prints it, in lines that two hosts, or two moments, can be compared by.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::netns::Place;

/// How it begins.
const TABLE: &str = "table inet calico {";
/// The maps from groups to classes.
const MAPS: [&str; 2] = ["pods-from", "pods-to"];

/// What each rule and element is and where, in a fixed order: rules keep theirs within their chain,
/// elements have none. Not told: counters, which of its two names a set has, and the numbers of groups: for
/// these stands whose class an interface is of. Nothing without the table.
///
/// # Errors
/// When a tool fails, or says what is no table.
pub fn lines(ns: &Place) -> Result<Vec<String>> {
    let text = ns.command("nft").args(["-s", "list", "ruleset"]).run()?;
    let Some((_, text)) = text.split_once(TABLE) else { return Ok(Vec::new()) };
    let text = text.split_once("\n}").map_or(text, |(text, _)| text);
    let (mut all, mut classes) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
    for block in text.split("\n\t}") {
        let Some((head, body)) = block.split_once(" {\n") else { continue };
        let (kind, name) = head.trim().split_once(' ').context("a kind and a name")?;
        let name = first_name(name);
        let what = format!("{kind} {name}");
        let (body, elements) = body.split_once("elements = {").unwrap_or((body, ""));
        all.push(format!("{what}:"));
        for (number, line) in body.lines().map(str::trim).filter(|l| !l.is_empty()).enumerate() {
            all.push(format!("{what}: {number:03} {}", plain(line)));
        }
        for element in elements.trim_end_matches(['}', '\n', '\t', ' ']).split(',') {
            let element = element.split_whitespace().collect::<Vec<_>>().join(" ");
            match element.split_once(" : ") {
                Some((group, class)) if MAPS.contains(&name.as_str()) => {
                    all.push(format!("{what}: {class}"));
                    classes.entry(group.to_owned()).or_default().push(class.to_owned());
                }
                _ if element.is_empty() => {}
                _ => all.push(format!("{what}: {element}")),
            }
        }
    }
    for (interface, group) in groups(ns)? {
        let class = classes.get(&group).map(|of| of.join(", "));
        all.push(format!("interface {interface}: {}", class.unwrap_or(format!("group {group}"))));
    }
    all.sort();
    Ok(all)
}

/// Pods' interfaces and the group that each is in, as a number.
///
/// # Errors
/// When the tool fails.
pub fn groups(ns: &Place) -> Result<Vec<(String, String)>> {
    let text = ns.command("ip").args(["-o", "-N", "link", "show"]).run()?;
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.nth(1).unwrap_or_default().trim_end_matches(':');
        let name = name.split('@').next().unwrap_or_default();
        let group = words.skip_while(|word| *word != "group").nth(1).unwrap_or("0");
        if name.starts_with("cali") || name.starts_with("tap") {
            all.push((name.to_owned(), group.to_owned()));
        }
    }
    Ok(all)
}

/// A set's first name.
fn first_name(name: &str) -> String {
    match name.split_once(".b/") {
        Some((name, shape)) => format!("{name}/{shape}"),
        None => name.strip_suffix(".b").unwrap_or(name).to_owned(),
    }
}

/// A rule whose sets have their first names, and whose lists have an order.
fn plain(rule: &str) -> String {
    let mut out = String::new();
    let mut rest = rule;
    while let Some((before, list)) = rest.split_once("{ ") {
        let (list, after) = list.split_once(" }").unwrap_or((list, ""));
        let mut members: Vec<&str> = list.split(", ").collect();
        members.sort_unstable();
        out += &format!("{before}{{ {} }}", members.join(", "));
        rest = after;
    }
    out += rest;
    let word = |word: &str| {
        if word.starts_with('@') { first_name(word) } else { word.to_owned() }
    };
    out.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A rule as nft prints it, with the chain that it is in.
///
/// # Errors
/// When the tool fails.
pub fn rules(ns: &Place) -> Result<Vec<(String, String)>> {
    let text = ns.command("nft").args(["list", "ruleset"]).run()?;
    let text = text.split_once(TABLE).map_or("", |(_, text)| text);
    let text = text.split_once("\n}").map_or(text, |(text, _)| text);
    let mut all = Vec::new();
    let mut chain = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chain = Some(name);
        } else if line == "}" {
            chain = None;
        } else if let Some(chain) = chain.filter(|_| !line.is_empty()) {
            all.push((chain.to_owned(), line.to_owned()));
        }
    }
    Ok(all)
}

/// The packets that a rule or an element counted, if it counts.
#[must_use]
pub fn packets(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("counter packets ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lists_are_told_in_one_way() {
        let rule = "meta l4proto tcp th dport { 8080, 443 } ip saddr @set4-x.b accept";
        let same = "meta l4proto tcp th dport { 443, 8080 } ip saddr @set4-x accept";
        assert_eq!(plain(rule), same);
        assert_eq!(plain(same), same);
        assert_eq!(first_name("set4-x.b/24"), "set4-x/24");
        assert_eq!(first_name("set4-x.bc"), "set4-x.bc");
        assert_eq!(packets("ip saddr 10.0.0.1 counter packets 7 bytes 84 accept"), Some(7));
        assert_eq!(packets("counter accept"), None);
    }
}
