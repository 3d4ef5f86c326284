//! What programs of their own measure, which are built with the agent's insides: from stored values to a
//! desired state without etcd and kernel, from a desired state to the kernel without etcd, and the
//! policy on disk.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::host::Flavour;
use calico_e2e::process::Command;
use serde::Deserialize;

use crate::Size;
use crate::report::{Budget, Control, Report, Row, Spread};

/// What a program tells.
#[derive(Deserialize)]
struct Told {
    title: String,
    what: String,
    unit: String,
    #[serde(default)]
    dataplane: String,
    ours: Spread,
    control: Option<Control>,
    budget: Option<Budget>,
}

/// Runs the programs of the calculation and of the policy on disk.
pub(crate) fn calculation(programs: &Path, report: &mut Report) -> Result<()> {
    for name in ["calc_budget", "stored_budget"] {
        run("calculation", &programs.join(name), &[], report)?;
    }
    Ok(())
}

/// Runs the program of the kernel.
pub(crate) fn kernel(
    programs: &Path,
    size: Size,
    flavours: &[Flavour],
    report: &mut Report,
) -> Result<()> {
    let names: Vec<&str> = flavours.iter().map(|flavour| flavour.name()).collect();
    let names = names.join(",");
    let mut arguments = vec!["--dataplanes", &names];
    arguments.extend(size.of(None, Some("--full")));
    arguments.push("--rows");
    run("kernel", &programs.join("kernel_budget"), &arguments, report)
}

/// With the file for the rows as the last argument.
fn run(part: &'static str, program: &Path, arguments: &[&str], report: &mut Report) -> Result<()> {
    ensure!(program.exists(), "{} is not built: see make bench", program.display());
    let file = tempfile::NamedTempFile::new()?;
    let command = Command::new(program).args(arguments).arg(file.path());
    command.limit(Duration::from_secs(3600)).run()?;
    let told: Vec<Told> =
        serde_json::from_slice(&std::fs::read(file.path())?).context("what the program told")?;
    for Told { title, what, unit, dataplane, ours, control, budget } in told {
        let row = Row::new(part, what, ours).on(&dataplane).in_unit(&unit);
        let row = match control {
            Some(Control { what, took }) => row.beside(&what, took),
            None => row,
        };
        report.add(&title, Row { budget, ..row });
    }
    Ok(())
}
