//! What only this host can say: how the datastore is reached, who the host is.
//!
//! These cannot come from the datastore, and a mistake in them ends the start: connecting to
//! another store or registering under another name than was meant is worse than not starting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::location::{
    self, Choice, DEFAULT_ENDPOINT, LocationError, Setting, choose, setting_in,
};
use calico_datastore::model::{AsNumber, Family};

use super::collector::CollectorConfig;
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
    /// `--datastore`.
    pub datastore: Option<String>,
}

/// What only this host can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Which datastore there is, and how it is reached.
    pub datastore: Choice,
    /// Who this host is.
    pub node: NodeConfig,
    /// How what rkt left behind is looked for.
    pub collector: CollectorConfig,
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
    /// It cannot be told where the datastore is.
    #[error(transparent)]
    Datastore(LocationError),
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
        Ok(Self {
            datastore: ask.datastore(flags)?,
            node: ask.node(flags)?,
            collector: CollectorConfig::resolve(file)?,
        })
    }

    /// The first mistake about the datastore, the first about the node and the first about the
    /// collector.
    pub fn mistakes(flags: &Flags, env: &Env, file: &FileConfig) -> [Option<LocalError>; 3] {
        let ask = Ask { env, file };
        let collector = CollectorConfig::resolve(file).err();
        [ask.datastore(flags).err(), ask.node(flags).err(), collector]
    }

    /// What differs, by its name in `agent.toml`: none of it changes while the agent runs.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (node, their_node) = (&self.node, &other.node);
        let same = [
            ("name", node.name == their_node.name),
            ("ip", node.ip == their_node.ip),
            ("ip6", node.ip6 == their_node.ip6),
            ("as_number", node.as_number == their_node.as_number),
            ("[collector]", self.collector == other.collector),
        ];
        let mut names = datastore_differences(&self.datastore, &other.datastore);
        names.extend(same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name));
        names
    }
}

fn datastore_differences(ours: &Choice, theirs: &Choice) -> Vec<&'static str> {
    let (ours, theirs) = match (ours, theirs) {
        (Choice::Etcd3(ours), Choice::Etcd3(theirs))
        | (Choice::Etcd2(ours), Choice::Etcd2(theirs)) => (ours, theirs),
        (Choice::Directory(ours), Choice::Directory(theirs)) if ours == theirs => return vec![],
        (Choice::Directory(_), Choice::Directory(_)) => return vec!["directory"],
        _ => return vec!["type"],
    };
    let same = [
        ("endpoints", ours.endpoints == theirs.endpoints),
        ("ca_cert_file", ours.ca_cert == theirs.ca_cert),
        ("cert_file", ours.cert == theirs.cert),
        ("key_file", ours.key == theirs.key),
        ("username", ours.username == theirs.username),
        ("password", ours.password == theirs.password),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
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

    fn node_key(&self, key: &str) -> Said<'a> {
        let value = self.file.node.get(key)?;
        Some((format!("[node] {key} in agent.toml"), value))
    }

    /// Asks flags, environment, Felix's parameters in it, and the file, in this order.
    fn datastore(&self, flags: &Flags) -> Result<Choice, LocalError> {
        let typed = |setting| match setting {
            Setting::Type => own(flag("--datastore", flags.datastore.as_deref())),
            Setting::Endpoints => own(flag("--etcd-endpoints", flags.etcd_endpoints.as_deref())),
            _ => None,
        };
        let variable = |name: &str| self.env.get(name).map(str::to_owned);
        let environment = |setting| setting_in(&variable, setting);
        let felix = |setting| self.felix_setting(setting);
        let file = |setting: Setting| {
            let value = self.file.datastore.get(setting.key())?;
            Some((setting.in_agent_toml(), value.clone()))
        };
        let default = [DEFAULT_ENDPOINT];
        choose(&[&typed, &environment, &felix, &file], &default).map_err(LocalError::Datastore)
    }

    fn felix_setting(&self, setting: Setting) -> Option<location::Said> {
        let name = match setting {
            Setting::Type | Setting::Directory => return None,
            Setting::Endpoints => {
                if let Some(endpoints) = self.felix("EtcdEndpoints") {
                    return own(Some(endpoints));
                }
                let (name, address) = self.felix("EtcdAddr")?;
                let scheme = self.variable("ETCD_SCHEME").or_else(|| self.felix("EtcdScheme"));
                let scheme = scheme.map_or("http", |(_, scheme)| scheme);
                return Some((name, format!("{scheme}://{address}")));
            }
            Setting::CaCert => "EtcdCaFile",
            Setting::Cert => "EtcdCertFile",
            Setting::Key => "EtcdKeyFile",
            Setting::Username => "EtcdUsername",
            Setting::Password => "EtcdPassword",
        };
        own(self.felix(name))
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

fn own(said: Said<'_>) -> Option<location::Said> {
    said.map(|(name, value)| (name, value.to_owned()))
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
