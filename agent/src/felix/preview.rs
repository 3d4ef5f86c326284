//! What a reconciler that knows nothing yet would write: the plans of a first run, not carried out.
//!
//! It reads tables, sets and kernel parameters, and writes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use calico_datastore::model::{Family, InterfaceName};
use serde::Serialize;

use super::counters::Counters;
use super::endpoints::Interfaces;
use super::hosts::choose::choose;
use super::ipset::{Command, Phases, SetError, Sets};
use super::iptables::driver::{Driver, IptablesError};
use super::iptables::probe::{Dataplane, ProbeError, survey};
use super::iptables::render::{Renderer, Scene};
use super::iptables::tables::FamilyTables;
use super::iptables::uses::Uses;
use super::sets;
use super::sysctl::Sysctls;
use crate::exec::Exec;
use crate::reconcile::{Problem, World};
use crate::telemetry::chain;

/// One transaction of `iptables-restore`.
#[derive(Clone, Debug, Serialize)]
pub struct TableChange {
    /// The program that would take it.
    pub program: String,
    /// `raw`, `mangle`, `nat`, `filter`.
    pub table: &'static str,
    /// What it would be told.
    pub text: String,
}

/// A kernel parameter that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct SysctlChange {
    /// Its file.
    pub path: String,
    /// Its value.
    pub from: String,
    /// The value that it should have.
    pub to: &'static str,
}

/// Everything about policy.
#[derive(Clone, Debug)]
pub struct FelixPreview {
    /// The iptables that would be used, and why.
    pub dataplane: String,
    /// Sets and members that come.
    pub before: Vec<Command>,
    /// The tables.
    pub tables: Vec<TableChange>,
    /// Members and sets that go.
    pub after: Vec<Command>,
    /// Kernel parameters.
    pub sysctls: Vec<SysctlChange>,
    /// What could not be read of a part without which the rest can be told.
    pub problems: Vec<Problem>,
}

/// It cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// There is no dataplane.
    #[error("this host cannot enforce policy")]
    Dataplane(#[source] ProbeError),
    /// The mark mask has too few bits.
    #[error("IptablesMarkMask {0:#x} has less than 4 bits")]
    Marks(u32),
    /// The sets could not be read.
    #[error("cannot read the sets")]
    Sets(#[source] SetError),
    /// The tables could not be read.
    #[error("cannot read the tables")]
    Tables(#[source] IptablesError),
}

/// What a first run would write. `proc_sys` is `/proc/sys`.
///
/// # Errors
/// When the kernel cannot be read.
pub async fn preview(
    exec: &Exec,
    proc_sys: PathBuf,
    world: &World,
) -> Result<FelixPreview, PreviewError> {
    let state = &world.desired;
    let settings = &state.settings;
    let probed = survey(exec, settings.iptables_backend).await.map_err(PreviewError::Dataplane)?;
    let dataplane = probed.chosen;
    let counters = Counters::default();
    let sysctls = Sysctls::new(proc_sys, counters.clone());
    let mut interfaces = Interfaces::default();
    interfaces.rebuild(state, &world.links);

    let chosen = choose(&state.host_endpoints, &world.links, settings);
    let uses = Uses::of(state, &chosen);
    let scene = Scene { state, interfaces: &interfaces, chosen: &chosen, uses: &uses };

    let known: Vec<Family> = Family::ALL.into_iter().filter(|f| sysctls.has(*f)).collect();
    let mut on = Vec::new();
    let mut tables = Vec::new();
    let driver = Driver::new(exec.clone(), dataplane.clone(), counters.clone());
    for &family in &known {
        let renderer = Renderer::new(settings, family, dataplane.random_fully)
            .ok_or(PreviewError::Marks(settings.mark_mask))?;
        let mut wanted = FamilyTables::new(family, counters.clone());
        renderer.scene(&scene, &mut wanted);
        if !renderer.is_off() {
            on.push(family);
        }
        tables.extend(changes(&mut wanted, family, &driver, &dataplane).await?);
    }
    let actual = Sets::new(counters.clone()).read().await.map_err(PreviewError::Sets)?;
    let desired = sets::all(state, &interfaces, &on);
    let Phases { before, after } = sets::full_plan(&desired, &known, &actual);

    let mut problems = Vec::new();
    // What an earlier run left in the other iptables goes last.
    if let Some(abandoned) = probed.abandoned {
        let driver = Driver::new(exec.clone(), abandoned.clone(), counters.clone());
        for &family in &known {
            let mut nothing = FamilyTables::new(family, counters.clone());
            match changes(&mut nothing, family, &driver, &abandoned).await {
                Ok(gone) => tables.extend(gone),
                Err(error) => problems.push(Problem {
                    subject: abandoned.flavour.to_string(),
                    message: chain(&error),
                }),
            }
        }
    }
    let present: BTreeMap<InterfaceName, bool> = interfaces
        .names()
        .filter(|name| world.links.contains_key(*name))
        .map(|name| (name.clone(), interfaces.is_spoofer(name, Family::V4)))
        .collect();
    let pending = sysctls.pending(&present, &on, settings.ip_forwarding);
    let sysctls = pending
        .into_iter()
        .map(|(path, from, to)| SysctlChange { path: path.display().to_string(), from, to })
        .collect();
    let dataplane = dataplane.to_string();
    Ok(FelixPreview { dataplane, before, tables, after, sysctls, problems })
}

async fn changes(
    wanted: &mut FamilyTables,
    family: Family,
    driver: &Driver,
    dataplane: &Dataplane,
) -> Result<Vec<TableChange>, PreviewError> {
    let plans = wanted.preview(driver).await.map_err(PreviewError::Tables)?;
    let program = dataplane.program(family, "restore");
    Ok(plans
        .into_iter()
        .map(|(table, plan)| TableChange {
            program: program.clone(),
            table: table.name(),
            text: plan.text,
        })
        .collect())
}
