//! What `nft -j list ruleset` prints, as tables: pure. Tables of iptables are left out: they are read
//! as such.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family};
use serde_json::Value;

use super::packet::{Field, Pattern};
use super::rules::{Condition, Hook, Rule, Table, Verdict};
use super::save::protocol;

/// The names of the chains that iptables makes at hooks: with capitals, which nobody else uses.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Elements of named sets and maps, by table and name.
type Sets<'a> = BTreeMap<(String, &'a str), &'a Value>;

/// Reads it.
///
/// # Errors
/// When it is no JSON.
pub fn parse(text: &str) -> Result<Vec<Table>, serde_json::Error> {
    let document: Value = serde_json::from_str(text)?;
    let objects = document["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut sets = Sets::new();
    for object in objects {
        for kind in ["set", "map"] {
            let set = &object[kind];
            if let (Some(table), Some(name)) = (table_of(set), set["name"].as_str()) {
                sets.insert((table, name), &set["elem"]);
            }
        }
        let chain = &object["chain"];
        let (Some(name), Some(chain_name)) = (table_of(chain), chain["name"].as_str()) else {
            continue;
        };
        let family = match chain["family"].as_str() {
            Some("inet") => None,
            Some("ip") => Some(Family::V4),
            Some("ip6") => Some(Family::V6),
            _ => continue,
        };
        let table = tables.entry(name.clone()).or_default();
        (table.name, table.family) = (name, family);
        let iptables = family.is_some() && BUILT_IN.contains(&chain_name);
        let hook = match (chain["type"].as_str(), chain["hook"].as_str()) {
            (Some("filter"), _) if iptables => None,
            (Some("filter"), Some("prerouting")) => Some(Hook::Prerouting),
            (Some("filter"), Some("input")) => Some(Hook::Input),
            (Some("filter"), Some("forward")) => Some(Hook::Forward),
            (Some("filter"), Some("postrouting")) => Some(Hook::Postrouting),
            _ => None,
        };
        table.chains.entry(chain_name.to_owned()).or_default().base =
            hook.map(|hook| (hook, chain["policy"] == "drop"));
    }
    // Chains are listed before all rules, but nothing says that they have to be.
    for object in objects {
        let rule = &object["rule"];
        let Some(name) = table_of(rule) else { continue };
        let chain = rule["chain"].as_str();
        let table = tables.get_mut(&name);
        let Some(chain) = table.zip(chain).and_then(|(table, c)| table.chains.get_mut(c)) else {
            continue;
        };
        chain.rules.push(Reader { table: &name, sets: &sets }.rule(rule));
    }
    Ok(tables
        .into_values()
        .filter(|table| table.chains.values().any(|c| c.base.is_some()))
        .collect())
}

fn table_of(object: &Value) -> Option<String> {
    Some(format!("{} {}", object["family"].as_str()?, object["table"].as_str()?))
}

struct Reader<'a> {
    table: &'a str,
    sets: &'a Sets<'a>,
}

