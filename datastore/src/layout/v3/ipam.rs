//! Allocation blocks and block affinities.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::net;
use super::wire::{Text, filled, name, read};
use crate::model::{Affinity, AffinityState, Block, Cidr, Name};

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
