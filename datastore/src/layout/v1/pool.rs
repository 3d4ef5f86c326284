//! Address pools.

use serde::Deserialize;

use super::keys::cidr_of_pool;
use super::v3::error::{At, FieldError};
use super::v3::net;
use super::v3::wire::{Text, filled, read};
use crate::model::{EncapMode, Family, Pool, Selector};

#[derive(Debug, Deserialize)]
struct WirePool<'a> {
    #[serde(borrow, default)]
    cidr: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipip: Option<Text<'a>>,
    #[serde(borrow, default)]
    ipip_mode: Option<Text<'a>>,
    #[serde(default)]
    masquerade: Option<bool>,
    #[serde(default)]
    ipam: Option<bool>,
    #[serde(default)]
    disabled: Option<bool>,
}

/// The prefix is what the document says, and the key's when it says none. Blocks are of one size in
/// this layout.
pub(super) fn decode(key: &str, value: &[u8]) -> Result<Pool, FieldError> {
    let Some(wire) = read::<WirePool<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    let cidr = match &wire.cidr {
        Some(text) => net::cidr(text).at("cidr")?,
        None => {
            let of_key = key.rsplit_once('/').and_then(|(_, segment)| cidr_of_pool(segment));
            of_key.ok_or_else(|| FieldError::of("cidr", "is missing"))?
        }
    };
    Ok(Pool {
        cidr,
        ipip: ipip(&wire, cidr.family())?,
        vxlan: EncapMode::Never,
        nat_outgoing: wire.masquerade.unwrap_or(false),
        disabled: wire.disabled.unwrap_or(false) || !wire.ipam.unwrap_or(true),
        disable_bgp_export: false,
        block_size: match cidr.family() {
            Family::V4 => 26,
            Family::V6 => 122,
        },
        node_selector: Selector::all(),
        for_workloads: true,
        manual: false,
    })
}

/// `ipip` names the device, and says by that that there is one. There is none for IPv6, whatever
/// was stored.
fn ipip(wire: &WirePool<'_>, family: Family) -> Result<EncapMode, FieldError> {
    let mode = match filled(&wire.ipip_mode).map(str::to_ascii_lowercase).as_deref() {
        None | Some("always") => EncapMode::Always,
        Some("cross-subnet") => EncapMode::CrossSubnet,
        Some(other) => {
            let reason = format_args!("{other:?} is not always or cross-subnet");
            return Err(FieldError::of("ipip_mode", reason));
        }
    };
    let on = filled(&wire.ipip).is_some() && family == Family::V4;
    Ok(if on { mode } else { EncapMode::Never })
}
