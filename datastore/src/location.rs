//! Which store a host uses, and where it is: decided once, for the agent and for the plugin.
//!
//! Nothing here reads a file or the environment. Who asks hands over what was said, the strongest
//! first; the rules are the same for everybody:
//!
//! * The strongest source that says anything about it decides which store it is: by its name
//!   (`type` in `agent.toml`, `CALICO_DATASTORE`), else by saying where etcd or the directory is.
//! * How it is reached is asked of all sources, value by value.

mod choice;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use choice::{Said, Setting, Source, choose};

use crate::backend::directory::{Directory, DirectoryConfig};
use crate::backend::etcd2::{Etcd2, Etcd2Error};
use crate::backend::etcd3::{Etcd3, Etcd3Config, EtcdError};
use crate::store::AnyStore;

/// The address that etcd listens on when nobody says anything.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

/// Where etcd listened before it had that port; the plugin looks there as well.
pub const OLD_ENDPOINT: &str = "http://127.0.0.1:4001";

/// Where the administrator's files are when nobody says anything.
pub const DEFAULT_DIRECTORY: &str = "/etc/calico/resources";

/// The directory below the state directory that agent and plugin write.
const STATE: &str = "resources";

/// The store that was chosen, as far as what was said tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// etcd's v3 API.
    Etcd3(Etcd3Config),
    /// etcd's v2 API.
    Etcd2(Etcd3Config),
    /// A directory with the administrator's files.
    Directory(PathBuf),
}

impl Choice {
    /// The whole location: what agent and plugin write lies below `state_dir`.
    pub fn below(self, state_dir: &Path) -> Location {
        match self {
            Self::Etcd3(config) => Location::Etcd3(config),
            Self::Etcd2(config) => Location::Etcd2(config),
            Self::Directory(admin) => {
                Location::Directory(DirectoryConfig { admin, state: state_dir.join(STATE) })
            }
        }
    }
}

/// A store and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// etcd's v3 API, with the v3 layout.
    Etcd3(Etcd3Config),
    /// etcd's v2 API, with the v1 layout: Calico up to 2.6.
    Etcd2(Etcd3Config),
    /// Files of this host.
    Directory(DirectoryConfig),
}

impl Location {
    /// The same for people: `etcd http://…`, `directory /etc/calico/resources`.
    pub fn describe(&self) -> String {
        match self {
            Self::Etcd3(config) => format!("etcd {}", config.endpoints.join(", ")),
            Self::Etcd2(config) => format!("etcd (v2 API) {}", config.endpoints.join(", ")),
            Self::Directory(config) => format!("directory {}", config.admin.display()),
        }
    }

    /// The URLs of etcd's members that were given; none for files.
    pub fn servers(&self) -> &[String] {
        match self {
            Self::Etcd3(config) | Self::Etcd2(config) => &config.endpoints,
            Self::Directory(_) => &[],
        }
    }

    /// A handle to the store. Nothing is asked yet, nothing made.
    ///
    /// # Errors
    /// When etcd's configuration cannot work, or a certificate cannot be read.
    pub fn open(&self) -> Result<AnyStore, OpenError> {
        Ok(match self {
            Self::Etcd3(config) => AnyStore::Etcd3(Etcd3::new(config.clone())?),
            Self::Etcd2(config) => AnyStore::Etcd2(Etcd2::new(config.clone())?),
            Self::Directory(config) => AnyStore::Directory(Directory::new(config.clone())),
        })
    }
}

