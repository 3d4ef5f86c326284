//! What a plugin says when it fails.

use serde_json::{Map, Value, json};

use super::Version;

/// The specification's error codes; 100 and above are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The `cniVersion` is not supported.
    IncompatibleVersion = 1,
    /// A field of the configuration is not supported.
    UnsupportedField = 2,
    /// The container is unknown or gone.
    UnknownContainer = 3,
    /// A variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The configuration does not decode.
    Decode = 6,
    /// The configuration cannot work.
    InvalidConfig = 7,
    /// Not now: try again later.
    TryAgainLater = 11,
    /// STATUS: no ADD can be served.
    NotAvailable = 50,
    /// STATUS: no ADD can be served, and existing containers have limited connectivity.
    LimitedConnectivity = 51,
    /// No address is left.
    NoAddress = 100,
    /// The address cannot be given.
    AddressUnavailable = 101,
    /// The datastore does not answer, is not ready, or refuses.
    Datastore = 102,
    /// The kernel refuses.
    Kernel = 103,
    /// The policy is not in the kernel: no agent, or not in time.
    NotProtected = 104,
    /// CHECK: what is there is not what ADD made.
    CheckFailed = 105,
    /// A delegated plugin failed without saying how.
    Delegate = 106,
}

/// Why a command failed; printed as `{"cniVersion","code","msg","details"}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub struct CniError {
    /// The code: of the specification, ours, or what a delegated plugin said.
    pub code: u32,
    /// What, in a sentence: names the object.
    pub msg: String,
    /// Why, and what to do.
    pub details: String,
}

impl CniError {
    /// An error with a code of ours.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: details.into() }
    }

    /// What is printed; the same in all versions but for `cniVersion`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), json!(version.as_str()));
        object.insert("code".to_owned(), json!(self.code));
        object.insert("msg".to_owned(), json!(self.msg));
        if !self.details.is_empty() {
            object.insert("details".to_owned(), json!(self.details));
        }
        Value::Object(object)
    }

    /// What another plugin printed; `None` when it is no error of the specification's form: a
    /// code other than 0 and a message.
    pub fn from_json(value: &Value) -> Option<Self> {
        let code = u32::try_from(value.get("code")?.as_u64()?).ok().filter(|code| *code != 0)?;
        let text = |key| value.get(key).and_then(Value::as_str);
        let msg = text("msg")?.to_owned();
        Some(Self { code, msg, details: text("details").unwrap_or_default().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_as_the_specification_has_it() {
        let error = CniError::new(Code::InvalidConfig, "the name is empty", "give it one");
        assert_eq!(
            error.to_json(Version::V0_4_0).to_string(),
            r#"{"cniVersion":"0.4.0","code":7,"msg":"the name is empty","details":"give it one"}"#
        );
        assert_eq!(error.to_string(), "the name is empty; give it one");
        let bare = CniError::new(Code::TryAgainLater, "not now", "");
        assert_eq!(
            bare.to_json(Version::V0_1_0).to_string(),
            r#"{"cniVersion":"0.1.0","code":11,"msg":"not now"}"#
        );
        assert_eq!(bare.to_string(), "not now");
        for error in [error, bare] {
            assert_eq!(CniError::from_json(&error.to_json(Version::LATEST)), Some(error));
        }
    }

    #[test]
    fn what_is_no_error_is_not_taken_for_one() {
        for text in [
            "{}",
            "[]",
            "7",
            r#"{"code":7}"#,
            r#"{"msg":"no"}"#,
            r#"{"code":0,"msg":"no"}"#,
            r#"{"code":"7","msg":"no"}"#,
            r#"{"code":-1,"msg":"no"}"#,
            r#"{"code":4294967296,"msg":"no"}"#,
        ] {
            assert_eq!(CniError::from_json(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}
