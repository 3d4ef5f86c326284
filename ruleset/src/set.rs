//! Address sets: what `ipset save` prints, and what the kernel finds in them.

use std::collections::HashMap;

use crate::net::{Family, Net, NetError, mask};
use crate::values::protocol_number;
use crate::words::words;

/// A line of `ipset save` is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Something that this interpreter does not know.
    #[error("not understood: {word} in {line}")]
    Unknown {
        /// What.
        word: String,
        /// The line.
        line: String,
    },
    /// A member of a set that is not there.
    #[error("no such set: {0}")]
    Missing(String),
    /// A set that is there already.
    #[error("made twice: {0}")]
    Twice(String),
    /// A member that is none.
    #[error("no member: {line}")]
    Member {
        /// The line.
        line: String,
        /// Why.
        #[source]
        source: Option<NetError>,
    },
}

/// What the members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Net,
    IpPort,
    NetIface,
}

impl Kind {
    /// How many of `src` and `dst` a match names.
    pub(crate) fn dimensions(self) -> usize {
        match self {
            Self::Net => 1,
            Self::IpPort | Self::NetIface => 2,
        }
    }
}

/// A set.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) family: Family,
    pub(crate) kind: Kind,
    /// Prefix lengths in use, the longest first, as the kernel looks them up.
    lengths: Vec<u8>,
    /// Prefixes, and whether they say *not* (`nomatch`).
    nets: HashMap<(u8, u128), bool>,
    ports: HashMap<(u128, u8, u16), ()>,
    /// Prefixes behind interfaces.
    ifaces: HashMap<(u8, u128), Vec<Iface>>,
}

#[derive(Clone, Debug)]
struct Iface {
    name: String,
    /// Every interface whose name begins so.
    wildcard: bool,
    nomatch: bool,
}

impl Set {
    fn new(name: &str, family: Family, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            family,
            kind,
            lengths: Vec::new(),
            nets: HashMap::new(),
            ports: HashMap::new(),
            ifaces: HashMap::new(),
        }
    }

    /// `hash:net`: the longest prefix that holds the address decides.
    pub(crate) fn has_net(&self, address: u128) -> bool {
        let found = self
            .lengths
            .iter()
            .find_map(|len| self.nets.get(&(*len, address & mask(self.family, *len))));
        found.is_some_and(|nomatch| !nomatch)
    }

    /// `hash:ip,port`.
    pub(crate) fn has_port(&self, address: u128, protocol: u8, port: u16) -> bool {
        self.ports.contains_key(&(address, protocol, port))
    }

    /// `hash:net,iface`: the longest prefix that holds the address behind this interface decides.
    pub(crate) fn has_iface(&self, address: u128, interface: &str) -> bool {
        let found = self.lengths.iter().find_map(|len| {
            let members = self.ifaces.get(&(*len, address & mask(self.family, *len)))?;
            members.iter().find(|one| {
                one.name == interface || one.wildcard && interface.starts_with(&one.name)
            })
        });
        found.is_some_and(|one| !one.nomatch)
    }

    fn note_length(&mut self, len: u8) {
        if let Err(at) = self.lengths.binary_search_by(|have| len.cmp(have)) {
            self.lengths.insert(at, len);
        }
    }

    fn add(&mut self, member: &str, nomatch: bool, wildcard: bool) -> Result<(), Option<NetError>> {
        let net = |text: &str| match Net::parse(text) {
            Ok(net) if net.family == self.family && net.len > 0 => Ok(net),
            Ok(_) => Err(None),
            Err(error) => Err(Some(error)),
        };
        match self.kind {
            Kind::Net => {
                let net = net(member)?;
                self.note_length(net.len);
                self.nets.insert((net.len, net.base), nomatch);
            }
            Kind::IpPort => {
                let (address, port) = member.split_once(',').ok_or(None)?;
                let address = net(address)?;
                // Without a protocol it is TCP.
                let (protocol, port) = match port.split_once(':') {
                    Some((protocol, port)) => (protocol_number(protocol).ok_or(None)?, port),
                    None => (crate::packet::TCP, port),
                };
                let port = port.parse().map_err(|_| None)?;
                if address.len != self.family.bits() || nomatch {
                    return Err(None);
                }
                self.ports.insert((address.base, protocol, port), ());
            }
            Kind::NetIface => {
                let (prefix, name) = member.split_once(',').ok_or(None)?;
                let net = net(prefix)?;
                if name.is_empty() || name.contains(':') {
                    return Err(None);
                }
                self.note_length(net.len);
                let one = Iface { name: name.to_owned(), wildcard, nomatch };
                self.ifaces.entry((net.len, net.base)).or_default().push(one);
            }
        }
        Ok(())
    }
}

