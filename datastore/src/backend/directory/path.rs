//! Keys as names of files below the state directory, and back.
//!
//! ```text
//! /calico/resources/v3/projectcalico.org/nodes/h1      nodes/h1.json
//! /calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26    ipam/assignment/ipv4/block/10.0.0.0-26.json
//! /calico/felix/v2/no-region/host/h1/status            other/calico/felix/v2/…/status.json
//! ```
//! Bytes that a name should not have are written as `%` and two digits, so that every key has a
//! file and no two have the same.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use crate::layout::v3::{IPAM_PREFIX, RESOURCES_PREFIX};

/// Where the keys of a prefix are. The last takes what the others do not.
const PLACES: [(&str, &str); 3] = [(RESOURCES_PREFIX, ""), (IPAM_PREFIX, "ipam/"), ("", "other/")];

const SUFFIX: &str = ".json";

/// The file of a key, relative to the state directory.
pub(super) fn path_of(key: &str) -> PathBuf {
    let places = PLACES.iter();
    let found = places.filter_map(|(prefix, place)| Some((key.strip_prefix(prefix)?, *place)));
    // A resource whose plural is the name of another place would meet the keys there.
    let clear = |rest: &str, place: &str| {
        !place.is_empty() || PLACES.iter().all(|(_, p)| p.is_empty() || !rest.starts_with(p))
    };
    let (rest, place) =
        found.into_iter().find(|(rest, place)| clear(rest, place)).unwrap_or((key, "other/"));
    let segments: Vec<String> = rest.split('/').map(escape).collect();
    PathBuf::from(format!("{place}{}{SUFFIX}", segments.join("/")))
}

/// The key of a file; `None`: no key has this name.
pub(super) fn key_of(path: &Path) -> Option<String> {
    let segments = path.components().map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let text = segments.collect::<Option<Vec<_>>>()?.join("/");
    let text = text.strip_suffix(SUFFIX)?;
    let mut others = PLACES.iter().filter(|(_, place)| !place.is_empty());
    let (prefix, rest) = others
        .find_map(|(prefix, place)| Some((*prefix, text.strip_prefix(place)?)))
        .unwrap_or((RESOURCES_PREFIX, text));
    let segments = rest.split('/').map(unescape).collect::<Option<Vec<_>>>()?;
    let key = format!("{prefix}{}", segments.join("/"));
    // Another spelling of a name would be a second file of the key.
    (path_of(&key) == path).then_some(key)
}

fn escape(segment: &str) -> String {
    if segment.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::with_capacity(segment.len());
    for (at, byte) in segment.bytes().enumerate() {
        // A dot in front hides a file, and `..` is a directory.
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b':')
            || byte == b'.' && at > 0;
        if plain {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_people_can_read() {
        for (key, path) in [
            (format!("{RESOURCES_PREFIX}nodes/h1"), "nodes/h1.json"),
            (
                format!("{RESOURCES_PREFIX}workloadendpoints/default/h--1-cni-x-eth0"),
                "workloadendpoints/default/h--1-cni-x-eth0.json",
            ),
            (
                format!("{IPAM_PREFIX}assignment/ipv6/block/fd80::-122"),
                "ipam/assignment/ipv6/block/fd80::-122.json",
            ),
            (
                "/calico/felix/v2/a%2fb/../x".to_owned(),
                "other/%/calico/felix/v2/a%252fb/%2E./x.json",
            ),
            (
                format!("{RESOURCES_PREFIX}ipam/x"),
                "other/%/calico/resources/v3/projectcalico.org/ipam/x.json",
            ),
            (String::new(), "other/%.json"),
            ("a/".to_owned(), "other/a/%.json"),
        ] {
            assert_eq!(path_of(&key), Path::new(path), "{key}");
            assert_eq!(key_of(Path::new(path)).as_ref(), Some(&key), "{path}");
        }
        for path in
            ["nodes/h1", "nodes/%41.json", "../x.json", "nodes/.x.json", "nodes/%4.json", "/a.json"]
        {
            assert_eq!(key_of(Path::new(path)), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn each_key_has_a_file_of_its_own(
            key in prop_oneof![
                any::<String>(),
                "[a./%-]{0,8}",
                "[a./%-]{0,8}".prop_map(|rest| format!("{RESOURCES_PREFIX}{rest}")),
                "(ipam|other)[a./%-]{0,8}".prop_map(|rest| format!("{RESOURCES_PREFIX}{rest}")),
                "[a./%-]{0,8}".prop_map(|rest| format!("{IPAM_PREFIX}{rest}")),
            ]
        ) {
            let path = path_of(&key);
            prop_assert_eq!(key_of(&path), Some(key));
            prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert!(!path.to_string_lossy().split('/').any(|name| name.starts_with('.')));
        }
    }
}
