//! Which object a message is about, in the words in which a person is told.

use std::fmt;

use super::object::{Element, Name, Verdict};

/// What a message of a batch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Our table.
    Table,
    /// A chain.
    Chain(Name),
    /// The rules of a chain, all at once.
    Rules(Name),
    /// A rule, or a list within it; counted from 1.
    Rule(Name, usize),
    /// A set or map.
    Set(Name),
    /// Elements of a set that come or go, how many the message has.
    Elements(Name, usize),
    /// One element, as it is written.
    Element(Name, String),
    /// The whole batch.
    Batch,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("the table"),
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Rules(name) => write!(f, "the rules of chain {name}"),
            Self::Rule(name, number) => write!(f, "rule {number} of chain {name}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Elements(name, 1) => write!(f, "an element of set {name}"),
            Self::Elements(name, count) => write!(f, "one of {count} elements of set {name}"),
            Self::Element(name, element) => write!(f, "element {element} of set {name}"),
            Self::Batch => f.write_str("the batch"),
        }
    }
}

impl fmt::Display for Verdict {
    /// As nft writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Element {
    /// As nft writes it, but protocols as numbers and prefixes as ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::AddressPort(address, protocol, port) => {
                write!(f, "{address} . {protocol} . {port}")
            }
            Self::InterfaceAddress(name, address) => write!(f, "\"{name}\" . {address}"),
            Self::InterfaceNet(name, net) => write!(f, "\"{name}\" . {net}"),
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::InterfaceMac(name, mac) => write!(f, "\"{name}\" . {mac}"),
            Self::Group(group, verdict) => write!(f, "{group} : {verdict}"),
            Self::Named(name, verdict) => write!(f, "\"{name}\" : {verdict}"),
        }
    }
}
