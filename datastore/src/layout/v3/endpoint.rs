//! WorkloadEndpoint and HostEndpoint.

use std::net::IpAddr;

use serde::Deserialize;

use super::error::{At, FieldError};
use super::rule::{NAMESPACE_PREFIX, SERVICE_ACCOUNT, SERVICE_ACCOUNT_PREFIX};
use super::wire::{Metadata, Object, Text, each, filled, list, name, resource};
use super::{net, port, shortened};
use crate::model::{Cidr, Family, HostEndpoint, InterfaceName, Labels, Name, WorkloadEndpoint};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadSpec<'a> {
    #[serde(borrow, default)]
    ip_networks: Option<Vec<Text<'a>>>,
    #[serde(borrow, default, rename = "ipNATs")]
    ip_nats: Option<Vec<Object<WireNat<'a>>>>,
    #[serde(borrow, default)]
    profiles: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    interface_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    mac: Option<Text<'a>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Object<port::WirePort<'a>>>>,
    #[serde(borrow, default)]
    service_account_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    allow_spoofed_source_prefixes: Option<Vec<Text<'a>>>,
}

#[derive(Debug, Deserialize)]
struct WireNat<'a> {
    #[serde(borrow, default, rename = "internalIP")]
    internal: Option<Text<'a>>,
    #[serde(borrow, default, rename = "externalIP")]
    external: Option<Text<'a>>,
}

/// An endpoint that has no addresses (yet, or any more) is no endpoint: `None`, not an error.
pub(super) fn decode_workload(value: &[u8]) -> Result<Option<WorkloadEndpoint>, FieldError> {
    let (metadata, spec) = resource::<WorkloadSpec<'_>>(value)?;
    if list(&spec.ip_networks).is_empty() {
        return Ok(None);
    }
    workload(&metadata, &spec).at("spec").map(Some)
}

fn workload(
    metadata: &Metadata<'_>,
    spec: &WorkloadSpec<'_>,
) -> Result<WorkloadEndpoint, FieldError> {
    let addresses = each("ipNetworks", &spec.ip_networks, |text| {
        net::cidr(text).and_then(|cidr| {
            if cidr.is_host() {
                Ok(cidr)
            } else {
                Err(FieldError::new(format_args!("{cidr} is more than one address")))
            }
        })
    })?;
    let interface = filled(&spec.interface_name).unwrap_or_default();
    Ok(WorkloadEndpoint {
        interface: interface.parse().map_err(|e| FieldError::of("interfaceName", e))?,
        active: true,
        mac: filled(&spec.mac)
            .map(|mac| mac.parse().map_err(|e| FieldError::of("mac", e)))
            .transpose()?,
        nat: each("ipNATs", &spec.ip_nats, |wire| nat(wire, &addresses))?,
        addresses,
        spoof: each("allowSpoofedSourcePrefixes", &spec.allow_spoofed_source_prefixes, net::cidr)?,
        profiles: each("profiles", &spec.profiles, |text| name(text))?,
        labels: workload_labels(metadata, spec),
        ports: port::named_ports(&spec.ports)?,
    })
}

/// Labels that would pass for those of a namespace or a service account are not the endpoint's to
/// give: whoever may write an endpoint could put it anywhere.
fn workload_labels(metadata: &Metadata<'_>, spec: &WorkloadSpec<'_>) -> Labels {
    let honest = |(key, _): &(&str, &str)| {
        !key.starts_with(NAMESPACE_PREFIX) && !key.starts_with(SERVICE_ACCOUNT_PREFIX)
    };
    let account = filled(&spec.service_account_name).map(|account| (SERVICE_ACCOUNT, account));
    metadata.labels().filter(honest).chain(account).collect()
}

fn nat(wire: &WireNat<'_>, addresses: &[Cidr]) -> Result<(IpAddr, IpAddr), FieldError> {
    let missing = |field| FieldError::of(field, "is missing");
    let internal = wire.internal.as_ref().ok_or_else(|| missing("internalIP"))?;
    let external = wire.external.as_ref().ok_or_else(|| missing("externalIP"))?;
    let (internal, external) =
        (net::address(internal).at("internalIP")?, net::address(external).at("externalIP")?);
    if Family::of(internal) != Family::of(external) {
        return Err(FieldError::of("externalIP", "is of another family than internalIP"));
    }
    if !addresses.iter().any(|cidr| cidr.contains(internal)) {
        let reason = format_args!("{internal} is not an address of the endpoint");
        return Err(FieldError::of("internalIP", reason));
    }
    Ok((internal, external))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HostSpec<'a> {
    #[serde(borrow, default)]
    node: Option<Text<'a>>,
    #[serde(borrow, default)]
    interface_name: Option<Text<'a>>,
    #[serde(borrow, default, rename = "expectedIPs")]
    expected_ips: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    profiles: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Object<port::WirePort<'a>>>>,
}

pub(super) fn decode_host(value: &[u8]) -> Result<HostEndpoint, FieldError> {
    let (metadata, spec) = resource::<HostSpec<'_>>(value)?;
    let mut endpoint = host(&metadata, &spec).at("spec")?;
    endpoint.left_out = endpoint.left_out.map(|what| format!("spec.{what}"));
    Ok(endpoint)
}

fn host(metadata: &Metadata<'_>, spec: &HostSpec<'_>) -> Result<HostEndpoint, FieldError> {
    let (expected_addresses, unread) = expected("expectedIPs", &spec.expected_ips);
    let interface = filled(&spec.interface_name).map(host_interface).transpose()?;
    if interface.is_none() && expected_addresses.is_empty() {
        let missing =
            || FieldError::of("interfaceName", "is missing, and there are no expectedIPs");
        return Err(unread.into_iter().next().unwrap_or_else(missing));
    }
    Ok(HostEndpoint {
        node: name(filled(&spec.node).unwrap_or_default()).at("node")?,
        interface,
        expected_addresses,
        left_out: left_out(unread),
        profiles: each("profiles", &spec.profiles, |text| name(text))?,
        labels: metadata.to_labels(),
        ports: port::named_ports(&spec.ports)?,
    })
}

/// The addresses of a host endpoint, and what is none of them. As in the original of this layout the others
/// count without it: a host endpoint that is refused as a whole leaves open what it is to close.
pub(in crate::layout) fn expected(
    field: &str,
    texts: &Option<Vec<Text<'_>>>,
) -> (Vec<IpAddr>, Vec<FieldError>) {
    let (mut addresses, mut unread) = (Vec::new(), Vec::new());
    for (i, text) in list(texts).iter().enumerate() {
        match net::address(text).at_index(field, i) {
            Ok(address) => addresses.push(address),
            Err(error) => unread.push(error),
        }
    }
    (addresses, unread)
}

/// The first one by its field, and how many there are beside it.
pub(in crate::layout) fn left_out(unread: Vec<FieldError>) -> Option<String> {
    let more = unread.len().saturating_sub(1);
    let first = unread.into_iter().next()?.to_string();
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    Some(shortened(first) + &more)
}

/// `*` means every interface of the host.
fn host_interface(text: &str) -> Result<Name, FieldError> {
    if text != "*" {
        let checked: Result<InterfaceName, _> = text.parse();
        checked.map_err(|e| FieldError::of("interfaceName", e))?;
    }
    Ok(Name::from(text))
}
