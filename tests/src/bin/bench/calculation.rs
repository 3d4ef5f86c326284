//! The calculation by itself, which a program of its own measures: from stored values to a desired state,
//! without etcd and kernel.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use calico_e2e::process::Command;
use serde::Deserialize;

use crate::report::{Budget, Report, Row, Spread};

const TITLE: &str =
    "the calculation: 250,200 endpoints with 10,000 policies; customers of ten pods each";

/// What the program tells.
#[derive(Deserialize)]
struct Told {
    what: String,
    unit: String,
    p50: f64,
    p99: f64,
    budget: Option<Budget>,
}

/// Runs it.
pub(crate) fn measure(program: &Path, report: &mut Report) -> Result<()> {
    ensure!(program.exists(), "{} is not built: see make bench", program.display());
    let file = tempfile::NamedTempFile::new()?;
    Command::new(program).arg(file.path()).limit(std::time::Duration::from_secs(120)).run()?;
    let told: Vec<Told> =
        serde_json::from_slice(&std::fs::read(file.path())?).context("what the program told")?;
    for Told { what, unit, p50, p99, budget } in told {
        let row = Row::new("calculation", what, Spread { n: 1, p50, p99, max: p99 });
        let unit = if unit == "MB" { "MB" } else { "ms" };
        report.add(TITLE, Row { budget, ..row.in_unit(unit) });
    }
    Ok(())
}
