//! What only this host can say: how the datastore is reached, who the host is.
//!
//! These cannot come from the datastore, and a mistake in them ends the start: connecting to
//! another store or registering under another name than was meant is worse than not starting.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use calico_datastore::model::{AsNumber, Family};

use super::env::Env;
use super::file::FileConfig;
use super::params::folded;

/// Felix's parameters that count only in the environment and on the command line.
static LOCAL: &[&str] = &[
    "EtcdAddr",
    "EtcdScheme",
    "EtcdEndpoints",
    "EtcdCaFile",
    "EtcdCertFile",
    "EtcdKeyFile",
    "EtcdUsername",
    "EtcdPassword",
    "FelixHostname",
];

/// True for a name that is ignored in the datastore.
pub(super) fn is_local(name: &str) -> bool {
    LOCAL.iter().any(|local| folded(local) == folded(name))
}

/// The address that etcd listens on when nobody says anything.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreConfig {
    /// URLs without a path, `http://host:port` or `https://host:port`; at least one.
    pub endpoints: Vec<String>,
    /// The authority that signed etcd's certificate.
    pub ca: Option<PathBuf>,
    /// This host's certificate; always together with `key`.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The user; always together with `password`.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// What was said about one of the host's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressChoice {
    /// Nothing: the stored one stays.
    #[default]
    Stored,
    /// `autodetect`.
    Detect,
    /// `none`: it has none, whatever is stored.
    Absent,
    /// This one, with the length of its network's prefix when that was said.
    Fixed(IpAddr, Option<u8>),
}

/// What was said about who this host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name, said on purpose: command line, `NODENAME`, `agent.toml`, `FELIX_FELIXHOSTNAME`.
    pub name: Option<String>,
    /// `HOSTNAME`.
    pub hostname: Option<String>,
    /// Its IPv4 address.
    pub ip: AddressChoice,
    /// Its IPv6 address.
    pub ip6: AddressChoice,
    /// Its AS number.
    pub as_number: Option<AsNumber>,
    /// `CLUSTER_TYPE`, for a cluster that is not there yet.
    pub cluster_type: Option<String>,
    /// `DISABLE_NODE_IP_CHECK=true`: do not look whether another node has the address.
    pub skip_address_check: bool,
}

/// What was given on the command line; it goes before everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--nodename`.
    pub nodename: Option<String>,
    /// `--ip`.
    pub ip: Option<String>,
    /// `--ip6`.
    pub ip6: Option<String>,
    /// `--as-number`.
    pub as_number: Option<String>,
    /// `--etcd-endpoints`.
    pub etcd_endpoints: Option<String>,
}

/// What only this host can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// How the datastore is reached.
    pub datastore: DatastoreConfig,
    /// Who this host is.
    pub node: NodeConfig,
}

/// A local setting is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// A value that does not parse.
    #[error("{name} is {value:?}: {expected}")]
    Value {
        /// Where it was said: `--ip`, `ETCD_ENDPOINTS`, `[node] ip`.
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
}

/// A value and where it was said.
type Said<'a> = Option<(String, &'a str)>;

impl Local {
    /// Asks flags, environment and file, in this order.
    ///
    /// # Errors
    /// On the first value that cannot be what was meant.
    pub fn resolve(flags: &Flags, env: &Env, file: &FileConfig) -> Result<Self, LocalError> {
        let ask = Ask { env, file };
        Ok(Self { datastore: ask.datastore(flags)?, node: ask.node(flags)? })
    }

    /// The first mistake about the datastore, and the first about the node.
    pub fn mistakes(flags: &Flags, env: &Env, file: &FileConfig) -> [Option<LocalError>; 2] {
        let ask = Ask { env, file };
        [ask.datastore(flags).err(), ask.node(flags).err()]
    }

