//! Names of chains and sets, in the original's scheme, and which names are ours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use calico_datastore::model::{Family, Name, PolicyId};
use sha2::{Digest as _, Sha256};

use crate::desired::{ClassId, SetId};
use crate::felix::ruleset::Direction;
use crate::felix::ruleset::deny::{DeniedBy, DenyPoint};

/// The longest chain name that iptables takes.
const MAX_CHAIN: usize = 28;
/// The longest name of an address set (IPSET_MAXNAMELEN less the NUL).
const MAX_SET: usize = 31;

/// Prefixes of chains that are ours, those of former releases of Felix included: they are taken
/// over or cleaned up.
const OWNED_CHAINS: [&str; 8] =
    ["cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"];

/// True when a chain of that name belongs to us.
pub fn owns_chain(name: &str) -> bool {
    OWNED_CHAINS.iter().any(|prefix| name.starts_with(prefix))
}

/// Prefixes of the sets of Felix before 2.1: of selectors, their temporaries, pools, hosts.
const OLD_SETS: [&str; 8] = [
    "felix-v4-",
    "felix-v6-",
    "felix-4",
    "felix-6",
    "felix-tmp-",
    "felix-all-ipam-pools",
    "felix-masq-ipam-pools",
    "felix-calico-hosts-",
];

/// True when a set of that name belongs to us.
pub fn owns_set(name: &str) -> bool {
    family_of_set(name).is_some() || OLD_SETS.iter().any(|prefix| name.starts_with(prefix))
}

/// The family that the name of a set of ours tells. The first Felix did not always tell it.
pub fn family_of_set(name: &str) -> Option<Family> {
    let of = |family: &Family| name.starts_with(&format!("cali{}", family.number()));
    Family::ALL.into_iter().find(of)
}

/// Prefix and suffix, or the prefix and a hash of the suffix where that would be too long, could be
/// mistaken for a hash, or holds what iptables does not take.
fn chain(prefix: &str, suffix: &str) -> String {
    let name = format!("{prefix}{suffix}");
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
    let too_long = name.len() > MAX_CHAIN || (name.len() == MAX_CHAIN && suffix.starts_with('_'));
    if !too_long && suffix.bytes().all(plain) {
        return name;
    }
    let mut name = format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(Sha256::digest(suffix)));
    name.truncate(MAX_CHAIN);
    name
}

/// The chain of a policy.
pub fn policy(id: &PolicyId, direction: Direction) -> String {
    let prefix = match direction {
        Direction::Ingress => "cali-pi-",
        Direction::Egress => "cali-po-",
    };
    chain(prefix, &id.to_string())
}

/// The chain of a profile.
pub fn profile(name: &Name, direction: Direction) -> String {
    let prefix = match direction {
        Direction::Ingress => "cali-pri-",
        Direction::Egress => "cali-pro-",
    };
    chain(prefix, name.as_str())
}

/// True for the chain of a policy or a profile, and for what reports packets they drop: made of what
/// others wrote, or of what a kernel may not know.
pub fn is_policy_or_profile(name: &str) -> bool {
    ["cali-pi-", "cali-po-", "cali-pri-", "cali-pro-", "cali-dp-", DENY_AT_END]
        .iter()
        .any(|p| name.starts_with(p))
}

/// Which way the packets of such a chain go.
pub fn direction(name: &str) -> Option<Direction> {
    let starts = |all: [&str; 4]| all.iter().any(|prefix| name.starts_with(prefix));
    if starts(["cali-pi-", "cali-pri-", "cali-dp-i", "cali-de-i"]) {
        Some(Direction::Ingress)
    } else if starts(["cali-po-", "cali-pro-", "cali-dp-o", "cali-de-o"]) {
        Some(Direction::Egress)
    } else {
        None
    }
}

/// A chain of a host endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChain {
    /// What the host itself receives or sends.
    Own(Direction),
    /// What passes through.
    Forward(Direction),
}

