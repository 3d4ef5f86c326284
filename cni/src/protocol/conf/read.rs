//! Reading a configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use calico_datastore::location::without_credentials;
use calico_datastore::model::{Cidr, Family, Mac};
use serde_json::{Map, Value};

use super::{CALICO_IPAM, IpamConf, NetConf, PortMapping, RuntimeConfig};
use crate::protocol::invocation::{IDENTIFIER, is_identifier};
use crate::protocol::object::{Field, InvalidField, Object, kind};
use crate::protocol::result::json::read_dns;
use crate::protocol::{CniError, Code, Dns, Success, Version, address};

/// Bytes. No IPv4 packet needs to fit into less; no veth has more.
const MTUS: (u64, u64) = (68, 65_535);

/// Seconds.
const LONGEST_WAIT: u64 = 3_600;

impl NetConf {
    /// Reads a configuration. Unknown keys are ignored, and `null` is as good as absent.
    ///
    /// # Errors
    /// * 1: the version is none of ours; they are named;
    /// * 2: a key asks for what this plugin does not do;
    /// * 6: the text is no JSON; line and column are named;
    /// * 7: a value is of the wrong type or cannot be; the key is named.
    pub fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        let document = document(stdin)?;
        let root = Object::root(&document);
        let version = version(&root)?;
        let mut conf = Self { version, name: name(&root)?, ..Self::default() };
        conf.kind = root.string("type")?.unwrap_or_default();
        conf.mtu = mtu(&root)?;
        conf.nodename = match root.string("nodename")? {
            None => root.string("hostname")?,
            some => some,
        };
        let path = |key| Ok::<_, InvalidField>(root.text(key)?.map(PathBuf::from));
        conf.nodename_file = path("nodename_file")?;
        conf.config_dir = path("config_dir")?;
        conf.run_dir = path("run_dir")?;
        conf.state_dir = path("state_dir")?;
        conf.endpoint_status_dir = path("endpoint_status_dir")?;
        conf.policy_timeout =
            root.number("policy_setup_timeout_seconds", 0, LONGEST_WAIT)?.map(Duration::from_secs);
        conf.gateway = root.parsed("gateway", "\"host\" or \"link-local\"", |text| {
            matches!(text, "host" | "link-local").then(|| text.to_owned())
        })?;
        conf.read_datastore(&root)?;
        let runtime = root.object("runtimeConfig")?;
        conf.labels = labels(&root)?;
        conf.ips = ips(&root, runtime.as_ref())?;
        conf.dns = dns(&root, runtime.as_ref())?;
        conf.runtime = runtime.as_ref().map(runtime_config).transpose()?.unwrap_or_default();
        conf.ipam = ipam(&root, &conf.kind)?;
        conf.previous =
            root.get("prevResult").and_then(|field| Success::from_previous(field.value).ok());
        conf.valid_attachments = valid_attachments(&document)?;
        conf.document = document;
        Ok(conf)
    }

    pub(super) fn read_datastore(&mut self, root: &Object<'_>) -> Result<(), CniError> {
        let path = |key| Ok::<_, InvalidField>(root.text(key)?.map(PathBuf::from));
        self.datastore = datastore(root)?;
        self.etcd_endpoints = etcd_endpoints(root)?;
        self.etcd_ca = path("etcd_ca_cert_file")?;
        self.etcd_cert = path("etcd_cert_file")?;
        self.etcd_key = path("etcd_key_file")?;
        self.etcd_username = root.string("etcd_username")?;
        self.etcd_password = root.string("etcd_password")?;
        Ok(())
    }

    /// What VERSION needs, which is answered whatever else stands there: who asks wants to know
    /// how to write it.
    pub(in crate::protocol) fn of_version(stdin: &[u8]) -> Self {
        let document = document(stdin).unwrap_or_default();
        Self { version: Version::of_input(stdin), document, ..Self::default() }
    }
}

