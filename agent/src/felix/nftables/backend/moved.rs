//! Which external addresses led elsewhere before this agent ran: their connections still go there. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::felix::nftables::contents::Contents;
use crate::felix::nftables::expr::{Data, Expr};
use crate::felix::nftables::lower::lower;
use crate::felix::nftables::read::Found;
use crate::felix::nftables::render::names::EXTERNAL;

/// An address as the kernel keeps it.
fn address(data: &Data) -> Option<IpAddr> {
    match data.bytes() {
        bytes if bytes.len() == 4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        bytes => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// (external, internal) of a rule that translates.
fn pair(exprs: &[Expr]) -> Option<(IpAddr, IpAddr)> {
    let external = exprs.iter().find_map(|expr| match expr {
        Expr::Cmp { data, .. } => address(data),
        _ => None,
    });
    let internal = exprs.iter().find_map(|expr| match expr {
        Expr::Value { data, .. } => address(data),
        _ => None,
    });
    external.zip(internal)
}

/// The external addresses that the table in the kernel leads somewhere and `wanted` does not, or elsewhere.
pub(super) fn moved(found: &Found, wanted: &Contents) -> BTreeSet<IpAddr> {
    let Some(chain) = found.chains.get(EXTERNAL) else { return BTreeSet::new() };
    let rules = wanted.chains.get(EXTERNAL).into_iter().flat_map(|chain| &chain.rules);
    let wanted: BTreeSet<_> = rules.filter_map(|rule| pair(&lower(rule))).collect();
    let before = chain.rules.iter().filter_map(|rule| pair(&rule.exprs));
    before.filter(|pair| !wanted.contains(pair)).map(|(external, _)| external).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use calico_datastore::model::Cidr;

    use crate::felix::nftables::object::{Chain, Match, Rule, Side, Statement, Verdict};
    use crate::felix::nftables::read::{FoundChain, FoundRule};

    fn leads(external: &str, internal: &str) -> Rule {
        let net = Cidr::host(external.parse().unwrap());
        let to = Statement::Dnat { to: internal.parse().unwrap(), port: None };
        Rule {
            matches: vec![Match::Address { side: Side::Destination, net, not: false }],
            statements: vec![to],
            comment: None,
        }
    }

    #[test]
    fn what_leads_elsewhere_or_nowhere_has_moved() {
        let other = Rule {
            matches: Vec::new(),
            statements: vec![Statement::Counter, Statement::Verdict(Verdict::Return)],
            comment: None,
        };
        let held = [
            leads("192.0.2.1", "10.0.0.1"),
            leads("192.0.2.2", "10.0.0.2"),
            leads("192.0.2.3", "10.0.0.3"),
            leads("2001:db8::4", "fd00::4"),
            leads("2001:db8::5", "fd00::5"),
            other,
        ];
        let rules = held.iter().map(|rule| FoundRule { exprs: lower(rule), comment: None });
        let mut found = Found::default();
        assert_eq!(moved(&found, &Contents::default()), BTreeSet::new());
        let chain = FoundChain { base: None, rules: rules.collect() };
        found.chains.insert(EXTERNAL.into(), chain);
        let mut wanted = Contents::default();
        let rules = vec![
            leads("192.0.2.1", "10.0.0.1"),
            leads("192.0.2.2", "10.0.0.9"),
            leads("2001:db8::5", "fd00::5"),
        ];
        wanted.chains.insert(EXTERNAL.into(), Arc::new(Chain { base: None, rules }));
        let expected = ["192.0.2.2", "192.0.2.3", "2001:db8::4"].map(|a| a.parse().unwrap());
        assert_eq!(moved(&found, &wanted), expected.into());
    }
}