/// Reads what `ipset save` prints.
pub(crate) fn parse(text: &str) -> Result<Vec<Set>, SetError> {
    let mut sets: Vec<Set> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let unknown =
            |word: &str| SetError::Unknown { word: word.to_owned(), line: line.to_owned() };
        let words = words(line).ok_or_else(|| unknown("an open quote"))?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match words.as_slice() {
            ["create", name, kind, options @ ..] => {
                let kind = match *kind {
                    "hash:net" => Kind::Net,
                    "hash:ip,port" => Kind::IpPort,
                    "hash:net,iface" => Kind::NetIface,
                    other => return Err(unknown(other)),
                };
                let family = family(options).map_err(unknown)?;
                if places.insert((*name).to_owned(), sets.len()).is_some() {
                    return Err(SetError::Twice((*name).to_owned()));
                }
                sets.push(Set::new(name, family, kind));
            }
            ["add", name, member, options @ ..] => {
                let (nomatch, wildcard) = flags(options).map_err(unknown)?;
                let set = places.get(*name).and_then(|at| sets.get_mut(*at));
                let set = set.ok_or_else(|| SetError::Missing((*name).to_owned()))?;
                set.add(member, nomatch, wildcard)
                    .map_err(|source| SetError::Member { line: line.to_owned(), source })?;
            }
            [word, ..] => return Err(unknown(word)),
            [] => {}
        }
    }
    Ok(sets)
}

/// The options of `create`; those that do not change what is found are passed over.
fn family<'a>(options: &[&'a str]) -> Result<Family, &'a str> {
    let mut family = Family::V4;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "family" => match rest.next() {
                Some(&"inet") => family = Family::V4,
                Some(&"inet6") => family = Family::V6,
                _ => return Err(option),
            },
            "hashsize" | "maxelem" | "bucketsize" | "initval" | "timeout" => drop(rest.next()),
            "counters" | "comment" | "skbinfo" | "forceadd" => {}
            _ => return Err(option),
        }
    }
    Ok(family)
}

/// The options of `add`: `nomatch` and `wildcard`.
fn flags<'a>(options: &[&'a str]) -> Result<(bool, bool), &'a str> {
    let (mut nomatch, mut wildcard) = (false, false);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "nomatch" => nomatch = true,
            "wildcard" => wildcard = true,
            "packets" | "bytes" | "comment" | "timeout" => drop(rest.next()),
            _ => return Err(option),
        }
    }
    Ok((nomatch, wildcard))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::net::number;

    fn n(text: &str) -> u128 {
        number(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn the_longest_prefix_decides() {
        let sets = parse(
            "create a hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x5\n\
             add a 10.0.0.0/8\nadd a 10.1.0.0/16 nomatch\nadd a 10.1.2.0/24\nadd a 0.0.0.0/1\n\
             create b hash:net family inet6\nadd b fd00::/64\n",
        )
        .unwrap();
        for (address, there) in
            [("10.2.0.0", true), ("10.1.0.1", false), ("10.1.2.9", true), ("128.0.0.1", false)]
        {
            assert_eq!(sets[0].has_net(n(address)), there, "{address}");
        }
        assert!(sets[1].has_net(n("fd00::9")) && !sets[1].has_net(n("fd00:0:0:1::")));
    }

    #[test]
    fn ports_and_interfaces_are_part_of_a_member() {
        let sets = parse(
            "create p hash:ip,port\nadd p 10.0.0.1,tcp:80\nadd p 10.0.0.1,sctp:81\n\
             create i hash:net,iface family inet counters\nadd i 10.0.0.1,cali1 packets 3 bytes 9\n\
             add i 10.0.0.0/24,cali2\nadd i 10.0.0.1,eth wildcard\n",
        )
        .unwrap();
        let port = |protocol, port| sets[0].has_port(n("10.0.0.1"), protocol, port);
        assert!(port(6, 80) && port(132, 81));
        assert!(!port(17, 80) && !port(6, 81) && !sets[0].has_port(n("10.0.0.2"), 6, 80));
        let iface = |address, name| sets[1].has_iface(n(address), name);
        assert!(
            iface("10.0.0.1", "cali1") && iface("10.0.0.9", "cali2") && iface("10.0.0.1", "eth7")
        );
        assert!(
            !iface("10.0.0.9", "cali1")
                && !iface("10.0.0.1", "cali")
                && !iface("10.0.1.1", "cali2")
        );
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for bad in [
            "create a bitmap:port range 0-9",
            "create a hash:net markmask 3",
            "add a 10.0.0.1",
            "create a hash:net\ncreate a hash:net",
            "create a hash:net\nadd a 0.0.0.0/0",
            "create a hash:net\nadd a fd00::1",
            "create a hash:net\nadd a 10.0.0.1 skbmark 1",
            "create a hash:ip,port\nadd a 10.0.0.0/8,tcp:80",
            "create a hash:ip,port\nadd a 10.0.0.1,tcp:80-90",
            "create a hash:net,iface\nadd a 10.0.0.1,physdev:eth0",
            "destroy a",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
