//! ClusterInformation.

use serde::Deserialize;

use super::error::FieldError;
use super::wire::{Text, filled, resource};
use crate::model::ClusterInformation;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterSpec<'a> {
    #[serde(borrow, default, rename = "clusterGUID")]
    cluster_guid: Option<Text<'a>>,
    #[serde(borrow, default)]
    calico_version: Option<Text<'a>>,
    #[serde(default)]
    datastore_ready: Option<bool>,
}

/// A store that does not say that it is ready is not.
pub(super) fn decode(value: &[u8]) -> Result<ClusterInformation, FieldError> {
    let (_, spec) = resource::<ClusterSpec<'_>>(value)?;
    Ok(ClusterInformation {
        datastore_ready: spec.datastore_ready.unwrap_or(false),
        guid: filled(&spec.cluster_guid).map(str::to_owned),
        // As it is: whoever cannot read it must not take the store for not ready.
        calico_version: filled(&spec.calico_version).map(Into::into),
    })
}
