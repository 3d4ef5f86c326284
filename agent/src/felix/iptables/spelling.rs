//! Is a rule that the kernel holds the rule that we wrote? Its hash says which one it was meant to be,
//! and nothing about what it is: who changes a rule keeps the comment. So the texts are compared.
//!
//! `iptables-save` does not print what `iptables-restore` was told: long options become short ones,
//! the mark is set in another way, defaults appear, the order is another. Rules are not understood
//! here: both texts are taken apart into options with their values, each option gets one name, and
//! the two lists must be equal. Whatever is more, less, or other makes a difference.
//!
//! A tool that spells in a way that is not known here must not make us write the same rule for ever.
//! Its text is *learned*, under a condition that no foreign change meets: it was there before we wrote
//! the rule, and is there again right after, with the same target. See [`super::tables`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use super::hash::RuleHash;

/// Texts of rules that are known to be right.
#[derive(Clone, Debug, Default)]
pub struct Spellings {
    /// By rule, the digest of the text that was found equal, so that it need not be taken apart at
    /// the next reading, or that was learned.
    right: HashMap<RuleHash, u64>,
    /// Those of them that cannot be told by comparing.
    learned: HashMap<RuleHash, u64>,
}

impl Spellings {
    /// True when `theirs` is how the kernel's tool spells `ours`, the rule of this hash.
    pub fn is(&mut self, hash: RuleHash, ours: impl FnOnce() -> String, theirs: &str) -> bool {
        let digest = digest(theirs);
        let known = self.right.get(&hash) == Some(&digest)
            || self.learned.get(&hash) == Some(&digest)
            || same(&ours(), theirs);
        if known {
            self.right.insert(hash, digest);
        }
        known
    }

    /// From now on `theirs` is right for the rule of this hash.
    pub fn learn(&mut self, hash: RuleHash, theirs: &str) {
        self.learned.insert(hash, digest(theirs));
    }

    /// Forgets rules that are no more.
    pub fn retain(&mut self, there: impl Fn(&RuleHash) -> bool) {
        self.right.retain(|hash, _| there(hash));
        self.learned.retain(|hash, _| there(hash));
    }

