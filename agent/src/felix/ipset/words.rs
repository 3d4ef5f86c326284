//! What the kernel says against a command, by number, in words: pure.

use nix::errno::Errno;

use super::wire::code;
use super::{Command, Entry, SetSpec};

/// Why a command was refused.
pub(super) fn refusal(number: i32, command: &Command) -> String {
    match (number, command) {
        (code::FULL, _) => "the set is full".to_owned(),
        (code::NO_TYPE, Command::Create(_, spec)) => no_type(*spec),
        (code::TOO_MANY_SETS, _) => "the kernel has no room for more sets".to_owned(),
        (EEXIST, Command::Create(..)) => {
            "a set of that name is there, and it is another one".to_owned()
        }
        (code::NO_OTHER_SET, Command::Swap(_, other)) => format!("there is no set {other}"),
        (ENOENT, _) => "there is no set of that name".to_owned(),
        (EBUSY, _) => "somebody is listing it just now".to_owned(),
        (code::BUSY | code::REFERENCED, _) => {
            "it is in use: a rule names it, or somebody is listing it".to_owned()
        }
        (code::OTHER_TYPE, _) => "the two sets are of different types".to_owned(),
        (code::PREFIX_LENGTH, command) => match entry(command) {
            Some(entry) => {
                format!("no set can hold {entry}: a length of prefix that it does not take")
            }
            None => "a length of prefix that it does not take".to_owned(),
        },
        (code::FAMILY, _) => "sets of that type do not know this family".to_owned(),
        (code::NOT_V4, _) => "the set holds IPv4 addresses".to_owned(),
        (code::NOT_V6, _) => "the set holds IPv6 addresses".to_owned(),
        (code::NO_COUNTERS, _) => "the set does not count".to_owned(),
        (code::NO_MEMBER, _) => "the set cannot hold such a member".to_owned(),
        (code::NO_PORTS, _) => "its protocol has no ports".to_owned(),
        (code::NO_PROTOCOL, _) => "its protocol is missing".to_owned(),
        (code::PROTOCOL, command) => match entry(command) {
            Some(entry) => format!("the set cannot hold {entry}: it is of another type or family"),
            None => "the kernel does not understand it".to_owned(),
        },
        (number, _) if number < code::PROTOCOL => Errno::from_raw(number).desc().to_lowercase(),
        (number, _) => format!("the kernel's sets say error {number}"),
    }
}

const ENOENT: i32 = Errno::ENOENT as i32;
const EEXIST: i32 = Errno::EEXIST as i32;
const EBUSY: i32 = Errno::EBUSY as i32;

/// The kernel lacks a type.
pub(super) fn no_type(spec: SetSpec) -> String {
    let (name, family, module) = (spec.kind.name(), spec.family, spec.kind.module());
    format!("this kernel has no {family} sets of type {name}: is its module {module} there?")
}

fn entry(command: &Command) -> Option<&Entry> {
    match command {
        Command::Add(_, entry) | Command::Count(_, entry, _) | Command::Delete(_, entry) => {
            Some(entry)
        }
        Command::Create(..) | Command::Swap(..) | Command::Destroy(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use calico_datastore::model::Family;

    use super::*;
    use crate::felix::ipset::SetType;

    #[test]
    fn an_operator_understands_it() {
        let set = || "cali40x".to_owned();
        let spec = SetSpec { kind: SetType::NetIface, family: Family::V6, max: 9, counters: false };
        let everything = Entry::Net("0.0.0.0/0".parse().unwrap());
        for (number, command, part) in [
            (4098, Command::Create(set(), spec), "no IPv6 sets of type hash:net,iface"),
            (4098, Command::Create(set(), spec), "ip_set_hash_netiface"),
            (17, Command::Create(set(), spec), "it is another one"),
            (2, Command::Destroy(set()), "no set of that name"),
            (2, Command::Swap(set(), "b".to_owned()), "no set of that name"),
            (4101, Command::Swap(set(), "b".to_owned()), "no set b"),
            (4100, Command::Destroy(set()), "a rule names it"),
            (4104, Command::Add(set(), everything), "0.0.0.0/0"),
            (12, Command::Destroy(set()), "memory"),
            (5000, Command::Destroy(set()), "5000"),
        ] {
            let said = refusal(number, &command);
            assert!(said.contains(part), "{number}: {said}");
        }
    }
}
