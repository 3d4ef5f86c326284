//! BGPConfiguration, and AS numbers.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::wire::{Scalar, Text, filled, resource};
use crate::model::{AsNumber, BgpConfiguration, InvalidAsNumber};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BgpSpec<'a> {
    #[serde(borrow, default)]
    as_number: Option<Scalar<'a>>,
    #[serde(default)]
    node_to_node_mesh_enabled: Option<bool>,
    #[serde(default)]
    listen_port: Option<i64>,
    #[serde(borrow, default)]
    log_severity_screen: Option<Text<'a>>,
}

pub(super) fn decode(value: &[u8]) -> Result<BgpConfiguration, FieldError> {
    let (_, spec) = resource::<BgpSpec<'_>>(value)?;
    Ok(BgpConfiguration {
        as_number: as_number(&spec.as_number).at("spec")?,
        node_to_node_mesh: spec.node_to_node_mesh_enabled.unwrap_or(true),
        listen_port: spec.listen_port.map(listen_port).transpose().at("spec.listenPort")?,
        log_severity: filled(&spec.log_severity_screen).map(str::to_owned),
    })
}

fn listen_port(port: i64) -> Result<u16, FieldError> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(FieldError::new(format_args!("{port} is not between 1 and 65535"))),
    }
}

/// The field `asNumber`: a number, its digits, or dotted.
pub(in crate::layout) fn as_number(
    scalar: &Option<Scalar<'_>>,
) -> Result<Option<AsNumber>, FieldError> {
    let Some(scalar) = scalar else { return Ok(None) };
    let found = match scalar {
        Scalar::Text(text) => text.parse().ok(),
        Scalar::Number(number) => u32::try_from(*number).ok().map(AsNumber),
        Scalar::Odd(_) => None,
    };
    let bad = || FieldError::of("asNumber", InvalidAsNumber(scalar.to_string()));
    found.map(Some).ok_or_else(bad)
}
