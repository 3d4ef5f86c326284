//! One rule from its text.

use std::borrow::Cow;

use crate::net::Family;
use crate::packet::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};
use crate::rule::{AddressType, Match, Side, Target, What};
use crate::target::{target, target_needs};
use crate::values::{
    icmp, interface, mac, net, protocol_number, range, ranges, sides, states, value_mask,
};

/// What a rule names and only the whole ruleset knows.
pub(crate) trait Names {
    fn family(&self) -> Family;
    /// Whether criteria of ports and ICMP types need their protocol beside them, as the kernel has
    /// it.
    fn strict(&self) -> bool;
    fn chain(&self, name: &str) -> Option<usize>;
    /// The place of a set, and how many dimensions it has; an error when it is of the other family.
    fn set(&mut self, name: &str) -> Result<(usize, usize), String>;
    /// A rule changes the members of a set.
    fn set_changes(&mut self, name: &str);
}

pub(crate) struct Parsed {
    pub(crate) matches: Vec<Match>,
    pub(crate) target: Target,
}

/// Words of a rule, one after the other.
struct Words<'a> {
    rest: std::slice::Iter<'a, Cow<'a, str>>,
}

impl<'a> Words<'a> {
    fn value(&mut self, option: &str) -> Result<&'a str, String> {
        self.rest.next().map(AsRef::as_ref).ok_or_else(|| format!("{option} has no value"))
    }

    fn peek(&self) -> Option<&'a str> {
        self.rest.as_slice().first().map(AsRef::as_ref)
    }
}

