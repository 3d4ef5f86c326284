//! Which external addresses led elsewhere before this agent ran: their connections still go there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::felix::iptables::save::Held;

/// The chain, ours and the original's.
const CHAIN: &str = "cali-fip-dnat";

/// (external, internal) of a rule, ours or what the kernel's tool prints.
fn pair(rule: &str) -> Option<(IpAddr, IpAddr)> {
    let words: Vec<&str> = rule.split(' ').collect();
    let value = |names: &[&str]| {
        let mut pairs = words.windows(2).filter(|pair| names.contains(&pair[0]));
        pairs.next().map(|pair| pair[1])
    };
    let host = |text: &str| text.split('/').next().and_then(|address| address.parse().ok());
    let external = value(&["-d", "--destination"]).and_then(host)?;
    let internal = value(&["--to-destination"]).and_then(host)?;
    Some((external, internal))
}

/// The external addresses that `held` leads somewhere and `wanted` does not, or elsewhere. `name` is
/// that of the chain.
pub(super) fn moved(name: &str, held: &Held, wanted: &[String]) -> BTreeSet<IpAddr> {
    let Held::Other(found) = held else { return BTreeSet::new() };
    if name != CHAIN {
        return BTreeSet::new();
    }
    let wanted: BTreeSet<_> = wanted.iter().filter_map(|line| pair(line)).collect();
    let before = found.iter().filter_map(|rule| pair(&rule.text));
    before.filter(|pair| !wanted.contains(pair)).map(|(external, _)| external).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::felix::iptables::save::Found;

    #[test]
    fn what_leads_elsewhere_or_nowhere_has_moved() {
        let found = |text: &str| Found { hash: None, proven: false, text: text.to_owned() };
        let held = Held::Other(
            [
                "-d 192.0.2.1/32 -m comment --comment \"cali:aaaaaaaaaaaaaaaa\" -j DNAT --to-destination 10.0.0.1",
                "-d 192.0.2.2/32 -j DNAT --to-destination 10.0.0.2",
                "-d 192.0.2.3/32 -j DNAT --to-destination 10.0.0.3",
                "-d 2001:db8::4/128 -j DNAT --to-destination fd00::4",
                "-d 192.0.2.5/32 -j RETURN",
            ]
            .map(found)
            .to_vec(),
        );
        let wanted = [
            "--destination 192.0.2.1/32 --jump DNAT --to-destination 10.0.0.1".to_owned(),
            "--destination 192.0.2.2/32 --jump DNAT --to-destination 10.0.0.9".to_owned(),
        ];
        let expected = ["192.0.2.2", "192.0.2.3", "2001:db8::4"].map(|a| a.parse().unwrap());
        assert_eq!(moved(CHAIN, &held, &wanted), expected.into());
        assert_eq!(moved("cali-fip-snat", &held, &wanted), BTreeSet::new());
    }
}
