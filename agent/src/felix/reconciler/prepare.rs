//! Before anything is written: which dataplane. And when everything is: what goes of the others.

use std::sync::Arc;

use calico_datastore::model::Family;
use tracing::info;

use super::backend::Backend;
use super::{Felix, Run};
use crate::config::Settings;
use crate::felix::ipset::{Command, Sets};
use crate::felix::iptables::backend::{self, Iptables};
use crate::felix::nftables::backend::{Nftables, Remains};
use crate::felix::pick::{Abandoned, Pick, PickError, pick};
use crate::telemetry::chain;

/// After how many tries something that does not go is worth telling. nf_tables lets go of the sets of a
/// deleted rule some time after the transaction.
const PATIENCE: u32 = 10;

/// There is nothing to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChooseError {
    /// This host cannot.
    #[error(transparent)]
    Pick(PickError),
    /// The settings do not let us.
    #[error("IptablesMarkMask {0:#x} has no bit")]
    Marks(u32),
}

impl Felix {
    /// Finds the dataplane to use, unless that is known, and takes it out of `self` for a run. A run
    /// that does not come to its end does not bring it back: the next one knows nothing.
    pub(super) async fn choose(&mut self, settings: &Settings) -> Result<Backend, ChooseError> {
        let wanted = settings.wanted_dataplane();
        match self.backend.take() {
            Some((asked, backend)) if asked == wanted => return Ok(backend),
            // Until another is found.
            other => self.backend = other,
        }
        let picked = pick(&self.exec, wanted, true).await.map_err(ChooseError::Pick)?;
        info!(dataplane = %picked.pick, "dataplane chosen");
        (self.abandoned, self.clinging) = (picked.abandoned.into(), 0);
        let (counters, changes) = (self.counters.clone(), self.changes.clone());
        let old = self.backend.take().map(|(_, backend)| backend);
        Ok(match (old, picked.pick) {
            (Some(Backend::Iptables(mut iptables)), Pick::Iptables(dataplane)) => {
                iptables.move_to(dataplane);
                Backend::Iptables(iptables)
            }
            (Some(Backend::Nftables(mut nftables)), Pick::Nftables { why }) => {
                nftables.explain(why);
                Backend::Nftables(nftables)
            }
            (_, pick) => {
                // It has to be told everything.
                self.stage.forget();
                match pick {
                    Pick::Iptables(dataplane) => {
                        let iptables =
                            Iptables::new(self.exec.clone(), counters, changes, dataplane);
                        Backend::Iptables(Box::new(iptables))
                    }
                    Pick::Nftables { why } => {
                        let nftables = Nftables::new(settings, counters, changes, why);
                        let too_small = || ChooseError::Marks(settings.mark_mask);
                        Backend::Nftables(Box::new(nftables.ok_or_else(too_small)?))
                    }
                }
            }
        })
    }

    /// Makes the backend follow these settings.
    ///
    /// # Errors
    /// In words, when it cannot work with them.
    pub(super) fn set_up(
        &mut self,
        settings: &Arc<Settings>,
        backend: &mut Backend,
    ) -> Result<(), String> {
        let families = Family::ALL.into_iter();
        self.known = families.filter(|family| self.sysctls.has(*family)).collect();
        let families = self.known.iter().copied();
        self.on = families.filter(|f| *f == Family::V4 || settings.ipv6).collect();
        backend.set_up(settings, &self.known)
    }

    /// Removes what an earlier run left elsewhere, once what is in use is complete.
    pub(super) async fn clean_abandoned(&mut self, run: &mut Run) {
        while let Some(next) = self.abandoned.front().cloned() {
            let clean = match &next {
                Abandoned::Iptables(dataplane) => {
                    backend::clean(&self.exec, &self.counters, dataplane, &self.known, run).await
                }
                Abandoned::Sets => self.clean_sets(run).await,
                Abandoned::Nftables => self.clean_nftables(run).await,
            };
            if !clean {
                return;
            }
            info!(%next, "what an earlier run left is removed");
            self.abandoned.pop_front();
            self.clinging = 0;
        }
    }

    async fn clean_sets(&mut self, run: &mut Run) -> bool {
        let sets = Sets::new(self.counters.clone());
        let left = async {
            let all = sets.read().await?;
            let commands: Vec<_> = all.into_keys().map(Command::Destroy).collect();
            sets.write(&commands).await
        };
        match left.await {
            Ok(refused) if refused.is_empty() => true,
            Ok(refused) => {
                self.clinging = self.clinging.saturating_add(1);
                run.surprise |= self.clinging < PATIENCE;
                for one in refused.iter().filter(|_| self.clinging >= PATIENCE) {
                    run.problem(
                        format!("address set {}", one.command.set()),
                        "of an earlier run cannot be destroyed; does a rule of somebody else use it?",
                    );
                }
                false
            }
            Err(error) => {
                run.surprise = true;
                let said = format!("those of an earlier run are still there: {}", chain(&error));
                run.problem("address sets", said);
                false
            }
        }
    }

    async fn clean_nftables(&mut self, run: &mut Run) -> bool {
        let removed = Remains::find().await.and_then(|remains| remains.remove(&self.counters));
        if let Err(said) = &removed {
            run.surprise = true;
            let said = format!("what an earlier run left is still there: {said}");
            run.problem("nftables table calico", said);
        }
        removed.is_ok()
    }
}
