//! The name of an interface's host side.

use calico_datastore::model::InterfaceName;
use sha2::{Digest as _, Sha256};

/// What every name begins with: the agent takes such interfaces for pods'.
pub const PREFIX: &str = "cali";
/// The interface whose host side is named after the container.
const FIRST: &str = "eth0";
/// How much follows the prefix: 15 bytes are the longest name.
const TAIL: usize = 11;

/// The names that the host side may have, best first: take the first that is free or one's own.
///
/// For `eth0` the original's, `cali` and the first 11 characters of the container's id. Where that is
/// no name (the id has a character that none may have, or is empty), for further interfaces, and
/// where another container has it: `cali` and a hash of both names; then, without end, hashes that
/// count.
///
/// The same container and interface always give the same names in the same order.
pub fn candidates<'a>(
    container_id: &'a str,
    ifname: &'a str,
) -> impl Iterator<Item = InterfaceName> + 'a {
    let hashes = (0u32..).filter_map(move |count| hashed(container_id, ifname, count));
    original(container_id, ifname).into_iter().chain(hashes)
}

/// The original's name for the first interface of a container.
fn original(container_id: &str, ifname: &str) -> Option<InterfaceName> {
    // Dots are allowed in names, but the agent's users match by `+` and sysctl(8) by dots.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let tail: String = container_id.chars().take(TAIL).collect();
    let fits = ifname == FIRST && !tail.is_empty() && tail.chars().all(plain);
    fits.then(|| format!("{PREFIX}{tail}").parse().ok()).flatten()
}

/// A hash of both; a count other than 0 gives another one.
fn hashed(container_id: &str, ifname: &str, count: u32) -> Option<InterfaceName> {
    let mut hash = Sha256::new();
    hash.update(container_id);
    hash.update([0]);
    hash.update(ifname);
    if count > 0 {
        hash.update([0]);
        hash.update(count.to_string());
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{}", &hex[..TAIL]).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const POD: &str = "c89f2f35-1b5a-4a3c-9d7e-0f1e2d3c4b5a";

    fn names(id: &str, ifname: &str, count: usize) -> Vec<String> {
        candidates(id, ifname).take(count).map(|name| name.to_string()).collect()
    }

    #[test]
    fn the_first_interface_is_named_as_by_the_original() {
        assert_eq!(names(POD, "eth0", 1), ["calic89f2f35-1b"]);
        assert_eq!(names("short", "eth0", 1), ["calishort"]);
    }

    #[test]
    fn further_ones_by_a_hash_of_both() {
        // printf 'c89f2f35-1b5a-4a3c-9d7e-0f1e2d3c4b5a\0eth1' | sha256sum
        assert_eq!(names(POD, "eth1", 1), ["cali78174091fd1"]);
        assert_ne!(names(POD, "eth1", 1), names(POD, "eth2", 1));
        assert_ne!(names(POD, "eth1", 1), names("another", "eth1", 1));
        // Where one ends and the other begins counts.
        assert_ne!(names("a", "bc", 1), names("ab", "c", 1));
    }

    #[test]
    fn two_containers_that_begin_alike_come_apart() {
        let other = "c89f2f35-1bff-4a3c-9d7e-0f1e2d3c4b5a";
        let (mine, theirs) = (names(POD, "eth0", 3), names(other, "eth0", 3));
        assert_eq!(mine[0], theirs[0]);
        assert_ne!(mine[1], theirs[1]);
        assert_ne!(mine[2], theirs[2]);
    }

    #[test]
    fn an_id_that_is_no_name_is_hashed() {
        for id in ["a.b", "", "ä", "a/b", "a b"] {
            let name = &names(id, "eth0", 1)[0];
            assert!(name[4..].bytes().all(|b| b.is_ascii_hexdigit()) && name.len() == 15, "{name}");
        }
        // A dot after what is used does not matter.
        assert_eq!(names("abcdefghijk.l", "eth0", 1), ["caliabcdefghijk"]);
    }

    proptest! {
        #[test]
        fn names_are_valid_and_differ_and_stay(id in ".{0,40}", ifname in "[a-z0-9.]{1,15}") {
            let first = names(&id, &ifname, 8);
            prop_assert_eq!(first.len(), 8);
            prop_assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 8);
            prop_assert!(first.iter().all(|name| name.starts_with(PREFIX)));
            prop_assert_eq!(first, names(&id, &ifname, 8));
        }
    }
}