impl Reader<'_> {
    fn rule(&self, rule: &Value) -> Rule {
        let mut conditions = Vec::new();
        let mut verdict = Verdict::Continue;
        let mut text = String::new();
        for expression in rule["expr"].as_array().into_iter().flatten() {
            let Some((kind, value)) =
                expression.as_object().and_then(|object| object.iter().next())
            else {
                conditions.push(Condition::unknown());
                continue;
            };
            match kind.as_str() {
                "match" => self.condition(value, &mut conditions),
                "vmap" => {
                    verdict = self.map(value, &mut conditions);
                    "vmap".clone_into(&mut text);
                }
                // What only counts, tells, or changes the packet.
                "counter" | "log" | "mangle" | "notrack" | "ct timeout" | "ct helper" | "flow"
                | "set" | "map" | "meter" | "dup" | "synproxy" | "secmark" => {}
                "queue" => verdict = Verdict::Unknown,
                other => match simple(other, value) {
                    Some((found, said)) => (verdict, text) = (found, said),
                    None => conditions.push(Condition::unknown()),
                },
            }
        }
        if let Some(handle) = rule["handle"].as_u64() {
            text.push_str(&format!(" (handle {handle})"));
        }
        Rule { conditions, verdict, text }
    }

    fn condition(&self, value: &Value, conditions: &mut Vec<Condition>) {
        let Some(field) = self.field(&value["left"], conditions) else {
            conditions.push(Condition::unknown());
            return;
        };
        let mut any = Vec::new();
        self.patterns(field, &value["right"], &mut any);
        let bound = || match any.as_slice() {
            [Pattern::Numbers(low, high)] if low == high => Some(*low),
            _ => None,
        };
        let (negated, any) = match (value["op"].as_str(), bound()) {
            (Some("==" | "in"), _) => (false, any),
            (Some("!="), _) => (true, any),
            (Some("<"), Some(n)) => (true, vec![Pattern::Numbers(n, u64::MAX)]),
            (Some("<="), Some(n)) => (false, vec![Pattern::Numbers(0, n)]),
            (Some(">"), Some(n)) => (true, vec![Pattern::Numbers(0, n)]),
            (Some(">="), Some(n)) => (false, vec![Pattern::Numbers(n, u64::MAX)]),
            _ => (false, vec![Pattern::Unknown]),
        };
        conditions.push(Condition { field: Some(field), negated, any });
    }

    /// What is looked at. A header that is looked into has to be there.
    fn field(&self, left: &Value, conditions: &mut Vec<Condition>) -> Option<Field> {
        if let Some(key) = left["meta"]["key"].as_str() {
            return Some(match key {
                "iifname" | "iif" => Field::From,
                "oifname" | "oif" => Field::To,
                "nfproto" | "protocol" => Field::Family,
                "l4proto" => Field::Protocol,
                _ => return None,
            });
        }
        match left["ct"]["key"].as_str() {
            Some("state") => return Some(Field::State),
            Some("status") => return Some(Field::Status),
            _ => {}
        }
        let fib = &left["fib"];
        if fib["result"] == "type" && fib["flags"] == Value::from(vec!["daddr"]) {
            return Some(Field::DestinationType);
        }
        let payload = &left["payload"];
        let header = payload["protocol"].as_str()?;
        let field = payload["field"].as_str()?;
        let mut need = |field, number| {
            let any = vec![Pattern::Numbers(number, number)];
            conditions.push(Condition { field: Some(field), negated: false, any });
        };
        match header {
            "ip" => need(Field::Family, 4),
            "ip6" => need(Field::Family, 6),
            "th" => {}
            other => match protocol(other) {
                Pattern::Numbers(number, _) => need(Field::Protocol, number),
                _ => return None,
            },
        }
        Some(match (header, field) {
            ("ip" | "ip6", "saddr") => Field::Source,
            ("ip" | "ip6", "daddr") => Field::Destination,
            ("ip", "protocol") | ("ip6", "nexthdr") => Field::Protocol,
            (_, "sport") => Field::SourcePort,
            (_, "dport") => Field::DestinationPort,
            _ => return None,
        })
    }

    fn patterns(&self, field: Field, value: &Value, out: &mut Vec<Pattern>) {
        let name = value.as_str().and_then(|word| word.strip_prefix('@'));
        match name.map(|name| self.sets.get(&(self.table.to_owned(), name))) {
            // No elements are an empty set; they are not listed then.
            Some(Some(Value::Null)) => {}
            Some(Some(elements)) => listed(field, elements, out),
            Some(None) => out.push(Pattern::Unknown),
            None => listed(field, value, out),
        }
    }

    fn map(&self, value: &Value, conditions: &mut Vec<Condition>) -> Verdict {
        let Some(field) = self.field(&value["key"], conditions) else { return Verdict::Unknown };
        let data = &value["data"];
        let name = data.as_str().and_then(|name| name.strip_prefix('@'));
        let named = name.and_then(|name| self.sets.get(&(self.table.to_owned(), name)).copied());
        let Some(cases) = data["set"].as_array().or_else(|| named?.as_array()) else {
            // An empty map has no elements, and decides nothing.
            return if named == Some(&Value::Null) { Verdict::Continue } else { Verdict::Unknown };
        };
        let cases = cases.iter().filter_map(|case| {
            let mut patterns = Vec::new();
            listed(field, case.get(0)?, &mut patterns);
            let verdict = case.get(1).and_then(Value::as_object).and_then(|v| v.iter().next());
            let verdict = verdict.and_then(|(kind, value)| simple(kind, value));
            Some((patterns, verdict.map_or(Verdict::Unknown, |(verdict, _)| verdict)))
        });
        Verdict::Map(field, cases.collect())
    }
}

