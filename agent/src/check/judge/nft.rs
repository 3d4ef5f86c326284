//! What `nft -t list ruleset` prints, as far as it says which chains of others see forwarded
//! packets and whether one drops them all: pure.

use std::collections::BTreeMap;

/// A chain that forwarded packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChain {
    /// `inet firewalld filter_FORWARD`.
    pub name: String,
    /// Why it drops what no condition of it let pass.
    pub drops: Option<String>,
    /// It names interfaces of pods, so somebody has thought of them.
    pub mentions_pods: bool,
}

/// A chain as it is printed.
#[derive(Default)]
struct Chain {
    base: Option<String>,
    rules: Vec<String>,
}

/// The chains of iptables on top of nf_tables: they are judged as such.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Every chain at the hook `forward` of a table for IP that is not iptables' own.
pub fn forward_chains(text: &str) -> Vec<ForwardChain> {
    let mut out = Vec::new();
    let mut table = String::new();
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    let mut current: Option<String> = None;
    // Sets and maps have braces too.
    let mut depth = 0_usize;
    for line in text.lines().map(str::trim) {
        if depth == 0
            && let Some(name) = line.strip_prefix("table ")
        {
            table = name.trim_end_matches(" {").to_owned();
            chains.clear();
        } else if depth == 1
            && let Some(name) = line.strip_prefix("chain ")
        {
            let name = name.trim_end_matches(" {").to_owned();
            chains.insert(name.clone(), Chain::default());
            current = Some(name);
        } else if depth == 2
            && line != "}"
            && let Some(chain) = current.as_ref().and_then(|name| chains.get_mut(name))
        {
            if line.starts_with("type ") && line.contains(" hook ") {
                chain.base = Some(line.to_owned());
            } else {
                chain.rules.push(line.to_owned());
            }
        }
        depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
        if depth == 1 {
            current = None;
        }
        if depth == 0 && line == "}" {
            take(&table, &chains, &mut out);
        }
    }
    out
}

fn take(table: &str, chains: &BTreeMap<String, Chain>, out: &mut Vec<ForwardChain>) {
    let family = table.split(' ').next().unwrap_or_default();
    if !["ip", "ip6", "inet"].contains(&family) {
        return;
    }
    for (name, chain) in chains {
        let Some(base) = &chain.base else { continue };
        let iptables = family != "inet" && BUILT_IN.contains(&name.as_str());
        if !base.contains(" hook forward ") || iptables {
            continue;
        }
        let drops = end(chain, chains, 0)
            .or_else(|| base.contains("policy drop").then(|| "its policy is drop".to_owned()));
        let mentions_pods = chain.rules.iter().any(|rule| rule.contains("\"cali"));
        out.push(ForwardChain {
            name: format!("{table} {name}"),
            drops: drops.filter(|end| !end.is_empty()),
            mentions_pods,
        });
    }
}

/// What drops every packet that comes so far; empty: it is accepted.
fn end(chain: &Chain, chains: &BTreeMap<String, Chain>, depth: usize) -> Option<String> {
    for rule in &chain.rules {
        // Counters and comments are no conditions.
        let words: Vec<&str> = rule.split(' ').collect();
        let skip = match words.as_slice() {
            ["counter", "packets", _, "bytes", _, ..] => 5,
            ["counter", ..] => 1,
            _ => 0,
        };
        match words[skip..] {
            ["drop", ..] | ["reject", ..] => return Some(format!("`{rule}`")),
            ["accept", ..] => return Some(String::new()),
            ["return", ..] => return None,
            ["jump" | "goto", target, ..] if depth < 16 => {
                let below = chains.get(target).and_then(|chain| end(chain, chains, depth + 1));
                if below.is_some() {
                    return below;
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = r#"table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
}
table inet firewalld {
	set x {
		type ipv4_addr
		elements = { 10.0.0.1 }
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		jump filter_FORWARD_ZONES
		counter packets 3 bytes 9 reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES {
		iifname "eth0" goto nowhere
	}
}
table inet mine {
	chain forward {
		type filter hook forward priority filter; policy drop;
		iifname "cali*" accept
	}
	chain free {
		type filter hook forward priority filter; policy drop;
		accept
	}
	chain input {
		type filter hook input priority filter; policy drop;
	}
}
table bridge b {
	chain f {
		type filter hook forward priority filter; policy drop;
	}
}
"#;

    #[test]
    fn chains_of_others_that_see_forwarded_packets() {
        let found = forward_chains(RULESET);
        let short: Vec<_> =
            found.iter().map(|c| (c.name.as_str(), c.drops.as_deref(), c.mentions_pods)).collect();
        assert_eq!(
            short,
            [
                (
                    "inet firewalld filter_FORWARD",
                    Some("`counter packets 3 bytes 9 reject with icmpx admin-prohibited`"),
                    false
                ),
                ("inet mine forward", Some("its policy is drop"), true),
                ("inet mine free", None, false),
            ]
        );
        assert_eq!(forward_chains(""), []);
    }
}
