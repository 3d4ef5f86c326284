//! Allocation blocks, block affinities, and what governs allocation.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::net;
use super::wire::{Text, each, filled, name, read, resource};
use crate::model::{Affinity, AffinityState, Block, Cidr, IpamConfig, Name};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlock<'a> {
    #[serde(borrow, default)]
    cidr: Option<Text<'a>>,
    #[serde(borrow, default)]
    affinity: Option<Text<'a>>,
    /// Before `affinity` there was this, without a prefix.
    #[serde(borrow, default)]
    host_affinity: Option<Text<'a>>,
    #[serde(default)]
    deleted: Option<bool>,
}

/// The block comes from the key; a document about another one is refused.
pub(super) fn decode_block(cidr: Cidr, value: &[u8]) -> Result<Option<Block>, FieldError> {
    let Some(wire) = read::<WireBlock<'_>>(value)? else { return Ok(None) };
    if wire.deleted == Some(true) {
        return Ok(None);
    }
    if let Some(text) = &wire.cidr
        && net::cidr(text).at("cidr")? != cidr
    {
        return Err(FieldError::of("cidr", format_args!("is not the {cidr} of the key")));
    }
    Ok(Some(Block { cidr, host: block_host(&wire)? }))
}

/// `host:<name>`; what has another prefix (`virtual:`) belongs to no host.
fn block_host(wire: &WireBlock<'_>) -> Result<Option<Name>, FieldError> {
    let (field, host) = match &wire.affinity {
        Some(affinity) => ("affinity", affinity.strip_prefix("host:")),
        None => ("hostAffinity", filled(&wire.host_affinity)),
    };
    host.map(name).transpose().at(field)
}

#[derive(Debug, Deserialize)]
struct WireAffinity<'a> {
    #[serde(borrow, default)]
    state: Option<Text<'a>>,
    #[serde(default)]
    deleted: Option<bool>,
}

/// Old writers store nothing or `{}` for a claim that holds.
pub(super) fn decode_affinity(value: &[u8]) -> Result<Option<Affinity>, FieldError> {
    if value.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Affinity { state: AffinityState::Confirmed }));
    }
    let Some(wire) = read::<WireAffinity<'_>>(value)? else { return Ok(None) };
    if wire.deleted == Some(true) {
        return Ok(None);
    }
    let state = match filled(&wire.state) {
        None | Some("confirmed") => AffinityState::Confirmed,
        Some("pending") => AffinityState::Pending,
        Some("pendingDeletion") => AffinityState::PendingDeletion,
        Some(other) => {
            let reason = format_args!("{other:?} is not confirmed, pending or pendingDeletion");
            return Err(FieldError::of("state", reason));
        }
    };
    Ok(Some(Affinity { state }))
}

/// Go writers leave out what is false, so that a missing field is not the default of a missing
/// object.
#[derive(Debug, Deserialize)]
struct WireConfig {
    #[serde(default)]
    strict_affinity: Option<bool>,
    #[serde(default)]
    auto_allocate_blocks: Option<bool>,
    #[serde(default, rename = "maxBlocksPerHost")]
    max_blocks_per_host: Option<i64>,
}

pub(super) fn decode_config(value: &[u8]) -> Result<IpamConfig, FieldError> {
    let Some(wire) = read::<WireConfig>(value)? else { return Ok(IpamConfig::default()) };
    let max = wire.max_blocks_per_host.unwrap_or(0);
    Ok(IpamConfig {
        strict_affinity: wire.strict_affinity.unwrap_or(false),
        auto_allocate_blocks: wire.auto_allocate_blocks.unwrap_or(false),
        max_blocks_per_host: match u32::try_from(max) {
            Ok(0) => IpamConfig::default().max_blocks_per_host,
            Ok(max) => max,
            Err(_) => return Err(FieldError::of("maxBlocksPerHost", "is no number of blocks")),
        },
    })
}

#[derive(Debug, Default, Deserialize)]
struct ReservationSpec<'a> {
    #[serde(borrow, default, rename = "reservedCIDRs")]
    reserved_cidrs: Option<Vec<Text<'a>>>,
}

pub(super) fn decode_reservation(value: &[u8]) -> Result<Vec<Cidr>, FieldError> {
    let (_, spec) = resource::<ReservationSpec<'_>>(value)?;
    each("reservedCIDRs", &spec.reserved_cidrs, net::cidr).at("spec")
}
