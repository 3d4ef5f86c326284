//! Reads what `ipset save` prints, our sets only.

use std::collections::{BTreeMap, HashSet};

use calico_datastore::model::Family;

use super::{ActualSet, Entry, SetSpec, SetType};
use crate::felix::iptables::names::owns_set;

/// Our sets by name. What cannot be read of them is left out: it will differ, and be replaced.
pub fn parse(text: &str) -> BTreeMap<String, ActualSet> {
    let mut sets: BTreeMap<String, ActualSet> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("create"), Some(name)) if owns_set(name) => {
                let spec = spec(words.collect::<Vec<_>>().as_slice());
                sets.insert(name.to_owned(), ActualSet { spec, members: HashSet::new() });
            }
            (Some("add"), Some(name)) if owns_set(name) => {
                let Some(set) = sets.get_mut(name) else { continue };
                let Some(kind) = set.spec.map(|spec| spec.kind) else { continue };
                set.members.extend(words.next().and_then(|text| entry(kind, text)));
            }
            _ => {}
        }
    }
    sets
}

fn spec(words: &[&str]) -> Option<SetSpec> {
    let value = |key: &str| {
        words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied()
    };
    let kind = match *words.first()? {
        "hash:net" => SetType::Net,
        "hash:ip,port" => SetType::Port,
        "hash:net,iface" => SetType::NetIface,
        _ => return None,
    };
    let family = match value("family")? {
        "inet" => Family::V4,
        "inet6" => Family::V6,
        _ => return None,
    };
    // A set whose members time out is none of those that we make.
    if words.contains(&"timeout") {
        return None;
    }
    Some(SetSpec { kind, family, max: value("maxelem")?.parse().ok()? })
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
