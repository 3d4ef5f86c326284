//! The objects that decide, read from their JSON.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::net::Net;
use super::rule::{ACCOUNT, NAMESPACE, Rule, account_selector, both, list, protocol, text};
use super::selector::{Labels, Selector};

/// As seen from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
}

/// A pod's interface, or a host's.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// A pod's: only those are policed.
    pub is_workload: bool,
    /// Its own labels, those of its profiles not among them.
    pub labels: Labels,
    /// What it may send from and is reached at.
    pub addresses: Vec<IpAddr>,
    /// Its profiles in order.
    pub profiles: Vec<String>,
    /// Name, protocol and number of its ports.
    pub ports: Vec<(String, u8, u16)>,
}

impl Endpoint {
    /// Reads an endpoint. One without addresses is none.
    ///
    /// # Errors
    /// When name or value are malformed.
    pub(super) fn parse(json: &Value, namespace: &str, name: &str) -> Result<Option<Self>> {
        let segments = segments(name);
        ensure!(segments.len() == 4, "{} segments in {name:?}", segments.len());
        let spec = &json["spec"];
        let mut labels = labels(&json["metadata"]["labels"])?;
        labels.retain(|key, _| !key.starts_with("pcns.") && !key.starts_with("pcsa."));
        labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
        if let Some(account) = text(&spec["serviceAccountName"])? {
            labels.insert(ACCOUNT.to_owned(), account.to_owned());
        }
        let address = |net: &Value| -> Result<IpAddr> {
            Ok(Net::parse(net.as_str().context("an address")?)?.base())
        };
        let addresses: Vec<IpAddr> =
            list(&spec["ipNetworks"])?.iter().map(address).collect::<Result<_>>()?;
        let (ports, profiles) = (ports(&spec["ports"])?, names(&spec["profiles"])?);
        let endpoint = Self { is_workload: true, labels, addresses, profiles, ports };
        Ok((!endpoint.addresses.is_empty()).then_some(endpoint))
    }

    /// Reads a host's interface: nothing is enforced there, but rules may speak of it.
    ///
    /// # Errors
    /// When the value is malformed.
    pub(super) fn parse_host(json: &Value) -> Result<Self> {
        let spec = &json["spec"];
        let address = |ip: &Value| Ok(ip.as_str().context("an address")?.parse::<IpAddr>()?);
        Ok(Self {
            is_workload: false,
            labels: labels(&json["metadata"]["labels"])?,
            addresses: list(&spec["expectedIPs"])?.iter().map(address).collect::<Result<_>>()?,
            profiles: names(&spec["profiles"])?,
            ports: ports(&spec["ports"])?,
        })
    }
}

fn ports(json: &Value) -> Result<Vec<(String, u8, u16)>> {
    let mut all = Vec::new();
    for port in list(json)? {
        if let Some(name) = text(&port["name"])? {
            let number = port["port"].as_u64().context("a port")?;
            let protocol = protocol(&port["protocol"])?.context("a port's protocol")?;
            all.push((name.to_owned(), protocol, u16::try_from(number)?));
        }
    }
    Ok(all)
}

/// The parts of an endpoint's name: a dash separates, two stand for one.
fn segments(name: &str) -> Vec<String> {
    name.replace("--", "\0").split('-').map(|part| part.replace('\0', "-")).collect()
}

/// A set of ranges.
#[derive(Clone, Debug)]
pub struct NetworkSet {
    /// Its own labels.
    pub labels: Labels,
    /// The profile of its namespace.
    pub profiles: Vec<String>,
    /// The ranges.
    pub nets: Vec<Net>,
}

impl NetworkSet {
    pub(super) fn parse(json: &Value, namespace: Option<&str>) -> Result<Self> {
        let mut labels = labels(&json["metadata"]["labels"])?;
        if let Some(namespace) = namespace {
            labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
        }
        let net = |net: &Value| Net::parse(net.as_str().context("a range")?);
        let nets = list(&json["spec"]["nets"])?.iter().map(net).collect::<Result<_>>()?;
        let profiles = namespace.map(|namespace| format!("kns.{namespace}")).into_iter().collect();
        Ok(Self { labels, profiles, nets })
    }
}

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What its endpoints inherit.
    pub labels: Labels,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

impl Profile {
    pub(super) fn parse(json: &Value) -> Result<Self> {
        let spec = &json["spec"];
        Ok(Self {
            labels: labels(&spec["labelsToApply"])?,
            ingress: rules(&spec["ingress"], None)?,
            egress: rules(&spec["egress"], None)?,
        })
    }

    /// `projectcalico-default-allow`.
    pub(super) fn allow_all() -> Self {
        let rule = serde_json::json!([{ "action": "Allow" }]);
        let rules = || rules(&rule, None).unwrap_or_default();
        Self { labels: Labels::new(), ingress: rules(), egress: rules() }
    }

