//! Reads what `ipset save` prints, our sets only.

use std::collections::BTreeMap;

use calico_datastore::model::Family;

use super::{ActualSet, Counts, Entry, SetSpec, SetType};
use crate::felix::iptables::names::owns_set;

/// Our sets by name. What cannot be read of them is left out: it will differ, and be replaced.
pub(super) fn parse(text: &str) -> BTreeMap<String, ActualSet> {
    let mut sets: BTreeMap<String, ActualSet> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("create"), Some(name)) if owns_set(name) => {
                let set = described(words.collect::<Vec<_>>().as_slice());
                sets.insert(name.to_owned(), set);
            }
            (Some("add"), Some(name)) if owns_set(name) => {
                let Some(set) = sets.get_mut(name) else { continue };
                let Some((kind, _)) = set.shape else { continue };
                let Some(member) = words.next().and_then(|text| entry(kind, text)) else {
                    continue;
                };
                let words: Vec<&str> = words.collect();
                let number = |key| value(&words, key).and_then(|text| text.parse().ok());
                let packets = number("packets").unwrap_or_default();
                if packets > 0 {
                    let bytes = number("bytes").unwrap_or_default();
                    set.counts.insert(member.clone(), Counts { packets, bytes });
                }
                let negated = words.contains(&"nomatch");
                if negated { &mut set.negated } else { &mut set.members }.insert(member);
            }
            _ => {}
        }
    }
    sets
}

/// The word behind `key`.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied()
}

/// A set without its members.
fn described(words: &[&str]) -> ActualSet {
    let kind = match words.first() {
        Some(&"hash:net") => Some(SetType::Net),
        Some(&"hash:ip,port") => Some(SetType::Port),
        Some(&"hash:net,iface") => Some(SetType::NetIface),
        _ => None,
    };
    let family = match value(words, "family") {
        Some("inet") => Some(Family::V4),
        Some("inet6") => Some(Family::V6),
        _ => None,
    };
    let shape = kind.zip(family);
    // Where members go by themselves, by time or for lack of room, or mean something else.
    let odd = ["timeout", "forceadd", "netmask", "bitmask"];
    let max = value(words, "maxelem").and_then(|max| max.parse().ok());
    let counters = words.contains(&"counters");
    let spec = |((kind, family), max)| SetSpec { kind, family, max, counters };
    let spec = shape.zip(max).map(spec);
    ActualSet {
        spec: spec.filter(|_| !words.iter().any(|word| odd.contains(word))),
        shape,
        ..ActualSet::default()
    }
}

fn entry(kind: SetType, text: &str) -> Option<Entry> {
    match kind {
        SetType::Net => Some(Entry::Net(text.parse().ok()?)),
        SetType::NetIface => {
            let (net, interface) = text.split_once(',')?;
            Some(Entry::NetIface(net.parse().ok()?, interface.parse().ok()?))
        }
        SetType::Port => {
            let (ip, rest) = text.split_once(',')?;
            let (protocol, port) = rest.split_once(':')?;
            Some(Entry::Port(ip.parse().ok()?, protocol.parse().ok()?, port.parse().ok()?))
        }
    }
}
