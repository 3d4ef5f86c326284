//! IPPool.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::net;
use super::wire::{Text, filled, list, resource, selector};
use crate::model::{EncapMode, Family, Pool};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolSpec<'a> {
    #[serde(borrow, default)]
    cidr: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipip_mode: Option<Text<'a>>,
    #[serde(borrow, default)]
    vxlan_mode: Option<Text<'a>>,
    #[serde(default)]
    nat_outgoing: Option<bool>,
    #[serde(default)]
    disabled: Option<bool>,
    #[serde(default, rename = "disableBGPExport")]
    disable_bgp_export: Option<bool>,
    #[serde(default)]
    block_size: Option<i64>,
    #[serde(borrow, default)]
    node_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    allowed_uses: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    assignment_mode: Option<Text<'a>>,
}

pub(super) fn decode(value: &[u8]) -> Result<Pool, FieldError> {
    let (_, spec) = resource::<PoolSpec<'_>>(value)?;
    pool(&spec).at("spec")
}

fn pool(spec: &PoolSpec<'_>) -> Result<Pool, FieldError> {
    let cidr = spec.cidr.as_ref().ok_or_else(|| FieldError::of("cidr", "is missing"))?;
    let cidr = net::cidr(cidr).at("cidr")?;
    let ipip = encap(&spec.ipip_mode).at("ipipMode")?;
    let vxlan = encap(&spec.vxlan_mode).at("vxlanMode")?;
    if ipip != EncapMode::Never && cidr.family() == Family::V6 {
        return Err(FieldError::of("ipipMode", "there is no IPIP for an IPv6 pool"));
    }
    if ipip != EncapMode::Never && vxlan != EncapMode::Never {
        return Err(FieldError::of("vxlanMode", "excludes ipipMode"));
    }
    Ok(Pool {
        cidr,
        ipip,
        vxlan,
        nat_outgoing: spec.nat_outgoing.unwrap_or(false),
        disabled: spec.disabled.unwrap_or(false),
        disable_bgp_export: spec.disable_bgp_export.unwrap_or(false),
        block_size: block_size(spec.block_size.unwrap_or(0), cidr.family()).at("blockSize")?,
        node_selector: selector("nodeSelector", &spec.node_selector)?.unwrap_or_default(),
        for_workloads: for_workloads(list(&spec.allowed_uses)),
        manual: manual(&spec.assignment_mode),
    })
}

/// Nothing said, nothing excluded. Uses that are not known here are somebody else's.
fn for_workloads(uses: &[Text<'_>]) -> bool {
    uses.is_empty() || uses.iter().any(|allowed| &**allowed == "Workload")
}

/// A mode that is not known here gives out nothing by itself; it is no reason to refuse the pool,
/// which counts for masquerade too.
fn manual(mode: &Option<Text<'_>>) -> bool {
    !matches!(filled(mode), None | Some("Automatic"))
}

/// Any case: the converter of v1 data has written lower case.
fn encap(mode: &Option<Text<'_>>) -> Result<EncapMode, FieldError> {
    let Some(text) = filled(mode) else { return Ok(EncapMode::Never) };
    match text.to_ascii_lowercase().as_str() {
        "never" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "crosssubnet" => Ok(EncapMode::CrossSubnet),
        _ => Err(FieldError::new(format_args!("{text:?} is not Never, Always or CrossSubnet"))),
    }
}

/// The sizes of blocks that a pool may have.
pub(super) fn block_sizes(family: Family) -> std::ops::RangeInclusive<u8> {
    match family {
        Family::V4 => 20..=32,
        Family::V6 => 116..=128,
    }
}

/// 0 stands for the default, as in Go.
fn block_size(size: i64, family: Family) -> Result<u8, FieldError> {
    let range = block_sizes(family);
    let default = match family {
        Family::V4 => 26,
        Family::V6 => 122,
    };
    match u8::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) if range.contains(&size) => Ok(size),
        _ => Err(FieldError::new(format_args!(
            "{size} is not between {} and {}",
            range.start(),
            range.end()
        ))),
    }
}
