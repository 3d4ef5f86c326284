//! Patterns of interface names.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

/// The interfaces by which a host is reached: Felix's default of `MTUIfacePattern`.
pub(super) const HOST_INTERFACES: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";

/// The most memory that a pattern may need, bytes: it comes from the datastore, too.
const SIZE_LIMIT: usize = 1 << 20;

/// A regular expression that is looked for anywhere in the name of an interface, as Felix does: who
/// means a whole name writes `^` and `$`. It knows ASCII only. The time to search is linear in the
/// length of the name, whatever the pattern.
#[derive(Clone)]
pub struct InterfacePattern(Regex);

impl InterfacePattern {
    /// The interfaces by which a host is reached, as systemd and the kernel name them.
    pub fn host_interfaces() -> Self {
        static PATTERN: LazyLock<InterfacePattern> =
            LazyLock::new(|| HOST_INTERFACES.parse().expect("the default is a regular expression"));
        PATTERN.clone()
    }

    /// Names and, between slashes, regular expressions, with commas between; `None` when one is
    /// neither. Empty: none.
    pub(super) fn list(text: &str) -> Option<Vec<Self>> {
        let one = |part: &str| {
            let pattern = part.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
            match pattern {
                Some("") => None,
                Some(pattern) => pattern.parse().ok(),
                None if part.is_empty() || part.contains('/') => None,
                None => format!("^{}$", regex::escape(part)).parse().ok(),
            }
        };
        if text.is_empty() {
            Some(Vec::new())
        } else {
            text.split(',').map(str::trim).map(one).collect()
        }
    }

    /// The regular expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// True when the pattern is in the name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name.as_bytes())
    }
}

impl FromStr for InterfacePattern {
    type Err = regex::Error;

    /// # Errors
    /// When the text is no regular expression, or one that needs too much memory.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        RegexBuilder::new(text).unicode(false).size_limit(SIZE_LIMIT).build().map(Self)
    }
}

impl fmt::Debug for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

impl PartialEq for InterfacePattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for InterfacePattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_interfaces_of_hosts() {
        let pattern = InterfacePattern::host_interfaces();
        for name in
            ["eth0", "ens5", "enp3s0", "enp3s0f1.100", "eno1", "enx001122334455", "wlan0", "wlp2s0"]
        {
            assert!(pattern.matches(name), "{name}");
        }
        for name in
            ["lo", "cali0123456789a", "docker0", "tunl0", "vxlan.calico", "veth1", "br-eth0"]
        {
            assert!(!pattern.matches(name), "{name}");
        }
    }

    #[test]
    fn it_is_looked_for_anywhere_and_knows_classes() {
        for (pattern, name, expected) in [
            ("eth", "veth1", true),
            ("^eth", "veth1", false),
            (r"^bond\d+$", "bond10", true),
            (r"^bond\d+$", "bond10.7", false),
            (r"\bmgmt\b", "x.mgmt", true),
            ("(?i)^ETH", "eth0", true),
            ("a|b", "c", false),
        ] {
            let parsed = pattern.parse::<InterfacePattern>().unwrap();
            assert_eq!(parsed.matches(name), expected, "{pattern} in {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        for bad in ["*", "(", "[a", "a{2,1}", r"\q", "((a{100}){100}){100}"] {
            assert!(bad.parse::<InterfacePattern>().is_err(), "{bad}");
        }
    }
}
