//! Profiles: tags, labels and rules, each by itself.

use serde::Deserialize;

use super::keys::check_name;
use super::rule::{WireRule, rules};
use super::v3::error::{At, FieldError};
use super::v3::wire::{Object, Pairs, Text, list, read};
use crate::model::{Action, Labels, Profile, Rule};

/// What one key says of a profile.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ProfilePart {
    /// Labels without values.
    Tags(Labels),
    /// Labels.
    Labels(Labels),
    /// Rules: to the endpoint, from the endpoint.
    Rules(Vec<Rule>, Vec<Rule>),
}

/// A profile of which only tags or labels are known lends them, and drops everything: its rules are
/// about to be written, or were refused. To go on with the next profile would let pass what they
/// may deny.
pub(super) fn assemble<'p>(parts: impl Iterator<Item = &'p ProfilePart>) -> Profile {
    let (mut tags, mut labels, mut rules) = (None, None, None);
    for part in parts {
        match part {
            ProfilePart::Tags(own) => tags = Some(own),
            ProfilePart::Labels(own) => labels = Some(own),
            ProfilePart::Rules(ingress, egress) => rules = Some((ingress, egress)),
        }
    }
    let deny = || vec![Rule::any(Action::Deny)];
    let (ingress, egress) = rules
        .map_or_else(|| (deny(), deny()), |(ingress, egress)| (ingress.clone(), egress.clone()));
    // Labels after tags: a label's value goes before the empty one of a tag.
    let both = [tags, labels].into_iter().flatten().flat_map(Labels::iter);
    let labels = both.map(|(key, value)| (key.clone(), value.clone())).collect();
    Profile { ingress, egress, labels }
}

/// `["frontend"]`; `null` is empty.
pub(super) fn decode_tags(value: &[u8]) -> Result<ProfilePart, FieldError> {
    let tags: Option<Vec<Text<'_>>> = serde_json::from_slice(value)
        .map_err(|error| FieldError::new(format_args!("is no list of tags: {error}")))?;
    for (index, tag) in list(&tags).iter().enumerate() {
        check_name(tag).map_err(FieldError::new).at_index("", index)?;
    }
    Ok(ProfilePart::Tags(list(&tags).iter().map(|tag| (&**tag, "")).collect()))
}

/// `{"role": "web"}`; `null` is empty.
pub(super) fn decode_labels(value: &[u8]) -> Result<ProfilePart, FieldError> {
    let labels: Option<Pairs<'_>> = serde_json::from_slice(value)
        .map_err(|error| FieldError::new(format_args!("is no map of labels: {error}")))?;
    Ok(ProfilePart::Labels(labels.iter().flat_map(Pairs::iter).collect()))
}

#[derive(Debug, Default, Deserialize)]
struct WireRules<'a> {
    #[serde(borrow, default)]
    inbound_rules: Option<Vec<Object<WireRule<'a>>>>,
    #[serde(borrow, default)]
    outbound_rules: Option<Vec<Object<WireRule<'a>>>>,
}

/// A missing direction has no rules: whoever wrote this said so.
pub(super) fn decode_rules(value: &[u8]) -> Result<ProfilePart, FieldError> {
    let Some(wire) = read::<WireRules<'_>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    Ok(ProfilePart::Rules(
        rules("inbound_rules", &wire.inbound_rules)?,
        rules("outbound_rules", &wire.outbound_rules)?,
    ))
}
