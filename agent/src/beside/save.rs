//! What `iptables-save` prints, as tables: pure.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};

use super::packet::{Field, Pattern, TCP};
use super::rules::{Chain, Condition, Hook, Rule, Table, Verdict};
use crate::felix::Flavour;

/// Every table but `nat`, which drops nothing that policy accepts.
pub fn parse(flavour: Flavour, family: Family, text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut skip = true;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            skip = name == "nat";
            if !skip {
                let filter = name == "filter";
                tables.push(Table {
                    // Nobody says `filter` who means it.
                    name: match filter {
                        true => format!("{family} {flavour}"),
                        false => format!("{family} {flavour} {name}"),
                    },
                    family: Some(family),
                    ..Table::default()
                });
            }
            continue;
        }
        let Some(table) = tables.last_mut().filter(|_| !skip) else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let name = words.next().unwrap_or_default();
            let drops = words.next().is_some_and(|policy| policy == "DROP");
            let chain = table.chains.entry(name.to_owned()).or_default();
            chain.base = hook(name).map(|hook| (hook, drops));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
            let parsed = parse_rule(rule);
            let chain: &mut Chain = table.chains.entry(chain.to_owned()).or_default();
            chain.rules.push(parsed);
        }
    }
    tables
}

fn hook(chain: &str) -> Option<Hook> {
    Some(match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// Matches that say nothing but by options that are read here.
const READ: [&str; 7] = ["comment", "conntrack", "state", "tcp", "udp", "multiport", "addrtype"];

/// Targets behind which the packet goes on.
const HARMLESS: [&str; 9] =
    ["LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "TCPMSS", "CT", "SET", "NOTRACK"];

fn parse_rule(text: &str) -> Rule {
    let words = split(text);
    let mut conditions = Vec::new();
    let mut verdict = Verdict::Continue;
    let mut negated = false;
    let mut rest = words.iter().map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let not = std::mem::take(&mut negated);
        let mut add = |field, any| conditions.push(Condition { field, negated: not, any });
        match word {
            "-i" => add(Some(Field::From), vec![interface(rest.next())]),
            "-o" => add(Some(Field::To), vec![interface(rest.next())]),
            "-s" => add(Some(Field::Source), vec![net(rest.next())]),
            "-d" => add(Some(Field::Destination), vec![net(rest.next())]),
            "-p" => add(Some(Field::Protocol), vec![protocol(rest.next().unwrap_or_default())]),
            "--sport" | "--sports" => add(Some(Field::SourcePort), ports(rest.next())),
            "--dport" | "--dports" => add(Some(Field::DestinationPort), ports(rest.next())),
            "--ctstate" | "--state" => add(Some(Field::State), words_of(rest.next())),
            "--dst-type" => add(Some(Field::DestinationType), words_of(rest.next())),
            "--comment" => drop(rest.next()),
            "-m" => {
                if !rest.next().is_some_and(|name| READ.contains(&name)) {
                    conditions.push(Condition::unknown());
                }
            }
            "-j" => {
                verdict = match rest.next().unwrap_or_default() {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    "NFQUEUE" => Verdict::Unknown,
                    harmless if HARMLESS.contains(&harmless) => Verdict::Continue,
                    // A target that is no chain leads nowhere.
                    chain => Verdict::Jump(chain.to_owned()),
                };
                break;
            }
            "-g" => {
                verdict = Verdict::Goto(rest.next().unwrap_or_default().to_owned());
                break;
            }
            _ => {
                conditions.push(Condition::unknown());
                while rest.next_if(|value| !value.starts_with('-') && *value != "!").is_some() {}
            }
        }
    }
    Rule { conditions, verdict, text: text.to_owned() }
}

/// Words, those in quotes as one.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn interface(name: Option<&str>) -> Pattern {
    let name = name.unwrap_or_default();
    match name.strip_suffix('+') {
        Some(prefix) => Pattern::Prefix(prefix.to_owned()),
        None => Pattern::Word(name.to_owned()),
    }
}

fn net(text: Option<&str>) -> Pattern {
    let text = text.unwrap_or_default();
    let host = || text.parse::<IpAddr>().ok().map(Cidr::host);
    text.parse().ok().or_else(host).map_or(Pattern::Unknown, Pattern::Net)
}

/// A protocol by its name or number.
pub(super) fn protocol(name: &str) -> Pattern {
    let number = match name {
        "all" => return Pattern::Any,
        "tcp" => TCP,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" | "ipv6-icmp" => 58,
        "sctp" => 132,
        "udplite" => 136,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipip" | "ipencap" => 4,
        "igmp" => 2,
        "vrrp" => 112,
        other => match other.parse() {
            Ok(number) => number,
            Err(_) => return Pattern::Unknown,
        },
    };
    Pattern::Numbers(number, number)
}

fn ports(list: Option<&str>) -> Vec<Pattern> {
    let one = |item: &str| {
        let (low, high) = item.split_once(':').unwrap_or((item, item));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) => Pattern::Numbers(low, high),
            _ => Pattern::Unknown,
        }
    };
    list.unwrap_or_default().split(',').map(one).collect()
}

fn words_of(list: Option<&str>) -> Vec<Pattern> {
    let words = list.unwrap_or_default().split(',');
    words.map(|word| Pattern::Word(word.to_ascii_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_taken_apart() {
        let rule = parse_rule(
            r#"-s 10.0.0.0/8 ! -i cali+ -p tcp -m comment --comment "a \"b\" -j DROP" -m tcp --dport 80:90 -j ACCEPT"#,
        );
        assert_eq!(rule.verdict, Verdict::Accept);
        let fields: Vec<_> = rule.conditions.iter().map(|c| (c.field, c.negated)).collect();
        assert_eq!(
            fields,
            [
                (Some(Field::Source), false),
                (Some(Field::From), true),
                (Some(Field::Protocol), false),
                (Some(Field::DestinationPort), false),
            ]
        );
        assert_eq!(rule.conditions[1].any, [Pattern::Prefix("cali".to_owned())]);
        assert_eq!(rule.conditions[3].any, [Pattern::Numbers(80, 90)]);
        for unknown in
            ["-m limit --limit 3/min -j DROP", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j DROP"]
        {
            let rule = parse_rule(unknown);
            assert!(rule.conditions.iter().any(|c| c.field.is_none()), "{rule:?}");
            assert_eq!(rule.verdict, Verdict::Drop, "{unknown}");
        }
        assert_eq!(parse_rule("-g FWD_public").verdict, Verdict::Goto("FWD_public".to_owned()));
        assert_eq!(parse_rule("-j LOG --log-prefix \"x -j DROP\"").verdict, Verdict::Continue);
    }

    #[test]
    fn tables_have_chains_and_policies() {
        let text = "*nat\n:PREROUTING DROP [0:0]\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n\
                    :INPUT ACCEPT [0:0]\n:mine - [0:0]\n-A FORWARD -j mine\nCOMMIT\n";
        let tables = parse(Flavour::Legacy, Family::V4, text);
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].name, "IPv4 iptables-legacy");
        assert_eq!(tables[0].chains["FORWARD"].base, Some((Hook::Forward, true)));
        assert_eq!(tables[0].chains["INPUT"].base, Some((Hook::Input, false)));
        assert_eq!(tables[0].chains["mine"].base, None);
    }
}