    pub(super) fn rules(&self, direction: Direction) -> &[Rule] {
        if direction == Direction::Ingress { &self.ingress } else { &self.egress }
    }
}

/// A tier.
#[derive(Clone, Debug)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Its place; `None` is last.
    pub order: Option<f64>,
    /// What its policies do not decide goes on.
    pub passes: bool,
    /// Policies name it and it is not there: after all that are.
    pub is_missing: bool,
}

impl Tier {
    pub(super) fn parse(json: &Value, name: &str) -> Result<Self> {
        let spec = &json["spec"];
        let passes = text(&spec["defaultAction"])? == Some("Pass");
        Ok(Self { name: name.to_owned(), order: order(&spec["order"])?, passes, is_missing: false })
    }

    /// A tier that policies name and that is not there.
    pub(super) fn missing(name: &str) -> Self {
        Self { name: name.to_owned(), order: None, passes: false, is_missing: true }
    }
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name` or `name`; decides between equal orders.
    pub id: String,
    /// Its name without namespace.
    pub name: String,
    /// The tier it names: in its spec, else by its label.
    pub tier: Option<String>,
    /// It names it in its spec.
    pub in_spec: bool,
    /// Its place in the tier; `None` is last.
    pub order: Option<f64>,
    /// Which endpoints, namespace and service accounts included.
    pub selector: Selector,
    /// For host endpoints only.
    for_hosts: bool,
    types: Vec<Direction>,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

impl Policy {
    pub(super) fn parse(json: &Value, namespace: Option<&str>, name: &str) -> Result<Self> {
        let (metadata, spec) = (&json["metadata"], &json["spec"]);
        let label = &metadata["labels"]["projectcalico.org/tier"];
        let in_spec = text(&spec["tier"])?;
        let tier = in_spec.or(text(label)?).map(str::to_owned);
        let own = text(&spec["selector"])?.map(Selector::parse).transpose()?;
        let accounts = text(&spec["serviceAccountSelector"])?.map(account_selector).transpose()?;
        let selector = if let Some(namespace) = namespace {
            both(both(own, accounts), Some(Selector::equal(NAMESPACE, namespace)))
        } else {
            let namespaces = text(&spec["namespaceSelector"])?.map(Selector::parse).transpose()?;
            let namespaces = namespaces.map(|given| given.prefixed("pcns."));
            narrowed(narrowed(own, namespaces, NAMESPACE), accounts, ACCOUNT)
        };
        let types = names(&spec["types"])?;
        let types = types.iter().map(|name| match name.to_ascii_lowercase().as_str() {
            "ingress" => Ok(Direction::Ingress),
            "egress" => Ok(Direction::Egress),
            other => Err(anyhow::anyhow!("type {other:?}")),
        });
        let flag = |name: &str| spec[name].as_bool().unwrap_or(false);
        let id = namespace.map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"));
        Ok(Self {
            id,
            name: name.to_owned(),
            tier,
            in_spec: in_spec.is_some(),
            order: order(&spec["order"])?,
            selector: selector.unwrap_or(Selector::All),
            for_hosts: flag("doNotTrack") || flag("preDNAT"),
            types: types.collect::<Result<_>>()?,
            ingress: rules(&spec["ingress"], namespace)?,
            egress: rules(&spec["egress"], namespace)?,
        })
    }

    /// True when it has a say over this direction of workload endpoints.
    pub fn governs(&self, direction: Direction) -> bool {
        !self.for_hosts && (self.types.is_empty() || self.types.contains(&direction))
    }

    pub(super) fn rules(&self, direction: Direction) -> &[Rule] {
        if direction == Direction::Ingress { &self.ingress } else { &self.egress }
    }
}

/// Both of two selectors. With the second there is, `all()` in either means "has this label": the
/// original replaces it in the text of the two together.
fn narrowed(first: Option<Selector>, more: Option<Selector>, label: &str) -> Option<Selector> {
    if more.is_none() {
        return first;
    }
    let has = Selector::Has(label.to_owned());
    both(first, more).map(|selector| selector.replacing(&has, &Selector::Global))
}

fn rules(json: &Value, namespace: Option<&str>) -> Result<Vec<Rule>> {
    list(json)?.iter().map(|rule| Rule::parse(rule, namespace)).collect()
}

fn order(json: &Value) -> Result<Option<f64>> {
    if json.is_null() { Ok(None) } else { json.as_f64().map(Some).context("an order") }
}

fn names(json: &Value) -> Result<Vec<String>> {
    let name = |name: &Value| Ok(name.as_str().context("a name")?.to_owned());
    list(json)?.iter().map(name).collect()
}

fn labels(json: &Value) -> Result<Labels> {
    let Some(map) = json.as_object() else {
        ensure!(json.is_null(), "labels are no object");
        return Ok(Labels::new());
    };
    let label = |(key, value): (&String, &Value)| {
        Ok((key.clone(), value.as_str().context("a label's value")?.to_owned()))
    };
    map.iter().map(label).collect()
}
