//! The decision itself: pure, over any sources.

use std::path::{Path, PathBuf};

use super::{Choice, DEFAULT_DIRECTORY, LocationError, without_credentials};
use crate::backend::etcd3::Etcd3Config;

/// A value, behind the name of the place where it was said.
pub type Said = (String, String);

/// What one source says of a setting.
pub type Source<'a> = &'a dyn Fn(Setting) -> Option<Said>;

/// What can be said about a datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Which one: `etcd`, `etcdv2`, `directory`, `dir:<path>`.
    Type,
    /// The directory with the administrator's files.
    Directory,
    /// URLs of etcd with commas between.
    Endpoints,
    /// The authority that signed etcd's certificates: a PEM file.
    CaCert,
    /// Our own certificate: a PEM file.
    Cert,
    /// Its key: a PEM file.
    Key,
    /// The user.
    Username,
    /// The user's password.
    Password,
}

impl Setting {
    /// Its key in the section `[datastore]` of `agent.toml`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Directory => "directory",
            Self::Endpoints => "endpoints",
            Self::CaCert => "ca_cert_file",
            Self::Cert => "cert_file",
            Self::Key => "key_file",
            Self::Username => "username",
            Self::Password => "password",
        }
    }

    /// How errors name it when it was said in `agent.toml`.
    pub fn in_agent_toml(self) -> String {
        format!("[datastore] {} in agent.toml", self.key())
    }
}

/// Chooses among what `sources` say, the strongest first. When nobody says anything it is etcd at
/// `default`.
///
/// # Errors
/// When a value that counts cannot be meant, or does not go with another.
pub fn choose(sources: &[Source<'_>], default: &[&str]) -> Result<Choice, LocationError> {
    let any = |setting| sources.iter().find_map(|source| source(setting));
    let mut kind = None;
    for source in sources {
        kind = kind_of(*source)?;
        if kind.is_some() {
            break;
        }
    }
    // Who only says where etcd is leaves open by which API; anybody else may say that.
    if let Some(Kind::SomeEtcd) = kind {
        let said = sources.iter().filter_map(|source| source(Setting::Type));
        kind = said.filter_map(|(_, value)| etcd_api(&value)).next();
    }
    match kind {
        Some(Kind::Directory(Some(path))) => Ok(Choice::Directory(path)),
        Some(Kind::Directory(None)) => {
            let said = any(Setting::Directory);
            let path = said.map(|(name, value)| absolute(&name, &value)).transpose()?;
            Ok(Choice::Directory(path.unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY))))
        }
        Some(Kind::Etcd2) => etcd(&any, default).map(Choice::Etcd2),
        Some(Kind::Etcd | Kind::SomeEtcd) | None => etcd(&any, default).map(Choice::Etcd3),
    }
}

enum Kind {
    /// Its v3 API.
    Etcd,
    /// Its v2 API.
    Etcd2,
    /// Nobody said by which.
    SomeEtcd,
    /// With its path, when that was said in the same breath.
    Directory(Option<PathBuf>),
}

/// Which store one source means; `None`: it says nothing about that.
fn kind_of(source: Source<'_>) -> Result<Option<Kind>, LocationError> {
    if let Some((name, value)) = source(Setting::Type) {
        if let Some(etcd) = etcd_api(&value) {
            return Ok(Some(etcd));
        }
        let kind = match &*value {
            "directory" => Kind::Directory(None),
            other => {
                let path = other.strip_prefix("dir:").ok_or_else(|| LocationError::Value {
                    name: name.clone(),
                    value: value.clone(),
                    expected: "a datastore is etcd, etcdv2, directory, or dir:/path",
                })?;
                Kind::Directory(Some(absolute(&name, path)?))
            }
        };
        return Ok(Some(kind));
    }
    match (source(Setting::Endpoints), source(Setting::Directory)) {
        (Some((etcd, _)), Some((directory, _))) => Err(LocationError::Both(etcd, directory)),
        (Some(_), None) => Ok(Some(Kind::SomeEtcd)),
        (None, Some((name, path))) => Ok(Some(Kind::Directory(Some(absolute(&name, &path)?)))),
        (None, None) => Ok(None),
    }
}

/// An etcd, when the text names one.
fn etcd_api(text: &str) -> Option<Kind> {
    match text {
        "etcd" | "etcdv3" => Some(Kind::Etcd),
        "etcdv2" | "etcd2" => Some(Kind::Etcd2),
        _ => None,
    }
}

fn absolute(name: &str, path: &str) -> Result<PathBuf, LocationError> {
    // Whose working directory would it be? A unit has another than a shell, and the plugin's is
    // anybody's.
    if Path::new(path).is_absolute() {
        return Ok(PathBuf::from(path));
    }
    Err(LocationError::Value {
        name: name.to_owned(),
        value: path.to_owned(),
        expected: "the path of a directory begins with /",
    })
}

fn etcd(
    any: &dyn Fn(Setting) -> Option<Said>,
    default: &[&str],
) -> Result<Etcd3Config, LocationError> {
    let endpoints = match any(Setting::Endpoints) {
        Some((name, value)) => parse_endpoints(&name, &value)?,
        None => default.iter().map(|url| (*url).to_owned()).collect(),
    };
    let value = |setting| any(setting).map(|(_, value)| value);
    let path = |setting| value(setting).map(PathBuf::from);
    let config = Etcd3Config {
        endpoints,
        ca_cert: path(Setting::CaCert),
        cert: path(Setting::Cert),
        key: path(Setting::Key),
        username: value(Setting::Username),
        password: value(Setting::Password),
    };
    both("ETCD_CERT_FILE", config.cert.is_some(), "ETCD_KEY_FILE", config.key.is_some())?;
    both("ETCD_USERNAME", config.username.is_some(), "ETCD_PASSWORD", config.password.is_some())?;
    // With files and without TLS somebody believes in a protection that is not there.
    match config.endpoints.iter().find(|url| !url.starts_with("https://")) {
        Some(url) if config.ca_cert.is_some() || config.cert.is_some() => {
            Err(LocationError::PlainText(url.clone()))
        }
        _ => Ok(config),
    }
}

fn both(a: &'static str, has_a: bool, b: &'static str, has_b: bool) -> Result<(), LocationError> {
    match (has_a, has_b) {
        (true, false) => Err(LocationError::Half { present: a, missing: b }),
        (false, true) => Err(LocationError::Half { present: b, missing: a }),
        _ => Ok(()),
    }
}

/// URLs with commas between them; empty places and slashes at the end do not count.
fn parse_endpoints(name: &str, text: &str) -> Result<Vec<String>, LocationError> {
    let bad = |value: &str| LocationError::Value {
        name: name.to_owned(),
        value: without_credentials(value).to_owned(),
        expected: "etcd is given as URLs (http://host:2379 or https://host:2379) with commas between",
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let urls = parts
        .map(|part| {
            let url = part.trim_end_matches('/');
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            let host = rest.ok_or_else(|| bad(part))?;
            let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@');
            if host.is_empty() || host.starts_with(':') || host.contains(odd) {
                return Err(bad(part));
            }
            Ok(url.to_owned())
        })
        .collect::<Result<Vec<_>, _>>()?;
    if urls.is_empty() { Err(bad(text)) } else { Ok(urls) }
}