/// A store that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum OpenError {
    /// Of etcd's v3 API.
    Etcd3(#[from] EtcdError),
    /// Of etcd's v2 API.
    Etcd2(#[from] Etcd2Error),
}

impl OpenError {
    /// The error and what is behind it, on one line, for people.
    pub fn chain(&self) -> String {
        match self {
            Self::Etcd3(error) => error.chain(),
            Self::Etcd2(error) => error.chain(),
        }
    }
}

/// What was said cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// A value that does not parse.
    #[error("{name} is {value:?}: {expected}")]
    Value {
        /// Where it was said: `ETCD_ENDPOINTS`.
        name: String,
        /// What was said.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// One of two that need each other.
    #[error("{present} is set and {missing} is not: both are needed")]
    Half {
        /// What is set.
        present: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// Certificates for a connection that has none.
    #[error("there are certificate files for etcd, but {0} is not an https URL")]
    PlainText(String),
    /// One source names two stores.
    #[error("{0} and {1} are both set: say with type (etcd, etcdv2 or directory) which one counts")]
    Both(String, String),
    /// `agent.toml` is not TOML, or `[datastore]` is no section.
    #[error("cannot read [datastore] in agent.toml: {0}")]
    Toml(String),
}

/// The location of the store for a process that is not the agent: what `agent_toml` (its text)
/// says, then the environment, then etcd on this host at its port and at its old one.
///
/// It is tolerant: other sections and unknown keys of `agent.toml` are none of its business.
///
/// # Errors
/// When the text is not TOML, or what it or the environment says cannot be meant.
pub fn locate(
    env: &dyn Fn(&str) -> Option<String>,
    agent_toml: Option<&str>,
    state_dir: &Path,
) -> Result<Location, LocationError> {
    locate_after(&|_| None, env, agent_toml, state_dir)
}

/// The same, with a source that is stronger than all of these: a network's configuration.
///
/// # Errors
/// As [`locate`].
pub fn locate_after(
    first: Source<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    agent_toml: Option<&str>,
    state_dir: &Path,
) -> Result<Location, LocationError> {
    let section = agent_toml.map(section).transpose()?.unwrap_or_default();
    let file = |setting: Setting| {
        let text = text_of(section.get(setting.key())?)?;
        Some((setting.in_agent_toml(), text))
    };
    let environment = |setting| setting_in(env, setting);
    let default = [DEFAULT_ENDPOINT, OLD_ENDPOINT];
    Ok(choose(&[first, &file, &environment], &default)?.below(state_dir))
}

/// What the environment says of a setting: `CALICO_DATASTORE` and `ETCD_…`. Empty counts as not
/// set.
pub fn setting_in(env: &dyn Fn(&str) -> Option<String>, setting: Setting) -> Option<Said> {
    let get = |name: &str| {
        let value = env(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    if setting == Setting::Endpoints
        && let Some(endpoints) = get("ETCD_ENDPOINTS")
    {
        return Some(endpoints);
    }
    let name = match setting {
        Setting::Type => "CALICO_DATASTORE",
        Setting::Directory => return None,
        Setting::Endpoints => {
            let (name, address) = get("ETCD_AUTHORITY")?;
            let scheme = get("ETCD_SCHEME").map_or_else(|| "http".to_owned(), |(_, said)| said);
            return Some((name, format!("{scheme}://{address}")));
        }
        Setting::CaCert => "ETCD_CA_CERT_FILE",
        Setting::Cert => "ETCD_CERT_FILE",
        Setting::Key => "ETCD_KEY_FILE",
        Setting::Username => "ETCD_USERNAME",
        Setting::Password => "ETCD_PASSWORD",
    };
    get(name)
}

fn section(text: &str) -> Result<toml::Table, LocationError> {
    let mut table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| LocationError::Toml(told(text, &error)))?;
    match table.remove("datastore") {
        None => Ok(toml::Table::new()),
        Some(toml::Value::Table(section)) => Ok(section),
        Some(_) => Err(LocationError::Toml("it is a section: write [datastore]".to_owned())),
    }
}

/// What is wrong and in which line. Not the line itself: a password may stand there.
fn told(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.as_bytes().get(..span.start));
    let line = before.map(|before| before.iter().filter(|byte| **byte == b'\n').count() + 1);
    // The parser's own words may go over several lines.
    let message = error.message().replace('\n', ", ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

/// A URL without user and password, to be shown: what stands behind the last `@`.
pub fn without_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// A value as the environment would have it: lists have commas. What is empty is not set.
fn text_of(value: &toml::Value) -> Option<String> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().filter_map(text_of).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    (!text.trim().is_empty()).then_some(text)
}
