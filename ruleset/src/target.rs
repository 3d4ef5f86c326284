//! What a rule does with a packet.

use crate::packet::{DCCP, SCTP, TCP, UDP};
use crate::parse::Names;
use crate::rule::Target;
use crate::values::{address_ports, range, sides, value_mask};

/// The target of this name that is no chain, with its options.
pub(crate) fn target(
    name: &str,
    options: &[&str],
    names: &mut impl Names,
) -> Result<Target, String> {
    let unknown = || Err(format!("{name} {}", options.join(" ")));
    Ok(match (name, options) {
        ("ACCEPT", []) => Target::Accept,
        ("DROP", []) => Target::Drop,
        ("RETURN", []) => Target::Return,
        ("REJECT", [] | ["--reject-with", _]) => Target::Reject,
        ("LOG" | "NFLOG", options) => {
            let mut rest = options.iter();
            while let Some(option) = rest.next() {
                match *option {
                    "--log-prefix" | "--log-level" | "--nflog-prefix" | "--nflog-group"
                    | "--nflog-size" | "--nflog-threshold" => drop(rest.next()),
                    "--log-uid" | "--log-ip-options" | "--log-tcp-options" => {}
                    _ => return unknown(),
                }
            }
            Target::Note
        }
        ("SET", ["--add-set" | "--del-set", set, flags, rest @ ..]) => {
            sides(flags)?;
            names.set(set)?;
            names.set_changes(set);
            match rest {
                [] | ["--exist"] => Target::Note,
                _ => return unknown(),
            }
        }
        ("MARK", [option, value]) => {
            let (value, mask) = value_mask(value)?;
            match *option {
                "--set-mark" => Target::Mark { keep: !(mask | value), flip: value },
                "--set-xmark" => Target::Mark { keep: !mask, flip: value },
                "--and-mark" => Target::Mark { keep: value, flip: 0 },
                "--or-mark" => Target::Mark { keep: !value, flip: value },
                "--xor-mark" => Target::Mark { keep: u32::MAX, flip: value },
                _ => return unknown(),
            }
        }
        ("NOTRACK", []) | ("CT", ["--notrack"]) => Target::NoTrack,
        ("DNAT", ["--to-destination", to, rest @ ..]) if nat_flags(rest) => {
            let (address, ports) = address_ports(to, names.family())?;
            let port = match ports {
                None => None,
                Some((first, last)) if first == last => Some(first),
                Some(_) => return unknown(),
            };
            Target::DestinationNat { address, port }
        }
        ("SNAT", ["--to-source", to, rest @ ..]) if nat_flags(rest) => {
            match address_ports(to, names.family())?.0 {
                Some(address) => Target::SourceNat { address },
                None => return unknown(),
            }
        }
        ("MASQUERADE", ["--to-ports", ports, rest @ ..]) if nat_flags(rest) => {
            range(&ports.replace('-', ":"))?;
            Target::Masquerade
        }
        ("MASQUERADE", rest) if nat_flags(rest) => Target::Masquerade,
        _ => return unknown(),
    })
}

/// The protocols of which the kernel wants one beside a target.
pub(crate) fn target_needs(name: &str, options: &[&str]) -> Option<&'static [u8]> {
    // The colon of a port stands behind an address of IPv4, or behind a bracket.
    let with_port =
        |to: &str| to.contains("]:") || to.starts_with(':') || to.matches(':').count() == 1;
    match (name, options) {
        ("MASQUERADE", ["--to-ports", ..]) => Some(&[TCP, UDP, SCTP, DCCP]),
        ("DNAT" | "SNAT", [_, to, ..]) if with_port(to) => Some(&[TCP, UDP, SCTP, DCCP]),
        ("REJECT", [_, "tcp-reset"]) => Some(&[TCP]),
        _ => None,
    }
}

/// How a port is chosen of those that may be.
fn nat_flags(options: &[&str]) -> bool {
    options.iter().all(|one| matches!(*one, "--random" | "--random-fully" | "--persistent"))
}
