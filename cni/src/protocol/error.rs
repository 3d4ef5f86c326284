//! What a plugin says when it fails.

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
#[error("{msg}; {details}")]
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
}
