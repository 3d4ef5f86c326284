//! The cluster's state and Felix's settings as stored.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Name;

/// ClusterInformation `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInformation {
    /// Nothing may be programmed until the store says that it is ready. Absent = not ready.
    pub datastore_ready: bool,
    /// The cluster's identity.
    pub guid: Option<String>,
    /// The version of Calico that the cluster is of, as written: `v3.29.0`. Writers of other
    /// versions name and order policies differently; see [`CalicoVersion`] for its meaning. `None`
    /// when nobody said it.
    pub calico_version: Option<Arc<str>>,
}

/// A version of Calico, as far as it says how policies are named and ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CalicoVersion {
    /// 3 of `v3.29.1`.
    pub major: u16,
    /// 29 of `v3.29.1`.
    pub minor: u16,
}

/// A text that is not a version of Calico.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of Calico (v3.29.1, 3.29)")]
pub struct InvalidVersion(pub String);

impl FromStr for CalicoVersion {
    type Err = InvalidVersion;

    /// `v3.29.1`, `3.29`, and what builds put behind: `v3.30.0-0.dev-12-gabc`, `3.29.1+patched`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion(text.to_owned());
        let number = |part: Option<&str>| {
            let part = part.filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse().ok()).ok_or_else(invalid)
        };
        let plain = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let release = plain.split(['-', '+']).next().unwrap_or_default();
        let mut parts = release.split('.');
        Ok(Self { major: number(parts.next())?, minor: number(parts.next())? })
    }
}

impl fmt::Display for CalicoVersion {
    /// `3.29`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A FelixConfiguration object as raw parameters: the names of Felix's configuration file
/// (`DefaultEndpointToHostAction`, `ReportingIntervalSecs`…) and values as it would write them
/// (durations in the parameter's own unit). Parsing and precedence belong to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Name → value.
    pub parameters: BTreeMap<Arc<str>, Arc<str>>,
}

impl FelixConfiguration {
    /// The name of the object that counts for the whole cluster.
    pub const CLUSTER: &str = "default";

    /// The name of the object that counts for one node, and goes before the cluster's there.
    pub fn name_of(node: &Name) -> Name {
        Name::from(format!("node.{node}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        for (text, major, minor) in [
            ("v3.29.1", 3, 29),
            ("3.29", 3, 29),
            ("V3.0.0", 3, 0),
            ("v3.30.0-0.dev-12-gabc", 3, 30),
            ("v3.32-1", 3, 32),
            ("3.29.1+patched", 3, 29),
            ("4.0.0", 4, 0),
        ] {
            assert_eq!(text.parse(), Ok(CalicoVersion { major, minor }), "{text}");
        }
        for text in ["", "v", "3", "v3", "3.", "3.x", "master", "3.+1", "-3.29", "3 .29", "3.70000"]
        {
            assert_eq!(text.parse::<CalicoVersion>(), Err(InvalidVersion(text.into())), "{text}");
        }
        assert_eq!("v3.29.1".parse::<CalicoVersion>().unwrap().to_string(), "3.29");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let version = |text: &str| text.parse::<CalicoVersion>().unwrap();
        assert!(version("3.9") < version("3.29") && version("3.32") < version("4.0"));
    }
}
