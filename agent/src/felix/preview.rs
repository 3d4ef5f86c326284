//! What a reconciler that knows nothing yet would write: the plans of a first run, not carried out.
//!
//! It reads tables, sets and kernel parameters, and writes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use calico_datastore::model::{Family, InterfaceName};
use serde::Serialize;

use super::counters::Counters;
use super::ipset::{Command, Phases, SetError, Sets};
use super::iptables::driver::{Driver, IptablesError};
use super::iptables::probe::Dataplane;
use super::iptables::render::Renderer;
use super::iptables::sets;
use super::iptables::tables::FamilyTables;
use super::nftables::TABLE;
use super::nftables::backend::{Preview as Native, Remains, preview as native};
use super::pick::{Abandoned, Pick, PickError, Picked, pick};
use super::scene::Stage;
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

/// An interface that would come into another group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupChange {
    /// Its name.
    pub interface: String,
    /// Its group.
    pub from: u32,
    /// The group that it should have.
    pub to: u32,
}

/// Everything about policy.
#[derive(Clone, Debug, Default)]
pub struct FelixPreview {
    /// The dataplane that would be used, and why.
    pub dataplane: String,
    /// Our own table of nf_tables: the first transaction, as commands of nft.
    pub nftables: Vec<String>,
    /// Interfaces that get other groups then.
    pub groups: Vec<GroupChange>,
    /// The second transaction.
    pub nftables_after: Vec<String>,
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
    Dataplane(#[source] PickError),
    /// The mark mask has too few bits.
    #[error("IptablesMarkMask {0:#x} has less than 4 bits")]
    Marks(u32),
    /// The sets could not be read.
    #[error("cannot read the sets")]
    Sets(#[source] SetError),
    /// The tables could not be read.
    #[error("cannot read the tables")]
    Tables(#[source] IptablesError),
    /// Our own table of nf_tables could not be read.
    #[error("cannot read the table of nftables: {0}")]
    Nftables(String),
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
    let picked = pick(exec, settings.wanted_dataplane(), false);
    let Picked { pick, abandoned } = picked.await.map_err(PreviewError::Dataplane)?;
    let counters = Counters::default();
    let sysctls = Sysctls::new(proc_sys, counters.clone());
    let stage = Stage::of(state, &world.links);
    let (scene, interfaces) = (stage.scene(state), stage.interfaces());
    let known: Vec<Family> = Family::ALL.into_iter().filter(|f| sysctls.has(*f)).collect();
    let on = |family: &&Family| **family == Family::V4 || settings.ipv6;
    let on: Vec<Family> = known.iter().filter(on).copied().collect();

    let mut out = FelixPreview { dataplane: pick.to_string(), ..FelixPreview::default() };
    match &pick {
        Pick::Iptables(dataplane) => {
            let driver = Driver::new(exec.clone(), dataplane.clone(), counters.clone());
            for &family in &known {
                let renderer = Renderer::new(settings, family, dataplane.random_fully)
                    .ok_or(PreviewError::Marks(settings.mark_mask))?;
                let mut wanted = FamilyTables::new(family, counters.clone());
                renderer.scene(&scene, &mut wanted);
                out.tables.extend(changes(&mut wanted, family, &driver, dataplane).await?);
            }
            let actual = Sets::new(counters.clone()).read().await;
            let desired = sets::all(state, interfaces, &on);
            let actual = actual.map_err(PreviewError::Sets)?;
            let Phases { before, after } = sets::full_plan(&desired, &known, &actual);
            (out.before, out.after) = (before, after);
        }
        Pick::Nftables { .. } => {
            let Native { now, groups, after } = native(&scene)
                .await
                .map_err(PreviewError::Nftables)?
                .ok_or(PreviewError::Marks(settings.mark_mask))?;
            (out.nftables, out.nftables_after) = (now, after);
            let groups = groups.into_iter();
            out.groups = groups.map(|(name, from, to)| group_change(&name, from, to)).collect();
        }
    }
    // What an earlier run left elsewhere goes last.
    for left in abandoned {
        leave(left, &known, exec, &mut out).await;
    }
    let present: BTreeMap<InterfaceName, bool> = interfaces
        .names()
        .filter(|name| world.links.contains_key(*name))
        .map(|name| (name.clone(), interfaces.is_spoofer(name, Family::V4)))
        .collect();
    let pending = sysctls.pending(&present, &on, settings.ip_forwarding);
    out.sysctls = pending
        .into_iter()
        .map(|(path, from, to)| SysctlChange { path: path.display().to_string(), from, to })
        .collect();
    Ok(out)
}

fn group_change(interface: &InterfaceName, from: u32, to: u32) -> GroupChange {
    GroupChange { interface: interface.to_string(), from, to }
}

/// How what an earlier run left would go.
async fn leave(left: Abandoned, known: &[Family], exec: &Exec, out: &mut FelixPreview) {
    let counters = Counters::default();
    match left {
        Abandoned::Iptables(abandoned) => {
            let driver = Driver::new(exec.clone(), abandoned.clone(), counters.clone());
            for &family in known {
                let mut nothing = FamilyTables::new(family, counters.clone());
                match changes(&mut nothing, family, &driver, &abandoned).await {
                    Ok(gone) => out.tables.extend(gone),
                    Err(error) => out.problems.push(Problem {
                        subject: abandoned.flavour.to_string(),
                        message: chain(&error),
                    }),
                }
            }
        }
        Abandoned::Sets => match Sets::new(counters).read().await {
            Ok(sets) => out.after.extend(sets.into_keys().map(Command::Destroy)),
            Err(error) => out
                .problems
                .push(Problem { subject: "address sets".to_owned(), message: chain(&error) }),
        },
        Abandoned::Nftables => match Remains::find().await {
            Ok(remains) => {
                let table = remains.table.then(|| format!("delete table inet {TABLE}"));
                out.nftables_after.extend(table);
                let links = remains.links.iter();
                out.groups.extend(links.map(|link| group_change(&link.name, link.group, 0)));
            }
            Err(message) => {
                out.problems.push(Problem { subject: "nftables".to_owned(), message });
            }
        },
    }
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