pub(super) fn document(stdin: &[u8]) -> Result<Map<String, Value>, CniError> {
    let bad = |msg: &str, details: String| CniError::new(Code::Decode, msg, details);
    if stdin.trim_ascii().is_empty() {
        let details = "a network configuration is expected there".to_owned();
        return Err(bad("standard input is empty", details));
    }
    match serde_json::from_slice(stdin) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(other) => Err(bad(
            "the network configuration is not an object",
            format!("it is {}", kind(&other)),
        )),
        // The message ends with line and column.
        Err(error) => Err(bad("the network configuration is not JSON", error.to_string())),
    }
}

pub(super) fn version(root: &Object<'_>) -> Result<Version, CniError> {
    let Some(text) = root.text("cniVersion")? else { return Ok(Version::default()) };
    text.parse().map_err(|_| {
        CniError::new(
            Code::IncompatibleVersion,
            format!("cniVersion {text:?} is not supported"),
            format!("supported are {}", Version::list()),
        )
    })
}

pub(super) fn name(root: &Object<'_>) -> Result<String, CniError> {
    let Some(name) = root.string("name")? else {
        let details = "a network has a name; its default profile has the same";
        return Err(CniError::new(Code::InvalidConfig, "\"name\" is missing or empty", details));
    };
    if is_identifier(&name) {
        return Ok(name);
    }
    Err(InvalidField::content("name", IDENTIFIER, format_args!("{name:?}")).into())
}

fn mtu(root: &Object<'_>) -> Result<Option<u32>, InvalidField> {
    let (least, most) = MTUS;
    let Some(mtu) = root.number("mtu", 0, most)?.filter(|mtu| *mtu != 0) else { return Ok(None) };
    if mtu < least {
        let expected = format!("a number from {least} to {most}, or 0");
        return Err(InvalidField::content("mtu", &expected, mtu));
    }
    Ok(u32::try_from(mtu).ok())
}

fn datastore(root: &Object<'_>) -> Result<Option<String>, CniError> {
    let expected = "\"etcd\", \"directory\" or \"dir:/path\"";
    let datastore = root.parsed("datastore", expected, |text| {
        let known = matches!(text, "etcd" | "directory") || text.starts_with("dir:/");
        known.then(|| text.to_owned())
    })?;
    let kind = root.text("datastore_type")?;
    let is_directory = datastore.as_ref().map(|datastore| datastore != "etcd");
    match (kind, is_directory) {
        (None, _) | (Some("etcdv3"), Some(false)) | (Some("directory"), Some(true)) => {
            Ok(datastore)
        }
        (Some("etcdv3"), None) => Ok(Some("etcd".to_owned())),
        (Some("directory"), None) => Ok(Some("directory".to_owned())),
        (Some(kind @ ("etcdv3" | "directory")), _) => Err(CniError::new(
            Code::InvalidConfig,
            format!("\"datastore_type\" is {kind:?}, but \"datastore\" says otherwise"),
            "leave one of the two away",
        )),
        (Some(kind), _) => Err(CniError::new(
            Code::InvalidConfig,
            format!("\"datastore_type\" {kind:?} is not supported"),
            "this plugin keeps its data in \"etcdv3\" or in a \"directory\"",
        )),
    }
}

fn etcd_endpoints(root: &Object<'_>) -> Result<Vec<String>, CniError> {
    let is_url = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
    };
    let urls = root.list("etcd_endpoints")?;
    if let Some(url) = urls.iter().find(|url| !is_url(url)) {
        let expected = "a list of http://host:port or https://host:port";
        let found = format_args!("{:?}", without_credentials(url));
        return Err(InvalidField::content("etcd_endpoints", expected, found).into());
    }
    let scheme = root.parsed("etcd_scheme", "\"http\" or \"https\"", |text| {
        matches!(text, "http" | "https").then_some(text.to_owned())
    })?;
    let authorities = root.list("etcd_authority")?;
    if !urls.is_empty() {
        return Ok(urls);
    }
    if let Some(name) = root.text("etcd_discovery_srv")? {
        return Err(CniError::new(
            Code::UnsupportedField,
            format!("\"etcd_discovery_srv\": {name:?} is not supported"),
            "name the members in \"etcd_endpoints\"",
        ));
    }
    let scheme = scheme.as_deref().unwrap_or("http");
    let urls: Vec<_> = authorities.iter().map(|host| format!("{scheme}://{host}")).collect();
    match authorities.iter().find(|host| host.contains("://") || host.contains(char::is_whitespace))
    {
        None => Ok(urls),
        Some(host) => {
            let found = format_args!("{:?}", without_credentials(host));
            Err(InvalidField::content("etcd_authority", "host:port", found).into())
        }
    }
}

