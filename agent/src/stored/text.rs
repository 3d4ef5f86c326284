//! Values as the text that people know them by: `10.0.0.0/8`, `tcp`, `80:90`.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use calico_datastore::model::{Cidr, InvalidPort, PortRange, Protocol};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::desired::Member;

/// A value that is written as its text. No copy of the text is made on the way, in either
/// direction: a set may have a million members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<T>, E> {
        text.parse().map(Text).map_err(E::custom)
    }
}

/// `80` or `80:90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports(pub(super) PortRange);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Ports {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let bad = || InvalidPort(text.to_owned());
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| text.parse().map_err(|_| bad());
        PortRange::new(port(first)?, port(last)?).map(Self).ok_or_else(bad)
    }
}

/// `10.0.0.0/8`, or `10.0.0.1,tcp:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberText(pub(super) Member);

/// The text is no member of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a member of a set")]
pub(super) struct InvalidMember(String);

impl fmt::Display for MemberText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Member::Net(net) => net.fmt(f),
            Member::Port(address, protocol, port) => write!(f, "{address},{protocol}:{port}"),
        }
    }
}

impl FromStr for MemberText {
    type Err = InvalidMember;

    fn from_str(text: &str) -> Result<Self, InvalidMember> {
        let bad = || InvalidMember(text.to_owned());
        let Some((address, rest)) = text.split_once(',') else {
            return text.parse::<Cidr>().map(|net| Self(Member::Net(net))).map_err(|_| bad());
        };
        let (protocol, port) = rest.split_once(':').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let protocol: Protocol = protocol.parse().map_err(|_| bad())?;
        Ok(Self(Member::Port(address, protocol, port.parse().map_err(|_| bad())?)))
    }
}

/// The members of a set, shared with the state that they are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members(pub(super) imbl::OrdSet<Member>);

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|member| Text(MemberText(*member))))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of members")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
        let mut all = imbl::OrdSet::new();
        while let Some(Text(MemberText(member))) = members.next_element()? {
            all.insert(member);
        }
        Ok(Members(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_ports_come_back_as_they_went() {
        for text in ["10.0.0.0/8", "fd00::1/128", "10.0.0.1,tcp:80", "fd00::1,132:65535", "::/0"] {
            let member: MemberText = text.parse().unwrap();
            assert_eq!(member.to_string().parse(), Ok(member), "{text}");
        }
        for text in ["", "10.0.0.1,tcp", "10.0.0.1,tcp:65536", "10.0.0.0/8,tcp:1", ",:", "x"] {
            assert!(text.parse::<MemberText>().is_err(), "{text}");
        }
        for text in ["80", "1:65535"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        for text in ["", "9:8", "1:2:3", "a"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }
}