    /// What differs, by its name in `agent.toml`: none of it changes while the agent runs.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (store, their_store) = (&self.datastore, &other.datastore);
        let (node, their_node) = (&self.node, &other.node);
        let same = [
            ("endpoints", store.endpoints == their_store.endpoints),
            ("ca_cert_file", store.ca == their_store.ca),
            ("cert_file", store.cert == their_store.cert),
            ("key_file", store.key == their_store.key),
            ("username", store.username == their_store.username),
            ("password", store.password == their_store.password),
            ("name", node.name == their_node.name),
            ("ip", node.ip == their_node.ip),
            ("ip6", node.ip6 == their_node.ip6),
            ("as_number", node.as_number == their_node.as_number),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

struct Ask<'a> {
    env: &'a Env,
    file: &'a FileConfig,
}

impl<'a> Ask<'a> {
    fn variable(&self, name: &str) -> Said<'a> {
        self.env.get(name).map(|value| (name.to_owned(), value))
    }

    fn felix(&self, name: &str) -> Said<'a> {
        let value = self.env.felix_value(name)?;
        Some((format!("FELIX_{}", name.to_uppercase()), value))
    }

    fn datastore_key(&self, key: &str) -> Said<'a> {
        let value = self.file.datastore.get(key)?;
        Some((format!("[datastore] {key} in agent.toml"), value))
    }

    fn node_key(&self, key: &str) -> Said<'a> {
        let value = self.file.node.get(key)?;
        Some((format!("[node] {key} in agent.toml"), value))
    }

    fn datastore(&self, flags: &Flags) -> Result<DatastoreConfig, LocalError> {
        let either = |variable: &str, felix: &str, key: &str| {
            self.variable(variable)
                .or_else(|| self.felix(felix))
                .or_else(|| self.datastore_key(key))
                .map(|(_, value)| value)
        };
        let path = |variable, felix, key| either(variable, felix, key).map(PathBuf::from);
        let config = DatastoreConfig {
            endpoints: self.endpoints(flags)?,
            ca: path("ETCD_CA_CERT_FILE", "EtcdCaFile", "ca_cert_file"),
            cert: path("ETCD_CERT_FILE", "EtcdCertFile", "cert_file"),
            key: path("ETCD_KEY_FILE", "EtcdKeyFile", "key_file"),
            username: either("ETCD_USERNAME", "EtcdUsername", "username").map(str::to_owned),
            password: either("ETCD_PASSWORD", "EtcdPassword", "password")
                .map(|text| Secret(text.to_owned())),
        };
        both("ETCD_CERT_FILE", config.cert.is_some(), "ETCD_KEY_FILE", config.key.is_some())?;
        both(
            "ETCD_USERNAME",
            config.username.is_some(),
            "ETCD_PASSWORD",
            config.password.is_some(),
        )?;
        // With files and without TLS somebody believes in a protection that is not there.
        let plain = config.endpoints.iter().find(|url| !url.starts_with("https://"));
        match plain {
            Some(url) if config.ca.is_some() || config.cert.is_some() => {
                Err(LocalError::PlainText(url.clone()))
            }
            _ => Ok(config),
        }
    }

    fn endpoints(&self, flags: &Flags) -> Result<Vec<String>, LocalError> {
        let list = flag("--etcd-endpoints", flags.etcd_endpoints.as_deref())
            .or_else(|| self.variable("ETCD_ENDPOINTS"))
            .or_else(|| self.felix("EtcdEndpoints"));
        if let Some((name, value)) = list {
            return parse_endpoints(&name, value);
        }
        let address = self.variable("ETCD_AUTHORITY").or_else(|| self.felix("EtcdAddr"));
        if let Some((name, address)) = address {
            let scheme = self.variable("ETCD_SCHEME").or_else(|| self.felix("EtcdScheme"));
            let scheme = scheme.map_or("http", |(_, scheme)| scheme);
            return parse_endpoints(&name, &format!("{scheme}://{address}"));
        }
        let (name, value) = self
            .datastore_key("endpoints")
            .unwrap_or_else(|| ("the default".to_owned(), DEFAULT_ENDPOINT));
        parse_endpoints(&name, value)
    }

    fn node(&self, flags: &Flags) -> Result<NodeConfig, LocalError> {
        let address = |flag: Said<'a>, variable: &str, key: &str, family| {
            flag.or_else(|| self.variable(variable))
                .or_else(|| self.node_key(key))
                .map_or(Ok(AddressChoice::Stored), |(n, v)| parse_address(&n, v, family))
        };
        // The flags live as long as this call only, so their texts are looked at one by one.
        let ip = match flag("--ip", flags.ip.as_deref()) {
            Some((name, value)) => parse_address(&name, value, Family::V4)?,
            None => address(None, "IP", "ip", Family::V4)?,
        };
        let ip6 = match flag("--ip6", flags.ip6.as_deref()) {
            Some((name, value)) => parse_address(&name, value, Family::V6)?,
            None => address(None, "IP6", "ip6", Family::V6)?,
        };
        let as_number = flag("--as-number", flags.as_number.as_deref())
            .or_else(|| self.variable("AS"))
            .or_else(|| self.node_key("as_number"))
            .map(|(name, value)| {
                value.parse().map_err(|_| LocalError::Value {
                    name,
                    value: value.to_owned(),
                    expected: "an AS number is plain (64512) or dotted (1.10)",
                })
            })
            .transpose()?;
        let name = flag("--nodename", flags.nodename.as_deref())
            .or_else(|| self.variable("NODENAME"))
            .or_else(|| self.node_key("name"))
            .or_else(|| self.felix("FelixHostname"))
            .map(|(_, value)| value.to_owned());
        let yes = |name: &str| {
            self.env.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1")
        };
        Ok(NodeConfig {
            name,
            hostname: self.env.get("HOSTNAME").map(str::to_owned),
            ip,
            ip6,
            as_number,
            cluster_type: self.env.get("CLUSTER_TYPE").map(str::to_owned),
            skip_address_check: yes("DISABLE_NODE_IP_CHECK"),
        })
    }
}

