//! Versions of the specification.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// A version of the specification. What asks for none means 0.1.0: rkt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0
    #[default]
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0
    V1_1_0,
}

/// Nobody speaks that version here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of the versions {list}", list = Version::list())]
pub struct UnknownVersion(pub String);

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As `cniVersion` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// True where a result has `ip4` and `ip6` instead of `ips`.
    pub fn has_one_address_per_family(self) -> bool {
        self < Self::V0_3_0
    }

    /// What to answer in, whatever else is wrong with a standard input: its version, the oldest if
    /// it names none, and the newest if nobody knows it.
    pub fn of_input(stdin: &[u8]) -> Self {
        let Ok(Value::Object(document)) = serde_json::from_slice(stdin) else {
            return Self::LATEST;
        };
        match document.get("cniVersion") {
            None | Some(Value::Null) => Self::default(),
            Some(Value::String(text)) if text.is_empty() => Self::default(),
            Some(value) => value.as_str().and_then(|t| t.parse().ok()).unwrap_or(Self::LATEST),
        }
    }

    /// All of them with commas between, for messages.
    pub(crate) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_read_as_it_is_written_and_in_order() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::LATEST));
    }

    #[test]
    fn an_answer_has_a_version_whatever_was_asked() {
        for (input, version) in [
            ("{}", Version::V0_1_0),
            (r#"{"cniVersion":null,"name":7}"#, Version::V0_1_0),
            (r#"{"cniVersion":""}"#, Version::V0_1_0),
            (r#"{"cniVersion":"0.4.0","name":[]}"#, Version::V0_4_0),
            (r#"{"cniVersion":"9.9.9"}"#, Version::LATEST),
            (r#"{"cniVersion":"0.1.0","cniVersion":"0.4.0"}"#, Version::V0_4_0),
            (r#"{"cniVersion":4}"#, Version::LATEST),
            ("", Version::LATEST),
            ("{", Version::LATEST),
        ] {
            assert_eq!(Version::of_input(input.as_bytes()), version, "{input}");
        }
    }

    #[test]
    fn others_are_refused() {
        for text in ["", "0.1", "1.1.1", "v1.0.0", " 1.0.0", "2.0.0"] {
            assert_eq!(text.parse::<Version>(), Err(UnknownVersion(text.to_owned())));
        }
    }
}