/// What is written out, in a rule or as elements of a set.
fn listed(field: Field, value: &Value, out: &mut Vec<Pattern>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| listed(field, one, out)),
        Value::String(word) => out.push(word_pattern(field, word)),
        Value::Number(number) => {
            out.push(number.as_u64().map_or(Pattern::Unknown, |n| Pattern::Numbers(n, n)));
        }
        Value::Object(object) => {
            if let Some(set) = object.get("set") {
                listed(field, set, out);
            } else if let Some(element) = object.get("elem") {
                listed(field, &element["val"], out);
            } else {
                out.push(prefix(value).or_else(|| range(value)).unwrap_or(Pattern::Unknown));
            }
        }
        Value::Bool(_) | Value::Null => out.push(Pattern::Unknown),
    }
}

/// A verdict, and how it is written.
fn simple(kind: &str, value: &Value) -> Option<(Verdict, String)> {
    let target = || value["target"].as_str().unwrap_or_default().to_owned();
    let verdict = match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "continue" => Verdict::Continue,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        _ => return None,
    };
    let text = match (kind, value["type"].as_str(), value["expr"].as_str()) {
        ("reject", Some("tcp reset"), _) => "reject with tcp reset".to_owned(),
        ("reject", Some(kind), Some(code)) => format!("reject with {kind} {code}"),
        ("jump" | "goto", ..) => format!("{kind} {}", target()),
        _ => kind.to_owned(),
    };
    Some((verdict, text))
}

fn word_pattern(field: Field, word: &str) -> Pattern {
    match field {
        Field::From | Field::To => match word.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Word(word.to_owned()),
        },
        Field::State | Field::Status | Field::DestinationType => Pattern::Word(word.to_owned()),
        Field::Family => match word {
            "ipv4" | "ip" => Pattern::Numbers(4, 4),
            "ipv6" | "ip6" => Pattern::Numbers(6, 6),
            _ => Pattern::Unknown,
        },
        Field::Protocol => protocol(word),
        Field::Source | Field::Destination => {
            let address = word.parse::<IpAddr>().ok().map(Cidr::host);
            address.map_or(Pattern::Unknown, Pattern::Net)
        }
        Field::SourcePort | Field::DestinationPort => {
            word.parse().map_or(Pattern::Unknown, |port| Pattern::Numbers(port, port))
        }
    }
}

fn prefix(value: &Value) -> Option<Pattern> {
    let prefix = value.get("prefix")?;
    let address = prefix["addr"].as_str()?.parse().ok()?;
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    Cidr::new(address, length).ok().map(Pattern::Net)
}

fn range(value: &Value) -> Option<Pattern> {
    let ends = value.get("range")?;
    let (low, high) = (ends.get(0)?, ends.get(1)?);
    if let (Some(low), Some(high)) = (low.as_u64(), high.as_u64()) {
        return Some(Pattern::Numbers(low, high));
    }
    let address = |end: &Value| end.as_str()?.parse::<IpAddr>().ok();
    Some(Pattern::Addresses(address(low)?, address(high)?))
}