impl HostChain {
    /// Its direction.
    pub fn direction(self) -> Direction {
        let (Self::Own(direction) | Self::Forward(direction)) = self;
        direction
    }
}

/// The chain of the host endpoint of an interface: `fh` from the network, `th` to it.
pub fn host(kind: HostChain, interface: &str) -> String {
    let prefix = match kind {
        HostChain::Own(Direction::Ingress) => "cali-fh-",
        HostChain::Own(Direction::Egress) => "cali-th-",
        HostChain::Forward(Direction::Ingress) => "cali-fhfw-",
        HostChain::Forward(Direction::Egress) => "cali-thfw-",
    };
    chain(prefix, interface)
}

/// The chain that lets fail-safe ports pass.
pub fn failsafe(direction: Direction) -> String {
    match direction {
        Direction::Ingress => "cali-failsafe-in".to_owned(),
        Direction::Egress => "cali-failsafe-out".to_owned(),
    }
}

/// The chain that reports what is dropped at a place, and drops it: of a policy or a profile, or
/// where the policies of a tier, or all of them, end.
pub fn deny(point: &DenyPoint) -> String {
    let prefix = match point.place {
        DeniedBy::Policy(_) | DeniedBy::Profile(_) => "cali-dp-",
        DeniedBy::EndOfTier(_) | DeniedBy::End => DENY_AT_END,
    };
    format!("{prefix}{}", point.tag())
}

/// What the names of chains begin with that [`deny`] makes for ends.
pub const DENY_AT_END: &str = "cali-de-";

/// The chain of a class: `tw` to a workload, `fw` from one.
pub fn class(id: &ClassId, direction: Direction) -> String {
    let prefix = match direction {
        Direction::Ingress => "cali-tw-",
        Direction::Egress => "cali-fw-",
    };
    chain(prefix, id.as_str())
}

/// True for the chain of a class.
pub fn is_class(name: &str) -> bool {
    ["cali-tw-", "cali-fw-"].iter().any(|prefix| name.starts_with(prefix))
}

fn set_of(family: Family, text: &str) -> String {
    // The 0 is the token of the set types in use; another type under an old name cannot be swapped
    // in, so the original counts the token up when a type changes.
    let mut name = format!("cali{}0{text}", family.number());
    name.truncate(MAX_SET);
    name
}

/// The set of a selector or a named port.
pub fn set(family: Family, id: &SetId) -> String {
    set_of(family, id.as_str())
}

/// The set of the (address, interface) pairs of a class.
pub fn class_set(family: Family, id: &ClassId) -> String {
    set_of(family, &format!("c:{id}"))
}

/// The set of the (address, interface) pairs of every active endpoint of this host.
pub fn local_endpoints(family: Family) -> String {
    set_of(family, "local-endpoints")
}

/// The set of the (prefix, interface) pairs that endpoints may send from besides their addresses.
pub fn spoofed(family: Family) -> String {
    set_of(family, "spoofed-sources")
}

/// The set of the same pairs as [`local_endpoints`], for packets to them, where packets are counted: each
/// of the two sets counts one direction.
pub fn receivers(family: Family) -> String {
    set_of(family, "local-receivers")
}

/// The set that counts the denied packets of each endpoint in one direction.
pub fn denied(family: Family, direction: Direction) -> String {
    match direction {
        Direction::Ingress => set_of(family, "denied-to"),
        Direction::Egress => set_of(family, "denied-from"),
    }
}

/// The set that counts the packets to each endpoint about which it was never asked, because the
/// endpoint of this host that sent them was denied to.
pub fn unasked(family: Family) -> String {
    set_of(family, "unasked-to")
}

/// The sets that are there only where packets are counted.
pub fn counting(family: Family) -> [String; 4] {
    let denied = Direction::ALL.map(|direction| denied(family, direction));
    let [to, from] = denied;
    [receivers(family), to, from, unasked(family)]
}