/// The runtime's, and over them the network's own.
fn labels(root: &Object<'_>) -> Result<BTreeMap<String, String>, InvalidField> {
    let mut labels = BTreeMap::new();
    if let Some(args) = root.object("args")? {
        if let Some(info) = args.object("org.apache.mesos")?.map(|m| m.object("network_info"))
            && let Some(info) = info?
            && let Some(outer) = info.object("labels")?
            && let Some(list) = outer.get("labels")
        {
            pairs(&list, &mut labels)?;
        }
        if let Some(cni) = args.object("cni")?
            && let Some(list) = cni.get("labels")
        {
            pairs(&list, &mut labels)?;
        }
    }
    if let Some(own) = root.get("labels") {
        pairs(&own, &mut labels)?;
    }
    Ok(labels)
}

/// `{"<key>": "<value>"}`, or `[{"key": …, "value": …}]`.
fn pairs(field: &Field<'_>, into: &mut BTreeMap<String, String>) -> Result<(), InvalidField> {
    if let Value::Object(map) = field.value {
        let object = field.object()?;
        for key in map.keys() {
            let value = object.string(key)?.unwrap_or_default();
            into.insert(key.clone(), value);
        }
        return Ok(());
    }
    for item in field.items()? {
        let pair = item.object()?;
        let key = pair.string("key")?;
        let missing = || InvalidField::content(&pair.path("key"), "a name", "absent or empty");
        into.insert(key.ok_or_else(missing)?, pair.string("value")?.unwrap_or_default());
    }
    Ok(())
}

fn ips(root: &Object<'_>, runtime: Option<&Object<'_>>) -> Result<Vec<IpAddr>, InvalidField> {
    let of_runtime = runtime.map_or(Ok(vec![]), |runtime| addresses(runtime, "ips"))?;
    let cni = root.object("args")?.map_or(Ok(None), |args| args.object("cni"))?;
    let of_args = cni.map_or(Ok(vec![]), |cni| addresses(&cni, "ips"))?;
    Ok(if of_runtime.is_empty() { of_args } else { of_runtime })
}

