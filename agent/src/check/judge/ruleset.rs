//! What `iptables-save` prints, as far as it says who decides about every packet: pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::felix::iptables::names::owns_chain;

/// What becomes of every packet that comes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is accepted.
    Accept,
    /// It is dropped or refused.
    Drop,
}

/// The table `filter` of one family, and who has rules in any table.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// Policies of the kernel's chains.
    policies: BTreeMap<String, String>,
    /// Rules by chain, without `-A CHAIN`.
    rules: BTreeMap<String, Vec<String>>,
    /// Every chain of every table.
    chains: BTreeSet<String>,
    foreign: usize,
}

/// Who is told by the names of chains.
const OWNERS: [(&str, &str); 6] = [
    ("DOCKER", "Docker"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("FWDI_", "firewalld"),
    ("KUBE-", "kube-proxy"),
    ("CNI-", "a CNI plugin"),
];

impl Ruleset {
    /// Reads it.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        let mut filter = false;
        for line in text.lines() {
            if let Some(table) = line.strip_prefix('*') {
                filter = table == "filter";
            } else if let Some(declared) = line.strip_prefix(':') {
                let mut words = declared.split(' ');
                let name = words.next().unwrap_or_default().to_owned();
                if let Some(policy) = words.next().filter(|policy| filter && *policy != "-") {
                    out.policies.insert(name.clone(), policy.to_owned());
                }
                out.chains.insert(name);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                if !owns_chain(chain) && !is_ours(rule) {
                    out.foreign += 1;
                }
                if filter {
                    out.rules.entry(chain.to_owned()).or_default().push(rule.to_owned());
                }
            }
        }
        out
    }

    /// How many rules are not ours.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// True when chains of ours are there.
    pub fn holds_ours(&self) -> bool {
        self.chains.iter().any(|name| name.starts_with("cali-"))
    }

    /// True when chains are there that only the original makes.
    pub fn holds_felix(&self) -> bool {
        let original = |name: &String| {
            name.starts_with("felix-")
                || ["cali-from-hep-forward", "cali-from-host-endpoint"].contains(&name.as_str())
        };
        self.chains.iter().any(original)
    }

    /// Whose chains are there.
    pub fn owners(&self) -> impl Iterator<Item = &'static str> {
        let has = |prefix: &str| self.chains.iter().any(|name| name.starts_with(prefix));
        OWNERS.into_iter().filter(move |(prefix, _)| has(prefix)).map(|(_, name)| name)
    }

    /// True when our jump stands in that chain.
    pub fn has_ours(&self, chain: &str) -> bool {
        self.of(chain).iter().any(|rule| is_ours(rule))
    }

    /// How many rules of others stand before our jump.
    pub fn before_ours(&self, chain: &str) -> usize {
        self.of(chain).iter().position(|rule| is_ours(rule)).unwrap_or(0)
    }

    /// What decides about every packet before our jump; when there is none yet, before the end.
    pub fn end_before_ours(&self, chain: &str) -> Option<(End, String)> {
        let rules = self.of(chain);
        let ours = rules.iter().position(|rule| is_ours(rule)).unwrap_or(rules.len());
        self.end_among(chain, &rules[..ours])
    }

    /// What decides about every packet behind our jump, the policy of the chain included.
    pub fn end_behind_ours(&self, chain: &str) -> Option<(End, String)> {
        let rules = self.of(chain);
        let ours = rules.iter().position(|rule| is_ours(rule)).map_or(0, |at| at + 1);
        self.end_among(chain, &rules[ours..]).or_else(|| self.policy(chain))
    }

    fn of(&self, chain: &str) -> &[String] {
        self.rules.get(chain).map_or(&[], Vec::as_slice)
    }

    fn policy(&self, chain: &str) -> Option<(End, String)> {
        let policy = self.policies.get(chain)?;
        (policy != "ACCEPT").then(|| (End::Drop, format!("policy {policy}")))
    }

    fn end_among(&self, chain: &str, rules: &[String]) -> Option<(End, String)> {
        rules.iter().find_map(|rule| {
            let end = self.end_of_rule(rule, 0)?;
            Some((end, format!("-A {chain} {rule}")))
        })
    }

    /// What becomes of every packet that meets the rule; `None` for one with conditions.
    fn end_of_rule(&self, rule: &str, depth: usize) -> Option<End> {
        match target(rule)? {
            "ACCEPT" => Some(End::Accept),
            "DROP" | "REJECT" => Some(End::Drop),
            // Chains form no circle; a text may.
            chain if depth < 16 && !owns_chain(chain) => {
                for rule in self.of(chain) {
                    if rule.contains("-j RETURN") || rule.contains("-g ") {
                        return None;
                    }
                    if let Some(end) = self.end_of_rule(rule, depth + 1) {
                        return Some(end);
                    }
                }
                None
            }
            _ => None,
        }
    }
}

fn is_ours(rule: &str) -> bool {
    rule.contains("cali:") && rule.contains("-j cali-")
}

/// The target of a rule without conditions.
fn target(rule: &str) -> Option<&str> {
    let rule = match rule.split_once("-m comment --comment ") {
        None => rule,
        Some(("", rest)) => match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once("\" ")?.1,
            None => rest.split_once(' ')?.1,
        },
        Some(_) => return None,
    };
    let target = rule.strip_prefix("-j ")?;
    target.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rule_without_conditions_is_an_end() {
        for (rule, expected) in [
            ("-j DROP", Some("DROP")),
            ("-j REJECT --reject-with icmp-port-unreachable", Some("REJECT")),
            ("-m comment --comment \"the last one\" -j DROP", Some("DROP")),
            ("-m comment --comment word -j DROP", Some("DROP")),
            ("-i eth0 -j DROP", None),
            ("-i eth0 -m comment --comment x -j DROP", None),
            ("-g elsewhere", None),
        ] {
            assert_eq!(target(rule), expected, "{rule}");
        }
    }

    #[test]
    fn owners_and_counts() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n\
                    *filter\n:FORWARD DROP [0:0]\n:cali-FORWARD - [0:0]\n\
                    -A FORWARD -m comment --comment \"cali:abcdefghijklmnop\" -j cali-FORWARD\n\
                    -A cali-FORWARD -j DROP\nCOMMIT\n";
        let rules = Ruleset::parse(text);
        assert_eq!(rules.owners().collect::<Vec<_>>(), ["Docker"]);
        assert_eq!(rules.foreign(), 1);
        assert!(rules.holds_ours() && rules.has_ours("FORWARD") && !rules.holds_felix());
        assert_eq!(rules.end_behind_ours("FORWARD"), Some((End::Drop, "policy DROP".to_owned())));
        assert_eq!(rules.end_before_ours("FORWARD"), None);
    }
}