/// Reads everything behind `-A CHAIN`.
pub(crate) fn rule(words: &[Cow<'_, str>], names: &mut impl Names) -> Result<Parsed, String> {
    let mut words = Words { rest: words.iter() };
    let mut rule = Builder::default();
    let mut not = false;
    while let Some(word) = words.rest.next() {
        match word.as_ref() {
            "!" if !not => not = true,
            option => {
                rule.option(option, std::mem::take(&mut not), &mut words, names)?;
            }
        }
    }
    if not {
        return Err("! at the end".to_owned());
    }
    rule.done(names)
}

#[derive(Default)]
struct Builder {
    matches: Vec<Match>,
    seen: Vec<&'static str>,
    /// The match that was loaded last, and whether one of its options came.
    module: Option<(String, bool)>,
    target: Option<Target>,
    target_name: String,
    protocol: Option<(u8, bool)>,
    /// The protocols of which the kernel wants one beside a match.
    needs: Vec<&'static [u8]>,
}

impl Builder {
    fn push(&mut self, not: bool, what: What) {
        self.matches.push(Match { not, what });
    }

    fn once(&mut self, option: &'static str) -> Result<(), String> {
        if self.seen.contains(&option) {
            return Err(format!("{option} twice"));
        }
        self.seen.push(option);
        Ok(())
    }

    fn option(
        &mut self,
        option: &str,
        not: bool,
        words: &mut Words<'_>,
        names: &mut impl Names,
    ) -> Result<(), String> {
        match option {
            "-i" | "--in-interface" => {
                self.once("-i")?;
                let (name, more) = interface(words.value(option)?);
                self.push(not, What::In(name, more));
            }
            "-o" | "--out-interface" => {
                self.once("-o")?;
                let (name, more) = interface(words.value(option)?);
                self.push(not, What::Out(name, more));
            }
            "-s" | "--source" | "--src" => {
                self.once("-s")?;
                self.push(not, What::Net(Side::Source, net(words.value(option)?, names.family())?));
            }
            "-d" | "--destination" | "--dst" => {
                self.once("-d")?;
                let net = net(words.value(option)?, names.family())?;
                self.push(not, What::Net(Side::Destination, net));
            }
            "-p" | "--protocol" | "--proto" => {
                self.once("-p")?;
                let text = words.value(option)?;
                let number = protocol_number(text).ok_or_else(|| format!("protocol {text}"))?;
                if number == 0 {
                    if not {
                        return Err("nothing has no protocol".to_owned());
                    }
                } else {
                    self.protocol = Some((number, not));
                    self.push(not, What::Protocol(number));
                }
            }
            _ if not && !option.starts_with("--") => return Err(format!("! before {option}")),
            "-m" | "--match" => self.load(words.value(option)?)?,
            "-j" | "--jump" | "-g" | "--goto" => {
                if self.target.is_some() {
                    return Err("two targets".to_owned());
                }
                let goto = matches!(option, "-g" | "--goto");
                words.value(option)?.clone_into(&mut self.target_name);
                self.target = Some(self.target(goto, words, names)?);
            }
            _ => self.match_option(option, not, words, names)?,
        }
        Ok(())
    }

    fn load(&mut self, module: &str) -> Result<(), String> {
        self.module_was_used()?;
        if !MODULES.contains(&module) {
            return Err(format!("-m {module}"));
        }
        // Legacy asks both; the nft flavour prints one of them only.
        if let Some(name) = ["tcp", "udp", "sctp"].into_iter().find(|one| *one == module) {
            self.once(name)?;
        }
        self.needs.extend(needs(module));
        self.module = Some((module.to_owned(), false));
        Ok(())
    }

    fn module_was_used(&self) -> Result<(), String> {
        match &self.module {
            Some((module, false)) if !LOADABLE_ALONE.contains(&module.as_str()) => {
                Err(format!("-m {module} asks nothing"))
            }
            _ => Ok(()),
        }
    }

    fn match_option(
        &mut self,
        option: &str,
        not: bool,
        words: &mut Words<'_>,
        names: &mut impl Names,
    ) -> Result<(), String> {
        let module = match &mut self.module {
            Some((module, used)) => {
                *used = true;
                module.clone()
            }
            // The match of the protocol comes with -p.
            None => match self.protocol {
                Some((TCP, false)) => "tcp".to_owned(),
                Some((UDP, false)) => "udp".to_owned(),
                Some((SCTP, false)) => "sctp".to_owned(),
                Some((ICMP, false)) => "icmp".to_owned(),
                Some((ICMPV6, false)) => "icmp6".to_owned(),
                _ => return Err(option.to_owned()),
            },
        };
        match (module.as_str(), option) {
            ("comment", "--comment") if !not => {
                words.value(option)?;
            }
            ("tcp" | "udp" | "sctp", "--sport" | "--source-port") => {
                let ranges = vec![range(words.value(option)?)?];
                self.ports(not, vec![Side::Source], ranges);
            }
            ("tcp" | "udp" | "sctp", "--dport" | "--destination-port") => {
                let ranges = vec![range(words.value(option)?)?];
                self.ports(not, vec![Side::Destination], ranges);
            }
            ("multiport", "--sports" | "--source-ports") => {
                let ranges = ranges(words.value(option)?)?;
                self.ports(not, vec![Side::Source], ranges);
            }
            ("multiport", "--dports" | "--destination-ports") => {
                let ranges = ranges(words.value(option)?)?;
                self.ports(not, vec![Side::Destination], ranges);
            }
            ("multiport", "--ports") => {
                let ranges = ranges(words.value(option)?)?;
                self.ports(not, vec![Side::Source, Side::Destination], ranges);
            }
            ("icmp", "--icmp-type") if names.family() == Family::V4 => {
                let (kind, codes) = icmp(words.value(option)?)?;
                self.push(not, What::Icmp(kind, codes));
            }
            ("icmp6" | "icmpv6", "--icmpv6-type") if names.family() == Family::V6 => {
                let (kind, codes) = icmp(words.value(option)?)?;
                self.push(not, What::Icmp(kind, codes));
            }
            ("set", "--match-set") => {
                let (set, dimensions) = names.set(words.value(option)?)?;
                let sides = sides(words.value(option)?)?;
                // More than the set has are passed over by the kernel; fewer find nothing.
                if sides.len() != dimensions {
                    return Err(format!("a set of {dimensions} dimensions"));
                }
                self.push(not, What::Set(set, sides));
            }
            // They only count.
            ("set", "--update-counters" | "--update-subcounters") => {}
            ("mark", "--mark") => {
                let (value, mask) = value_mask(words.value(option)?)?;
                self.push(not, What::Mark(value, mask));
            }
            ("conntrack", "--ctstate") => {
                let states = states(words.value(option)?)?;
                self.push(not, What::State(states));
            }
            ("mac", "--mac-source") => {
                let mac = mac(words.value(option)?)?;
                self.push(not, What::Mac(mac));
            }
            ("addrtype", "--src-type" | "--dst-type") => {
                let side = if option == "--src-type" { Side::Source } else { Side::Destination };
                let kind = match words.value(option)? {
                    "LOCAL" => AddressType::Local,
                    "MULTICAST" => AddressType::Multicast,
                    "BROADCAST" => AddressType::Broadcast,
                    other => return Err(format!("address type {other}")),
                };
                self.push(not, What::AddressType(side, kind));
            }
            ("limit", "--limit") if !not => {
                words.value(option)?;
                self.push(false, What::Limit);
            }
            ("limit", "--limit-burst") if !not => {
                words.value(option)?;
            }
            ("hashlimit", "--hashlimit-upto" | "--hashlimit") if !not => {
                words.value(option)?;
                self.push(false, What::Limit);
            }
            (
                "hashlimit",
                "--hashlimit-burst"
                | "--hashlimit-mode"
                | "--hashlimit-name"
                | "--hashlimit-srcmask"
                | "--hashlimit-dstmask"
                | "--hashlimit-htable-size"
                | "--hashlimit-htable-max"
                | "--hashlimit-htable-expire"
                | "--hashlimit-htable-gcinterval",
            ) if !not => {
                words.value(option)?;
            }
            _ => return Err(format!("{}{option} of -m {module}", if not { "! " } else { "" })),
        }
        Ok(())
    }

    fn ports(&mut self, not: bool, sides: Vec<Side>, ranges: Vec<(u16, u16)>) {
        self.push(not, What::Ports(sides, ranges));
    }

    fn target(
        &mut self,
        goto: bool,
        words: &mut Words<'_>,
        names: &mut impl Names,
    ) -> Result<Target, String> {
        let name = self.target_name.clone();
        if let Some(chain) = names.chain(&name) {
            return Ok(if goto { Target::Goto(chain) } else { Target::Jump(chain) });
        }
        if goto {
            return Err(format!("no such chain: {name}"));
        }
        let mut options = Vec::new();
        while let Some(word) = words.peek() {
            // Whatever comes behind a target is its own, but for the matches' options that the
            // tools take everywhere.
            if matches!(word, "-m" | "-p" | "-s" | "-d" | "-i" | "-o" | "!" | "--match") {
                return Err(format!("{word} behind the target"));
            }
            options.push(words.value(word)?);
        }
        self.needs.extend(target_needs(&name, &options));
        target(&name, &options, names)
    }

    fn done(self, names: &impl Names) -> Result<Parsed, String> {
        self.module_was_used()?;
        let has = |list: &[u8]| matches!(self.protocol, Some((one, false)) if list.contains(&one));
        if names.strict() && !self.needs.iter().all(|list| has(list)) {
            return Err("a match without its protocol".to_owned());
        }
        Ok(Parsed { matches: self.matches, target: self.target.unwrap_or(Target::None) })
    }
}

const MODULES: [&str; 15] = [
    "addrtype",
    "comment",
    "conntrack",
    "hashlimit",
    "icmp",
    "icmp6",
    "icmpv6",
    "limit",
    "mac",
    "mark",
    "multiport",
    "sctp",
    "set",
    "tcp",
    "udp",
];

/// The protocols of which the kernel wants one beside a match.
fn needs(module: &str) -> Option<&'static [u8]> {
    Some(match module {
        "tcp" => &[TCP],
        "udp" => &[UDP],
        "sctp" => &[SCTP],
        "icmp" => &[ICMP],
        "icmp6" | "icmpv6" => &[ICMPV6],
        "multiport" => &[TCP, UDP, SCTP, DCCP, UDPLITE],
        _ => return None,
    })
}

/// Matches that need no option: their protocol is said by `-p`.
const LOADABLE_ALONE: [&str; 6] = ["tcp", "udp", "sctp", "icmp", "icmp6", "icmpv6"];
