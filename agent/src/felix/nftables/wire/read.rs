//! Chains and rules as the kernel lists them.

use super::super::expr::Expr;
use super::super::object::{Base, BaseKind, Hook};
use super::attributes::Writer;
use super::expression::read_expressions;
use crate::netlink::{attribute, be32, text};

/// `NFTA_CHAIN_…`.
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
/// `NFTA_RULE_…`.
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// How the kernel calls a chain, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix::nftables) struct ListedBase {
    kind: String,
    hook: u32,
    priority: i32,
    policy: u32,
}

impl From<Base> for ListedBase {
    fn from(base: Base) -> Self {
        Self {
            kind: kind(base.kind).to_owned(),
            hook: hook(base.hook),
            priority: base.priority,
            policy: ACCEPT,
        }
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix::nftables) struct ListedChain {
    pub(in crate::felix::nftables) name: String,
    pub(in crate::felix::nftables) base: Option<ListedBase>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix::nftables) struct ListedRule {
    pub(in crate::felix::nftables) chain: String,
    pub(in crate::felix::nftables) exprs: Vec<Expr>,
    pub(in crate::felix::nftables) comment: Option<String>,
}

fn kind(kind: BaseKind) -> &'static str {
    match kind {
        BaseKind::Filter => "filter",
        BaseKind::Nat => "nat",
    }
}

/// `NF_INET_…`.
fn hook(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// Writes what a chain is, without its rules.
pub(in crate::felix::nftables) fn chain(w: &mut Writer<'_>, name: &str, base: Option<Base>) {
    w.text(CHAIN_NAME, name);
    if let Some(base) = base {
        w.text(CHAIN_TYPE, kind(base.kind));
        w.be32(CHAIN_POLICY, ACCEPT);
        w.nest(CHAIN_HOOK, |w| {
            w.be32(1, hook(base.hook));
            w.be32(2, base.priority.cast_unsigned());
        });
    }
}

/// Writes a comment of a rule.
pub(in crate::felix::nftables) fn comment(w: &mut Writer<'_>, comment: &str) {
    let Ok(len) = u8::try_from(comment.len() + 1) else { return };
    let mut bytes = vec![COMMENT, len];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    w.bytes(RULE_USERDATA, &bytes);
}

/// Reads a chain.
pub(in crate::felix::nftables) fn read_chain(body: &[u8]) -> Option<ListedChain> {
    let base = attribute(body, CHAIN_HOOK).and_then(|hook| {
        Some(ListedBase {
            kind: attribute(body, CHAIN_TYPE).and_then(text)?.to_owned(),
            hook: attribute(hook, 1).and_then(be32)?,
            priority: attribute(hook, 2).and_then(be32)?.cast_signed(),
            policy: attribute(body, CHAIN_POLICY).and_then(be32)?,
        })
    });
    Some(ListedChain { name: attribute(body, CHAIN_NAME).and_then(text)?.to_owned(), base })
}

/// Reads a rule.
pub(in crate::felix::nftables) fn read_rule(body: &[u8]) -> Option<ListedRule> {
    Some(ListedRule {
        chain: attribute(body, RULE_CHAIN).and_then(text)?.to_owned(),
        exprs: attribute(body, RULE_EXPRESSIONS).map(read_expressions).unwrap_or_default(),
        comment: attribute(body, RULE_USERDATA).and_then(read_comment),
    })
}

/// The comment among the notes of a rule: type, length, value.
fn read_comment(mut notes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = notes {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *kind == COMMENT {
            return text(value).map(str::to_owned);
        }
        notes = rest;
    }
    None
}
