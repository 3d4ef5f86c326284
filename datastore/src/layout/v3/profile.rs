//! Profile.

use serde::Deserialize;

use super::error::{At, FieldError};
use super::rule::{WireRule, rules};
use super::wire::{Object, Pairs, resource};
use crate::model::Profile;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileSpec<'a> {
    #[serde(borrow, default)]
    ingress: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    egress: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    labels_to_apply: Option<Pairs<'a>>,
}

/// Empty values of `labelsToApply` are kept: they are the names of rkt's networks.
pub(super) fn decode(value: &[u8]) -> Result<Profile, FieldError> {
    let (_, spec) = resource::<ProfileSpec<'_>>(value)?;
    Ok(Profile {
        ingress: rules("ingress", &spec.ingress, None).at("spec")?,
        egress: rules("egress", &spec.egress, None).at("spec")?,
        labels: spec.labels_to_apply.iter().flat_map(Pairs::iter).collect(),
    })
}