/// The chain that counts what is dropped in one direction, and drops it, or rejects it.
pub fn count_denied(direction: Direction, rejects: bool) -> &'static str {
    match (direction, rejects) {
        (Direction::Ingress, false) => "cali-drop-to-wl",
        (Direction::Egress, false) => "cali-drop-from-wl",
        (Direction::Ingress, true) => "cali-reject-to-wl",
        (Direction::Egress, true) => "cali-reject-from-wl",
    }
}

/// The set of all pools.
pub fn all_pools(family: Family) -> String {
    set_of(family, "all-ipam-pools")
}

/// The set of the pools whose packets are masqueraded on their way out.
pub fn masq_pools(family: Family) -> String {
    set_of(family, "masq-ipam-pools")
}

/// A name for a set that lives only until it is swapped in.
pub fn temporary(family: Family, number: usize) -> String {
    format!("cali{}t{number}", family.number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::AclClass;

    fn global(name: &str) -> PolicyId {
        PolicyId { namespace: None, name: Name::from(name) }
    }

    #[test]
    fn a_short_name_stays_readable_and_a_long_one_is_hashed() {
        assert_eq!(policy(&global("default.dns"), Direction::Ingress), "cali-pi-default.dns");
        let long = policy(&global("default.a-policy-with-a-long-name"), Direction::Egress);
        assert_eq!(long.len(), 28);
        assert!(long.starts_with("cali-po-_"), "{long}");
        assert_ne!(long, policy(&global("default.a-policy-with-a-long-namf"), Direction::Egress));
    }

    #[test]
    fn a_name_that_looks_like_a_hash_or_breaks_the_syntax_is_hashed() {
        let fake = format!("_{}", "x".repeat(19));
        assert_ne!(policy(&global(&fake), Direction::Egress), format!("cali-po-{fake}"));
        for odd in ["a b", "a\"b", "a\nb", "caf\u{e9}"] {
            let name = profile(&Name::from(odd), Direction::Ingress);
            assert!(name.starts_with("cali-pri-_") && name.len() == 28, "{name}");
        }
    }

    #[test]
    fn a_chain_tells_its_direction() {
        for way in Direction::ALL {
            for place in
                [DeniedBy::Policy(global("a")), DeniedBy::Profile("a".into()), DeniedBy::End]
            {
                assert_eq!(direction(&deny(&DenyPoint { direction: way, place })), Some(way));
            }
            assert_eq!(direction(&policy(&global("a"), way)), Some(way));
            assert_eq!(direction(&profile(&Name::from("a"), way)), Some(way));
            assert!(is_policy_or_profile(&policy(&global("a"), way)));
        }
        assert_eq!(direction("cali-FORWARD"), None);
    }

    #[test]
    fn names_fit_the_kernel() {
        let id = AclClass::default().id();
        for family in Family::ALL {
            assert_eq!(class_set(family, &id).len(), 31);
            assert!(owns_set(&class_set(family, &id)));
            let all =
                counting(family).into_iter().chain([local_endpoints(family), spoofed(family)]);
            let all: std::collections::BTreeSet<String> = all.collect();
            assert!(all.len() == 6 && all.iter().all(|name| name.len() <= 31 && owns_set(name)));
        }
        assert_eq!(class(&id, Direction::Egress).len(), 28);
        assert!(owns_chain(&class(&id, Direction::Egress)));
        for (way, rejects) in Direction::ALL.into_iter().flat_map(|way| [(way, true), (way, false)])
        {
            let name = count_denied(way, rejects);
            assert!(name.len() <= 28 && owns_chain(name) && !is_policy_or_profile(name), "{name}");
        }
        assert!(!owns_chain("california") && !owns_set("calico"));
        assert!(!owns_set("felix-other"));
        for old in ["cali4-s:x", "cali40s:x", "cali4t3", "felix-v4-x", "felix-masq-ipam-pools"] {
            assert!(owns_set(old), "{old}");
        }
    }
}