/// A length says nothing: a pod's addresses are /32 or /128.
fn addresses(object: &Object<'_>, key: &str) -> Result<Vec<IpAddr>, InvalidField> {
    let mut ips = vec![];
    for item in object.items(key)? {
        let text = item.text()?;
        let (ip, _) = address::parse(text).ok_or_else(|| {
            InvalidField::content(&item.path, "an address", format_args!("{text:?}"))
        })?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

fn dns(root: &Object<'_>, runtime: Option<&Object<'_>>) -> Result<Dns, InvalidField> {
    let mut dns = read_dns(root)?;
    let Some(runtime) = runtime.map_or(Ok(None), |runtime| runtime.object("dns"))? else {
        return Ok(dns);
    };
    // The convention has other names for the same things.
    let lists = [
        ("servers", &mut dns.nameservers),
        ("searches", &mut dns.search),
        ("options", &mut dns.options),
    ];
    for (key, list) in lists {
        let items = runtime.strings(key)?;
        if !items.is_empty() {
            *list = items;
        }
    }
    if let Some(domain) = runtime.string("domain")? {
        dns.domain = Some(domain);
    }
    Ok(dns)
}

fn runtime_config(runtime: &Object<'_>) -> Result<RuntimeConfig, InvalidField> {
    let mac = runtime.parsed("mac", "an Ethernet address", |text| {
        text.parse::<Mac>().is_ok().then(|| text.to_owned())
    })?;
    let mut port_mappings = vec![];
    for item in runtime.items("portMappings")? {
        let item = item.object()?;
        let port = |key, least| {
            let port = item.number(key, least, u64::from(u16::MAX))?;
            Ok::<_, InvalidField>(port.and_then(|port| u16::try_from(port).ok()))
        };
        let missing = || InvalidField::content(&item.path("containerPort"), "a port", "absent");
        port_mappings.push(PortMapping {
            host_port: port("hostPort", 0)?.unwrap_or(0),
            container_port: port("containerPort", 1)?.ok_or_else(missing)?,
            protocol: item
                .parsed("protocol", "\"tcp\", \"udp\" or \"sctp\"", |text| {
                    let text = text.to_ascii_lowercase();
                    matches!(text.as_str(), "tcp" | "udp" | "sctp").then_some(text)
                })?
                .unwrap_or_else(|| "tcp".to_owned()),
            host_ip: item.parsed("hostIP", "an address", |text| text.parse().ok())?,
        });
    }
    Ok(RuntimeConfig { port_mappings, mac })
}

pub(super) fn ipam(root: &Object<'_>, plugin: &str) -> Result<IpamConf, CniError> {
    let ours = IpamConf { kind: CALICO_IPAM.to_owned(), ..IpamConf::default() };
    let Some(ipam) = root.object("ipam")? else { return Ok(ours) };
    let kind = ipam.parsed("type", "the name of a plugin", |text| {
        (!text.contains(['/', '\\', '\0']) && text != "." && text != "..").then(|| text.to_owned())
    })?;
    let kind = kind.unwrap_or_else(|| CALICO_IPAM.to_owned());
    if kind != CALICO_IPAM {
        // It would start itself, and so on without an end.
        if kind == plugin || kind == "calico" {
            let expected = "a plugin for address management";
            let found = format_args!("{kind:?}, which is this plugin");
            return Err(InvalidField::content("ipam.type", expected, found).into());
        }
        return Ok(IpamConf { kind, ..IpamConf::default() });
    }
    Ok(IpamConf {
        subnet: ipam.parsed("subnet", "a CIDR", |text| {
            (text.contains('/') && text.parse::<Cidr>().is_ok()).then(|| text.to_owned())
        })?,
        assign_ipv4: ipam.flag("assign_ipv4")?,
        assign_ipv6: ipam.flag("assign_ipv6")?,
        ipv4_pools: pools(&ipam, "ipv4_pools", Family::V4)?,
        ipv6_pools: pools(&ipam, "ipv6_pools", Family::V6)?,
        ..ours
    })
}

/// Names or CIDRs of a family.
fn pools(ipam: &Object<'_>, key: &str, family: Family) -> Result<Vec<String>, InvalidField> {
    let pools = ipam.list(key)?;
    let fits = |pool: &&String| match pool.parse::<Cidr>() {
        Ok(cidr) => cidr.family() == family,
        Err(_) => !pool.contains('/'),
    };
    match pools.iter().find(|pool| !fits(pool)) {
        None => Ok(pools),
        Some(pool) => {
            let expected = format!("a list of names or CIDRs of {family} pools");
            Err(InvalidField::content(&ipam.path(key), &expected, format_args!("{pool:?}")))
        }
    }
}

/// The specification's text once had another name for it than its library has.
fn valid_attachments(
    document: &Map<String, Value>,
) -> Result<Option<Vec<(String, String)>>, InvalidField> {
    let names = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    let Some((name, value)) = names.iter().find_map(|name| Some((*name, document.get(*name)?)))
    else {
        return Ok(None);
    };
    if value.is_null() {
        return Ok(Some(vec![]));
    }
    let mut attachments = vec![];
    // Each must be understood: what is not on the list is removed.
    let Value::Array(items) = value else {
        return Err(InvalidField::content(name, "a list", kind(value)));
    };
    for (i, value) in items.iter().enumerate() {
        let item = Field { value, path: format!("{name}[{i}]") }.object()?;
        let field = |key| {
            let missing = || InvalidField::content(&item.path(key), "a name", "absent or empty");
            item.string(key)?.ok_or_else(missing)
        };
        attachments.push((field("containerID")?, field("ifname")?));
    }
    Ok(Some(attachments))
}
