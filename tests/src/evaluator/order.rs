//! In which order tiers and policies are asked, which versions of Calico see differently.

use serde_json::Value;

use super::{Evaluator, Policy, Tier};

/// The minor version of Calico 3 that FelixConfiguration `default` says by annotation.
pub(super) fn version(json: &Value) -> Option<u32> {
    let said = &json["metadata"]["annotations"]["config.projectcalico.org/CalicoVersion"];
    minor(said.as_str()?)
}

/// The second number of a version whose first is 3.
pub(super) fn minor(version: &str) -> Option<u32> {
    version.trim_start_matches('v').strip_prefix("3.")?.split('.').next()?.parse().ok()
}

impl Evaluator {
    /// Puts tiers and policies into their order, with a tier for each policy.
    pub(super) fn arrange_tiers(&mut self) {
        if self.version.is_some_and(|version| version < 29) {
            self.tiers.clear();
        }
        for policy in &mut self.policies {
            let before_dot = policy.name.split_once('.').map(|(tier, _)| tier.to_owned());
            let named = match self.version {
                None => policy.tier.clone().or_else(|| {
                    before_dot.filter(|name| self.tiers.iter().any(|tier| tier.name == *name))
                }),
                Some(..29) => None,
                Some(29..32) => before_dot,
                Some(32..) => policy.tier.clone().filter(|_| policy.in_spec),
            };
            policy.tier = Some(named.unwrap_or_else(|| "default".to_owned()));
        }
        for name in self.policies.iter().filter_map(|policy| policy.tier.clone()) {
            if self.tiers.iter().all(|tier| tier.name != name) {
                self.tiers.push(Tier::missing(&name));
            }
        }
        let last = |order: Option<f64>| order.unwrap_or(f64::INFINITY);
        self.tiers.sort_by(|a, b| {
            let order = last(a.order).total_cmp(&last(b.order));
            // The one that is built in stands before those that nobody knows.
            let built_in =
                |tier: &Tier| tier.name == "default" && self.version.is_none_or(|v| v < 29);
            let place = |tier: &Tier| (tier.is_missing, tier.is_missing && !built_in(tier));
            place(a).cmp(&place(b)).then(order).then(a.name.cmp(&b.name))
        });
        let name_first = self.version.is_some_and(|version| version >= 32);
        let text = |policy: &Policy| match policy.id.split_once('/') {
            Some((namespace, name)) if name_first => format!("{name}/{namespace}/NetworkPolicy"),
            None if name_first => format!("{}//GlobalNetworkPolicy", policy.id),
            _ => policy.id.clone(),
        };
        self.policies.sort_by(|a, b| {
            last(a.order).total_cmp(&last(b.order)).then_with(|| text(a).cmp(&text(b)))
        });
    }
}
