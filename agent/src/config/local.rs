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
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

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
mod tests {
    use super::*;

    fn local<const N: usize>(env: [(&str, &str); N], file: &str) -> Result<Local, LocalError> {
        let file = FileConfig::parse(file).unwrap();
        Local::resolve(&Flags::default(), &Env::from(env), &file)
    }

    #[test]
    fn the_ways_to_say_where_etcd_is() {
        let file = "[datastore]\nendpoints = [\"http://file:2379\"]";
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (&[], "", &["http://127.0.0.1:2379"]),
            (&[], file, &["http://file:2379"]),
            (
                &[("ETCD_ENDPOINTS", "http://a:1/, https://b:2,")],
                file,
                &["http://a:1", "https://b:2"],
            ),
            (&[("ETCD_AUTHORITY", "a:1")], file, &["http://a:1"]),
            (&[("ETCD_AUTHORITY", "a:1"), ("ETCD_SCHEME", "https")], "", &["https://a:1"]),
            (&[("ETCD_AUTHORITY", "a:1"), ("ETCD_ENDPOINTS", "http://b:2")], "", &["http://b:2"]),
            (&[("FELIX_ETCDADDR", "a:1"), ("FELIX_EtcdScheme", "https")], "", &["https://a:1"]),
            (
                &[("felix_etcdendpoints", "http://a:1"), ("ETCD_ENDPOINTS", "")],
                file,
                &["http://a:1"],
            ),
            (&[("ETCD_ENDPOINTS", "http://[::1]:2379")], "", &["http://[::1]:2379"]),
        ];
        for (env, file, endpoints) in cases {
            let env: Env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let file = FileConfig::parse(file).unwrap();
            let local = Local::resolve(&Flags::default(), &env, &file).unwrap();
            assert_eq!(local.datastore.endpoints, *endpoints, "{env:?}");
        }
        let flags = Flags { etcd_endpoints: Some("http://flag:1".to_owned()), ..Flags::default() };
        let env = Env::from([("ETCD_ENDPOINTS", "http://env:1")]);
        let local = Local::resolve(&flags, &env, &FileConfig::default()).unwrap();
        assert_eq!(local.datastore.endpoints, ["http://flag:1"]);
    }

    #[test]
    fn a_bad_endpoint_is_named_with_its_source() {
        for bad in
            ["etcd:2379", "ftp://a:1", "http://", "http://:1", "http://a/b", ",", "http://u@a:1"]
        {
            let error = local([("ETCD_ENDPOINTS", bad)], "").unwrap_err();
            assert!(error.to_string().starts_with("ETCD_ENDPOINTS is"), "{error}");
        }
    }

    #[test]
    fn half_of_a_pair_and_certificates_without_tls_are_refused() {
        let error = local([("ETCD_CERT_FILE", "/c")], "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "ETCD_CERT_FILE is set and ETCD_KEY_FILE is not: both are needed"
        );
        assert!(local([("ETCD_PASSWORD", "x")], "").is_err());
        let error = local([("ETCD_CA_CERT_FILE", "/ca")], "").unwrap_err();
        assert!(matches!(error, LocalError::PlainText(_)), "{error}");
        let tls = [("ETCD_CA_CERT_FILE", "/ca"), ("ETCD_ENDPOINTS", "https://a:1")];
        let config = local(tls, "[datastore]\ncert_file='/c'\nkey_file='/k'").unwrap().datastore;
        assert_eq!((config.ca, config.cert), (Some("/ca".into()), Some("/c".into())));
    }

    #[test]
    fn no_secret_is_shown() {
        let pair = [("ETCD_USERNAME", "felix"), ("ETCD_PASSWORD", "hunter2")];
        let local = local(pair, "").unwrap();
        assert_eq!(local.datastore.password.as_ref().unwrap().reveal(), "hunter2");
        let file = FileConfig::parse("[datastore]\npassword='hunter2'").unwrap();
        let shown = format!("{local:?} {:?} {file:?}", Env::from(pair));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn addresses() {
        use AddressChoice::{Absent, Detect, Fixed, Stored};
        let v4 = IpAddr::from([172, 18, 18, 101]);
        for (text, expected) in [
            ("172.18.18.101", Some(Fixed(v4, None))),
            ("172.18.18.101/24", Some(Fixed(v4, Some(24)))),
            ("autodetect", Some(Detect)),
            ("None", Some(Absent)),
            (" ", Some(Stored)),
            ("172.18.18.101/33", None),
            ("172.18.18.101/0", None),
            ("fd00::1", None),
            ("0.0.0.0", None),
            ("127.0.0.1", None),
            ("calico-01", None),
        ] {
            let ip = local([("IP", text)], "").map(|local| local.node.ip).ok();
            assert_eq!(ip, expected, "{text}");
        }
        assert!(local([("IP6", "fd00::1/64")], "").is_ok());
        assert!(local([("IP6", "10.0.0.1")], "").is_err());
        let error = local([], "[node]\nip = '10.0.0'").unwrap_err();
        assert!(error.to_string().contains("[node] ip in agent.toml"), "{error}");
    }

    #[test]
    fn as_numbers_and_the_address_check() {
        let node = |env: [(&str, &str); 2]| local(env, "[node]\nas_number = 64520").map(|l| l.node);
        let set = node([("AS", "1.10"), ("DISABLE_NODE_IP_CHECK", "true")]).unwrap();
        assert_eq!((set.as_number, set.skip_address_check), (Some(AsNumber(65546)), true));
        let unset = node([("AS", ""), ("DISABLE_NODE_IP_CHECK", "")]).unwrap();
        assert_eq!((unset.as_number, unset.skip_address_check), (Some(AsNumber(64520)), false));
        assert!(node([("AS", "many"), ("X", "")]).is_err());
    }
}
