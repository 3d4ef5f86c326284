//! Workload endpoints and host endpoints.

use std::net::IpAddr;

use serde::Deserialize;

use super::keys::check_name;
use super::v3::endpoint::{expected, left_out};
use super::v3::error::{At, FieldError};
use super::v3::wire::{Object, Pairs, Text, each, filled, read};
use super::v3::{net, port};
use crate::model::{
    Cidr, Family, HostEndpoint, InterfaceName, Labels, Name, Profile, WorkloadEndpoint,
};

#[derive(Debug, Deserialize)]
struct WireWorkload<'a> {
    #[serde(borrow, default)]
    state: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    mac: Option<Text<'a>>,
    #[serde(borrow, default)]
    profile_ids: Option<Vec<Text<'a>>>,
    /// Before `profile_ids` there was this.
    #[serde(borrow, default)]
    profile_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipv4_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    ipv6_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    ipv4_nat: Option<Vec<Object<WireNat<'a>>>>,
    #[serde(borrow, default)]
    ipv6_nat: Option<Vec<Object<WireNat<'a>>>>,
    #[serde(borrow, default)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Object<port::WirePort<'a>>>>,
}

#[derive(Debug, Deserialize)]
struct WireNat<'a> {
    #[serde(borrow, default)]
    int_ip: Option<Text<'a>>,
    #[serde(borrow, default)]
    ext_ip: Option<Text<'a>>,
}

/// An endpoint that has no addresses (yet, or any more) is no endpoint: `None`, not an error.
pub(super) fn decode_workload(value: &[u8]) -> Result<Option<WorkloadEndpoint>, FieldError> {
    let Some(wire) = read::<WireWorkload<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    let mut addresses = nets("ipv4_nets", &wire.ipv4_nets, Family::V4)?;
    addresses.extend(nets("ipv6_nets", &wire.ipv6_nets, Family::V6)?);
    if addresses.is_empty() {
        return Ok(None);
    }
    let interface = filled(&wire.name).unwrap_or_default();
    let mut nat = each("ipv4_nat", &wire.ipv4_nat, |wire| nat(wire, &addresses))?;
    nat.extend(each("ipv6_nat", &wire.ipv6_nat, |wire| self::nat(wire, &addresses))?);
    Ok(Some(WorkloadEndpoint {
        interface: interface.parse().map_err(|e| FieldError::of("name", e))?,
        // Anything else is down, and so is an endpoint that does not say.
        active: filled(&wire.state) == Some("active"),
        mac: filled(&wire.mac)
            .map(|mac| mac.parse().map_err(|e| FieldError::of("mac", e)))
            .transpose()?,
        addresses,
        nat,
        spoof: Vec::new(),
        profiles: match (&wire.profile_ids, filled(&wire.profile_id)) {
            (None, Some(only)) => vec![profile_name(only).at("profile_id")?],
            (ids, _) => each("profile_ids", ids, |text| profile_name(text))?,
        },
        labels: labels(&wire.labels),
        ports: port::named_ports(&wire.ports)?,
    }))
}

fn nets(
    field: &str,
    list: &Option<Vec<Text<'_>>>,
    family: Family,
) -> Result<Vec<Cidr>, FieldError> {
    each(field, list, |text| {
        let cidr = net::cidr(text)?;
        if cidr.family() == family {
            Ok(cidr)
        } else {
            Err(FieldError::new(format_args!("{cidr} is not of {family}")))
        }
    })
}

fn nat(wire: &WireNat<'_>, addresses: &[Cidr]) -> Result<(IpAddr, IpAddr), FieldError> {
    let missing = |field| FieldError::of(field, "is missing");
    let internal = wire.int_ip.as_ref().ok_or_else(|| missing("int_ip"))?;
    let external = wire.ext_ip.as_ref().ok_or_else(|| missing("ext_ip"))?;
    let (internal, external) =
        (net::address(internal).at("int_ip")?, net::address(external).at("ext_ip")?);
    if Family::of(internal) != Family::of(external) {
        return Err(FieldError::of("ext_ip", "is of another family than int_ip"));
    }
    if !addresses.iter().any(|cidr| cidr.contains(internal)) {
        let reason = format_args!("{internal} is not an address of the endpoint");
        return Err(FieldError::of("int_ip", reason));
    }
    Ok((internal, external))
}

/// The profile that is built into v3 allows everything. Here nobody stores one of this name, and an
/// endpoint that lists it has to be dropped, as for any profile that is missing.
fn profile_name(text: &str) -> Result<Name, FieldError> {
    if text == Profile::DEFAULT_ALLOW {
        return Err(FieldError::new(format_args!("{text:?} does not exist in the v1 layout")));
    }
    check_name(text).map(Name::from).map_err(FieldError::new)
}

fn labels(pairs: &Option<Pairs<'_>>) -> Labels {
    pairs.iter().flat_map(Pairs::iter).collect()
}

#[derive(Debug, Deserialize)]
struct WireHost<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    expected_ipv4_addrs: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    expected_ipv6_addrs: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    profile_ids: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Object<port::WirePort<'a>>>>,
}

/// Of the interface that it names, or of whichever has one of its addresses. There is none for every
/// interface here.
pub(super) fn decode_host(node: Name, value: &[u8]) -> Result<HostEndpoint, FieldError> {
    let Some(wire) = read::<WireHost<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    let (mut expected_addresses, mut unread) =
        expected("expected_ipv4_addrs", &wire.expected_ipv4_addrs);
    let (more, none) = expected("expected_ipv6_addrs", &wire.expected_ipv6_addrs);
    expected_addresses.extend(more);
    unread.extend(none);
    let interface = filled(&wire.name).map(|name| {
        let checked: Result<InterfaceName, _> = name.parse();
        checked.map(|name| Name::from(name.as_str())).map_err(|e| FieldError::of("name", e))
    });
    let interface = interface.transpose()?;
    if interface.is_none() && expected_addresses.is_empty() {
        let missing = || FieldError::of("name", "is missing, and there are no expected addresses");
        return Err(unread.into_iter().next().unwrap_or_else(missing));
    }
    Ok(HostEndpoint {
        node,
        interface,
        expected_addresses,
        left_out: left_out(unread),
        profiles: each("profile_ids", &wire.profile_ids, |text| profile_name(text))?,
        labels: labels(&wire.labels),
        ports: port::named_ports(&wire.ports)?,
    })
}
