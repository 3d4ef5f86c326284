//! The parameters of interfaces, and forwarding.

use std::collections::BTreeSet;

use calico_datastore::model::{Family, InterfaceName, WorkloadEndpointId};

use super::{Felix, Run};
use crate::drift::{Change, Drift};
use crate::felix::sysctl::{Corrected, Outcome as Parameters, SysctlError};
use crate::felix::watch::{Kept, Touched};
use crate::telemetry::chain;

impl Felix {
    /// The interfaces whose parameters step 5 sets: those that are new, or touched, or all, and those
    /// of which that failed before; as far as they are there.
    pub(super) fn whose_parameters(
        &mut self,
        appeared: BTreeSet<InterfaceName>,
        touched: &BTreeSet<WorkloadEndpointId>,
        told: &Touched,
        everything: bool,
    ) -> BTreeSet<InterfaceName> {
        let interfaces = self.stage.interfaces();
        let mut wanted = appeared;
        wanted.append(&mut self.unset);
        if everything {
            wanted.extend(interfaces.names().cloned());
        } else if let Some(state) = self.stage.state() {
            let owned = touched.iter().filter_map(|id| state.endpoints.get(id));
            wanted.extend(owned.map(|endpoint| endpoint.interface.clone()));
            wanted.extend(told.sysctls.iter().cloned());
        }
        wanted.retain(|name| self.links.contains_key(name) && interfaces.owner(name).is_some());
        wanted
    }

    /// Step 5. Interfaces that are new, or all of them. What was set before and is another now,
    /// somebody changed.
    pub(super) fn set_sysctls(
        &mut self,
        interfaces: BTreeSet<InterfaceName>,
        all: bool,
        run: &mut Run,
    ) {
        let families = self.on.clone();
        if self.kept.families != families {
            self.kept = Kept { families: families.clone(), ..Kept::default() };
        }
        let wanted = self.stage.state().is_some_and(|state| state.settings.ip_forwarding);
        let mut errors = Vec::new();
        if wanted && (all || self.forwarding_failed) {
            let outcome = self.sysctls.forwarding(&families);
            if self.kept.forwarding {
                run.drift.extend(outcome.corrected.iter().map(drift));
            }
            errors.extend(outcome.errors);
            self.forwarding_failed = !errors.is_empty();
        }
        self.kept.forwarding = wanted && !self.forwarding_failed;
        // The interface went away meanwhile: that is told by the links.
        let gone = |error: &SysctlError| error.source.kind() == std::io::ErrorKind::NotFound;
        for name in interfaces {
            let Some(index) = self.links.get(&name).map(|link| link.index) else { continue };
            let lenient = self.stage.interfaces().is_spoofer(&name, Family::V4);
            let Parameters { corrected, errors: mut failed } =
                self.sysctls.interface(&name, &families, lenient);
            failed.retain(|error| !gone(error));
            let was_lenient = if lenient {
                !self.kept.lenient.insert(name.clone())
            } else {
                self.kept.lenient.remove(&name)
            };
            let was_set = self.kept.interfaces.remove(&index).as_ref() == Some(&name);
            if was_set && was_lenient == lenient {
                let owner = self.stage.interfaces().owner(&name);
                run.drift.extend(corrected.iter().map(|one| drift(one).of(owner)));
            }
            if failed.is_empty() {
                self.kept.interfaces.insert(index, name);
            } else {
                errors.extend(failed);
                self.unset.insert(name);
            }
        }
        let interfaces = self.stage.interfaces();
        self.kept.lenient.retain(|name| interfaces.is_spoofer(name, Family::V4));
        if interfaces.spoofers().contains_key(&Family::V4) && self.sysctls.is_strict_everywhere() {
            run.problem(
                "sysctl net.ipv4.conf.all.rp_filter",
                "is 1: the kernel drops what endpoints send from allowSpoofedSourcePrefixes, whatever \
                 their interfaces say; set it to 0 or 2",
            );
        }
        // One cause, `/proc/sys` read-only, may concern all of some thousand interfaces.
        if let Some(first) = errors.first() {
            let more = if errors.len() > 1 { ", and others" } else { "" };
            run.problem(first.path.display().to_string(), format!("{}{more}", chain(first)));
        }
        self.changes.keep(self.kept.clone());
    }
}

fn drift(one: &Corrected) -> Drift {
    let detail = format!("was {}, should be {}", one.was, one.value);
    Drift::new(format!("sysctl {}", one.name), Change::Modified, detail)
}
