//! The table `nat`: it follows from pools, external addresses and settings, and from no policy.

use super::{Renderer, jumps};
use crate::desired::{DesiredState, Externals};
use crate::felix::iptables::chains::{self, Nat};
use crate::felix::iptables::save::Table;
use crate::felix::iptables::tables::FamilyTables;

impl Renderer {
    /// All that is translated.
    pub(super) fn nat(&self, state: &DesiredState, externals: &Externals, out: &mut FamilyTables) {
        let family = self.style.family;
        let nat = Nat {
            settings: &state.settings,
            family,
            masquerade: state.pools.iter().any(|(cidr, nat)| *nat && cidr.family() == family),
            random_fully: self.random_fully,
            external: externals.pairs(family).collect(),
        };
        let chains = chains::nat(&nat);
        let mut jumps = jumps(Table::Nat, &state.settings, false);
        jumps.retain(|jump| chains.iter().any(|(name, _)| name == jump.to));
        out.replace(Table::Nat, chains, jumps);
    }
}