    /// How many were learned.
    pub fn learned(&self) -> usize {
        self.learned.len()
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// True when both texts hold the same options with the same values.
pub fn same(ours: &str, theirs: &str) -> bool {
    options(ours) == options(theirs)
}

/// True when both texts end in the same target: only then may the rest be a matter of spelling.
pub fn same_target(ours: &str, theirs: &str) -> bool {
    let target = |text: &str| -> Vec<String> {
        let is_target = |option: &String| option.starts_with("-j") || option.starts_with("-g");
        options(text).into_iter().filter(is_target).collect()
    };
    target(ours) == target(theirs)
}

/// The options of a rule, each as one text, in an order of their own.
fn options(rule: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut negated = false;
    let mut words = words(rule).into_iter().peekable();
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let mut values = Vec::new();
        while let Some(value) = words.next_if(|next| !next.starts_with('-') && next != "!") {
            values.push(value);
        }
        let not = if std::mem::take(&mut negated) { "! " } else { "" };
        if let Some((name, value)) = option(&word, &values) {
            // NUL: a value may hold any other character.
            out.push(format!("{name}\0{not}{value}"));
        }
    }
    out.sort_unstable();
    out
}

/// The words of a rule as the tools read it: quotes and backslashes are gone.
fn words(rule: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for c in rule.chars() {
        if c == ' ' && !quoted && !escaped {
            out.extend(word.take());
            continue;
        }
        let at = word.get_or_insert_with(String::new);
        match c {
            _ if escaped => {
                at.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => at.push(c),
        }
    }
    out.extend(word);
    out
}

/// Matches that say nothing that their options, or the protocol, do not say.
const SILENT: [&str; 13] = [
    "comment",
    "conntrack",
    "dccp",
    "icmp",
    "icmp6",
    "icmpv6",
    "mac",
    "mark",
    "multiport",
    "sctp",
    "set",
    "tcp",
    "udp",
];

/// One name and one value for each way to say the same; `None` for what says nothing.
fn option(name: &str, values: &[String]) -> Option<(String, String)> {
    let first = values.first().map_or("", String::as_str);
    let joined = values.join("\0");
    let (name, value) = match name {
        "-m" | "--match" if SILENT.contains(&first) => return None,
        "-m" | "--match" => ("-m", joined),
        "-j" | "--jump" => ("-j", joined),
        "-g" | "--goto" => ("-g", joined),
        "-i" | "--in-interface" => ("-i", joined),
        "-o" | "--out-interface" => ("-o", joined),
        "-p" | "--protocol" | "--proto" => ("-p", protocol(first)),
        "-s" | "--source" | "--src" => ("-s", net(first)),
        "-d" | "--destination" | "--dst" => ("-d", net(first)),
        "--source-ports" => ("--sports", joined),
        "--destination-ports" => ("--dports", joined),
        "--source-port" => ("--sport", joined),
        "--destination-port" => ("--dport", joined),
        "--mark" => ("--mark", mark(first, false)),
        "--set-mark" => ("--set-xmark", mark(first, true)),
        "--set-xmark" => ("--set-xmark", mark(first, false)),
        "--mac-source" => ("--mac-source", first.to_ascii_lowercase()),
        "--ctstate" => ("--ctstate", sorted(first)),
        "--limit" => ("--limit", limit(first)),
        // What the match `limit` and NFLOG do anyway.
        "--limit-burst" if first == "5" => return None,
        "--nflog-group" if first == "0" => return None,
        // What REJECT does anyway.
        "--reject-with" if DEFAULT_REJECT.contains(&first) => return None,
        _ => return Some((name.to_owned(), joined)),
    };
    Some((name.to_owned(), value))
}

const DEFAULT_REJECT: [&str; 4] =
    ["icmp-port-unreachable", "port-unreach", "icmp6-port-unreachable", "port-unr"];

/// A rate as the kernel keeps it: the time between two packets in units of 0.1 ms, rounded down
/// (`XT_LIMIT_SCALE`). The tools print it back in a unit of their choice.
fn limit(text: &str) -> String {
    let known = text.split_once('/').and_then(|(number, unit)| {
        let seconds: u64 = match unit.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        (10_000 * seconds).checked_div(number.parse().ok()?)
    });
    known.map_or_else(|| text.to_owned(), |period| period.to_string())
}

fn sorted(list: &str) -> String {
    let mut items: Vec<&str> = list.split(',').collect();
    items.sort_unstable();
    items.join(",")
}

/// Protocols by number: how one is printed depends on the tool and on `/etc/protocols`.
fn protocol(text: &str) -> String {
    let number = match text {
        "all" => 0,
        "icmp" => 1,
        "ipencap" | "ipip" | "ipv4" => 4,
        "tcp" => 6,
        "egp" => 8,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" | "ipv6-crypt" => 50,
        "ah" | "ipv6-auth" => 51,
        "icmpv6" | "ipv6-icmp" | "icmp6" => 58,
        "ospf" | "ospfigp" => 89,
        "vrrp" => 112,
        "l2tp" => 115,
        "sctp" => 132,
        "mh" | "ipv6-mh" | "mobility-header" => 135,
        "udplite" => 136,
        _ => return text.to_owned(),
    };
    number.to_string()
}

fn net(text: &str) -> String {
    let (address, len) = text.split_once('/').unwrap_or((text, ""));
    match address.parse::<IpAddr>() {
        Ok(address) if len.is_empty() => {
            format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
        }
        Ok(address) => format!("{address}/{len}"),
        Err(_) => text.to_owned(),
    }
}

/// Value and mask as numbers. To set a mark clears its mask and the value's bits before; printed is
/// what flips the value's bits behind that.
fn mark(text: &str, set: bool) -> String {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value), number(mask)),
        None => (number(text), Some(u32::MAX)),
    };
    match (value, mask) {
        (Some(value), Some(mask)) => {
            let mask = if set { mask | value } else { mask };
            format!("{value:#x}/{mask:#x}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What we write, and what iptables 1.8.9 prints of it.
    const PAIRS: [(&str, &str); 13] = [
        ("--jump MARK --set-mark 0x0/0x600", "-j MARK --set-xmark 0x0/0x600"),
        (
            "-p tcp -m multiport --source-ports 80,90:100 -m set ! --match-set cali40x src --jump DROP",
            "-p tcp -m multiport --sports 80,90:100 -m set ! --match-set cali40x src -j DROP",
        ),
        (
            "-p sctp -m multiport ! --destination-ports 80 --jump LOG --log-prefix \"a/b: it's 100%: \" --log-level 5",
            "-p sctp -m multiport ! --dports 80 -j LOG --log-prefix \"a/b: it\\'s 100%: \" --log-level 5",
        ),
        (
            "! -p 47 --source 10.65.0.7/32 ! --destination 0.0.0.0/1 --jump REJECT",
            "-s 10.65.0.7/32 ! -d 0.0.0.0/1 ! -p gre -j REJECT --reject-with icmp-port-unreachable",
        ),
        (
            "-p icmp -m icmp --icmp-type 8/3 -m mark ! --mark 0x80/0x80 --jump RETURN",
            "-p icmp -m icmp --icmp-type 8/3 -m mark ! --mark 0x80/0x80 -j RETURN",
        ),
        (
            "-p icmpv6 -m icmp6 --icmpv6-type 130 --source ::/128 --jump RETURN",
            "-s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j RETURN",
        ),
        (
            "-i cali1 -m mac ! --mac-source 02:00:00:aa:00:01 --jump DROP",
            "-i cali1 -m mac ! --mac-source 02:00:00:AA:00:01 -j DROP",
        ),
        (
            "-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT",
            "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        ),
        ("-p udp -m udp --dport 4789 --jump DROP", "-p udp -m udp --dport 4789 -j DROP"),
        ("-p 4 --jump DROP", "-p ipencap -j DROP"),
        (
            "-m comment --comment \"cali:aaaaaaaaaaaaaaaa\" --goto cali-x",
            "-m comment --comment cali:aaaaaaaaaaaaaaaa -g cali-x",
        ),
        (
            "-m limit --limit 600/second --limit-burst 600 --jump NFLOG --nflog-group 7 \
             --nflog-prefix \"cali:x\"",
            "-m limit --limit 625/sec --limit-burst 600 -j NFLOG --nflog-prefix cali:x --nflog-group 7",
        ),
        (
            "-m limit --limit 5/second --limit-burst 5 --jump NFLOG --nflog-group 0",
            "-m limit --limit 5/sec -j NFLOG",
        ),
    ];

    #[test]
    fn what_is_printed_is_what_was_written() {
        for (ours, theirs) in PAIRS {
            assert!(same(ours, theirs), "{:?}\n{:?}", options(ours), options(theirs));
            assert!(same_target(ours, theirs));
        }
    }

    #[test]
    fn every_word_less_more_or_other_is_a_difference() {
        for (ours, theirs) in PAIRS {
            let words: Vec<&str> = theirs.split(' ').collect();
            for at in 0..words.len() {
                let mut less = words.clone();
                let gone = less.remove(at);
                // The name of a match is said by its options.
                let silent = gone == "-m" || at > 0 && words[at - 1] == "-m";
                let quoted = theirs.contains('"');
                if !silent && !quoted {
                    assert!(!same(ours, &less.join(" ")), "{ours} without {gone}");
                }
                let mut other = words.clone();
                other[at] = "other";
                if !silent && !quoted {
                    assert!(!same(ours, &other.join(" ")), "{ours}, not {gone}");
                }
            }
            for more in ["-m socket", "-s 10.0.0.0/8", "-m set --match-set x src", "! -i eth0"] {
                assert!(!same(ours, &format!("{more} {theirs}")), "{ours}, and {more}");
            }
        }
        for (a, b) in [
            ("-j DROP", "-j ACCEPT"),
            ("-j cali-a", "-g cali-a"),
            ("-m set --match-set a src -j DROP", "-m set ! --match-set a src -j DROP"),
            ("-m mark --mark 0x1/0x1 -j DROP", "-m mark --mark 0x1/0x3 -j DROP"),
            ("-j MARK --set-mark 0x1/0x1", "-j MARK --set-xmark 0x1/0x3"),
            ("-j REJECT", "-j REJECT --reject-with tcp-reset"),
            ("-i cali+ -j DROP", "-o cali+ -j DROP"),
            ("-m limit --limit 5/sec -j NFLOG", "-m limit --limit 5/min -j NFLOG"),
            ("-m limit --limit 5/sec -j NFLOG", "-j NFLOG"),
            ("-s 10.0.0.0/8 -d 10.1.0.0/16 -j DROP", "-d 10.0.0.0/8 -s 10.1.0.0/16 -j DROP"),
        ] {
            assert!(!same(a, b), "{a}, {b}");
        }
    }

    #[test]
    fn what_was_learned_is_one_text_of_one_rule() {
        let hash = |text: &str| RuleHash::of_comment(&format!("cali:{text}")).unwrap();
        let (a, b) = (hash("aaaaaaaaaaaaaaaa"), hash("bbbbbbbbbbbbbbbb"));
        let ours = || "-p tcp --jump DROP".to_owned();
        let theirs = "-p tcp -m new --way -j DROP";
        let mut spellings = Spellings::default();
        assert!(!spellings.is(a, ours, theirs));
        spellings.learn(a, theirs);
        assert!(spellings.is(a, ours, theirs) && !spellings.is(b, ours, theirs));
        assert!(!spellings.is(a, ours, "-p tcp -m new --way -j ACCEPT"));
        spellings.retain(|hash| *hash == b);
        assert!(!spellings.is(a, ours, theirs) && spellings.learned() == 0);
    }
}
