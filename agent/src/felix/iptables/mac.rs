//! The tree of chains that checks the source MAC of each endpoint that has one.
//!
//! An address set cannot do it (the kernels at hand have none that holds interface and MAC), so
//! there is one rule per endpoint, found through prefixes of the interface name: a packet passes
//! some dozen rules, however many endpoints there are.

use std::collections::BTreeMap;

use calico_datastore::model::{InterfaceName, Mac};

/// The most endpoints in one chain.
const LEAVES: usize = 16;

/// The root of the tree.
pub const ROOT: &str = "cali-mac";

/// The chains of the tree, the root first; none when no endpoint has a MAC.
pub fn tree(macs: &BTreeMap<InterfaceName, Mac>) -> Vec<(String, Vec<String>)> {
    let all: Vec<(&str, Mac)> = macs.iter().map(|(name, mac)| (name.as_str(), *mac)).collect();
    let mut chains = Vec::new();
    if !all.is_empty() {
        grow(ROOT.to_owned(), &all, &mut chains);
    }
    chains
}

/// Adds the chain `name` for `group`, sorted by interface name, and the chains below it.
fn grow(name: String, group: &[(&str, Mac)], chains: &mut Vec<(String, Vec<String>)>) {
    let leaf = |(interface, mac): &(&str, Mac)| {
        format!("-i {interface} -m mac ! --mac-source {mac} --jump DROP")
    };
    if group.len() <= LEAVES {
        chains.push((name, group.iter().map(leaf).collect()));
        return;
    }
    // Interface names are ASCII, so every byte index is a boundary.
    let (first, last) = (group[0].0, group[group.len() - 1].0);
    let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let place = chains.len();
    chains.push((name, Vec::new()));
    let mut lines = Vec::new();
    for child in
        group.chunk_by(|(a, _), (b, _)| a.as_bytes().get(common) == b.as_bytes().get(common))
    {
        match child {
            // `-i name+` would also match the longer names, so a name that ends here, or is the
            // only one, gets its rule at once.
            [one] => lines.push(leaf(one)),
            many => {
                let prefix = &many[0].0[..=common];
                let below = format!("{ROOT}-{prefix}");
                lines.push(format!("-i {prefix}+ --goto {below}"));
                grow(below, many, chains);
            }
        }
    }
    chains[place].1 = lines;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn macs(names: impl Iterator<Item = String>) -> BTreeMap<InterfaceName, Mac> {
        names
            .enumerate()
            .map(|(i, name)| {
                let [.., a, b] = (i as u32).to_be_bytes();
                (name.parse().unwrap(), Mac::new([2, 0, 0, 0, a, b]))
            })
            .collect()
    }

    /// Follows the chains as the kernel does.
    fn decides(chains: &BTreeMap<String, Vec<String>>, interface: &str) -> Vec<String> {
        let mut hits = Vec::new();
        let mut chain = Some(ROOT.to_owned());
        while let Some(name) = chain.take() {
            for line in &chains[&name] {
                let words: Vec<&str> = line.split(' ').collect();
                let matched = match words[1].strip_suffix('+') {
                    Some(prefix) => interface.starts_with(prefix),
                    None => words[1] == interface,
                };
                if matched && words[2] == "--goto" {
                    chain = Some(words[3].to_owned());
                    break;
                }
                if matched {
                    hits.push(words[6].to_owned());
                }
            }
        }
        hits
    }

    #[test]
    fn every_endpoint_meets_exactly_its_own_rule() {
        let names = (0..700).map(|i| format!("cali{i:x}")).chain(["cali".to_owned()]);
        let macs = macs(names);
        let chains: BTreeMap<_, _> = tree(&macs).into_iter().collect();
        for (interface, mac) in &macs {
            assert_eq!(decides(&chains, interface.as_str()), [mac.to_string()], "{interface}");
        }
        assert!(decides(&chains, "cali-other").is_empty());
        assert!(chains.values().all(|lines| lines.len() <= 40));
        assert!(chains.keys().all(|name| name.len() <= 28));
    }

    #[test]
    fn no_mac_no_chain() {
        assert!(tree(&BTreeMap::new()).is_empty());
        assert_eq!(tree(&macs(["cali1".to_owned()].into_iter())).len(), 1);
    }
}
