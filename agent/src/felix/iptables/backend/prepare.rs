//! Before anything is written: which tables, and what should be in them.

use calico_datastore::model::Family;

use super::{Iptables, OneFamily};
use crate::config::Settings;
use crate::desired::SetId;
use crate::felix::ipset::Phases;
use crate::felix::iptables::render::Renderer;
use crate::felix::iptables::tables::FamilyTables;
use crate::felix::iptables::{names, sets};
use crate::felix::reconciler::Job;
use crate::felix::scene::Scene;

impl Iptables {
    /// The tables and renderers for these settings.
    ///
    /// # Errors
    /// When the mark mask is too small.
    pub(in crate::felix) fn set_up(
        &mut self,
        settings: &Settings,
        known: &[Family],
    ) -> Result<(), String> {
        let mut old = std::mem::take(&mut self.families);
        for &family in known {
            let renderer = Renderer::new(settings, family, self.dataplane.random_fully);
            let renderer = renderer.ok_or_else(|| {
                format!("IptablesMarkMask {:#x} has less than 4 bits", settings.mark_mask)
            })?;
            let tables = match old.iter().position(|one| one.family == family) {
                Some(at) => old.swap_remove(at).tables,
                None => FamilyTables::new(family, self.counters.clone()),
            };
            self.families.push(OneFamily { family, tables, renderer });
        }
        Ok(())
    }

    /// Brings what should be in tables up to date; returns what that means for sets.
    pub(super) fn render(&mut self, job: &Job<'_>) -> Phases {
        let Some(changed) = job.changed else {
            for one in &mut self.families {
                one.renderer.scene(&job.scene, &mut one.tables);
            }
            self.sets_known = false;
            return Phases::default();
        };
        for one in &mut self.families {
            one.renderer.changed(&job.scene, changed, &mut one.tables);
        }
        sets::changed(job.scene.state, &changed, job.on)
    }

    /// Closes the policies and profiles that name a set which the kernel did not fill, and with
    /// `open_others` opens those whose sets are whole again. The next write of the tables does it.
    pub(super) fn shut_incomplete(&mut self, scene: &Scene<'_>, open_others: bool) {
        if self.incomplete.is_empty() && !(self.shut && open_others) {
            return;
        }
        let incomplete = &self.incomplete;
        for one in self.families.iter_mut().filter(|one| !one.renderer.is_off()) {
            let family = one.family;
            let concerned = |id: &SetId| incomplete.contains_key(&names::set(family, id));
            one.renderer.policies(scene, concerned, open_others, &mut one.tables);
        }
        self.shut = !self.incomplete.is_empty() || (self.shut && !open_others);
    }
}
