//! What BIRD is told of the whole cluster.

use serde::Deserialize;

use super::v3::error::FieldError;
use super::v3::wire::read;
use crate::model::AsNumber;

#[derive(Debug, Deserialize)]
struct WireMesh {
    #[serde(default)]
    enabled: Option<bool>,
}

/// `{"enabled": true}`. Without the key there is a mesh; an object that does not say so has none,
/// as the original's templates read it.
pub(super) fn mesh(value: &[u8]) -> Result<bool, FieldError> {
    let Some(mesh) = read::<WireMesh>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    Ok(mesh.enabled.unwrap_or(false))
}

/// Digits, or dotted; empty says nothing.
pub(super) fn as_number(text: &str) -> Result<Option<AsNumber>, FieldError> {
    (!text.is_empty()).then(|| text.parse().map_err(FieldError::new)).transpose()
}