fn flag<'a>(name: &str, value: Option<&'a str>) -> Said<'a> {
    let value = value.map(str::trim).filter(|value| !value.is_empty())?;
    Some((name.to_owned(), value))
}

fn both(a: &'static str, has_a: bool, b: &'static str, has_b: bool) -> Result<(), LocalError> {
    match (has_a, has_b) {
        (true, false) => Err(LocalError::Half { present: a, missing: b }),
        (false, true) => Err(LocalError::Half { present: b, missing: a }),
        _ => Ok(()),
    }
}

/// URLs with commas between them; empty places and slashes at the end do not count.
fn parse_endpoints(name: &str, text: &str) -> Result<Vec<String>, LocalError> {
    let bad = |value: &str| LocalError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
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

/// `autodetect`, `none`, an address, or an address with the length of its prefix.
fn parse_address(name: &str, text: &str, family: Family) -> Result<AddressChoice, LocalError> {
    let bad = || LocalError::Value {
        name: name.to_owned(),
        value: text.to_owned(),
        expected: match family {
            Family::V4 => {
                "it takes an IPv4 address (172.18.18.101 or 172.18.18.101/24), autodetect or none"
            }
            Family::V6 => {
                "it takes an IPv6 address (fd00::101 or fd00::101/64), autodetect or none"
            }
        },
    };
    match text.to_ascii_lowercase().as_str() {
        "autodetect" => return Ok(AddressChoice::Detect),
        "none" => return Ok(AddressChoice::Absent),
        _ => {}
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address = match family {
        Family::V4 => IpAddr::V4(address.parse::<Ipv4Addr>().map_err(|_| bad())?),
        Family::V6 => IpAddr::V6(address.parse::<Ipv6Addr>().map_err(|_| bad())?),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(bad());
    }
    let prefix = prefix
        .map(|p| p.parse::<u8>().ok().filter(|p| *p > 0 && *p <= family.host_len()).ok_or_else(bad))
        .transpose()?;
    Ok(AddressChoice::Fixed(address, prefix))
}

#[cfg(test)]
mod tests;
