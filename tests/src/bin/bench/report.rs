//! The figures: rows of what was measured beside its control, for people and as JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What samples are like. Milliseconds, unless the row says another unit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// How many samples.
    pub(crate) n: usize,
    /// The median.
    pub(crate) p50: f64,
    /// 99 of 100 are not above.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of durations; sorts them.
    pub(crate) fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, ms);
        Self { n: times.len(), p50: at(50), p99: at(99), max: times.last().map_or(0.0, ms) }
    }

    /// Of figures of which the least is the truth, and the others what came between.
    pub(crate) fn least(all: &mut [f64]) -> Self {
        all.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| all.get(all.len() * percent / 100).copied().unwrap_or_default();
        Self { n: all.len(), p50: at(0), p99: at(50), max: at(99) }
    }

    /// Of one figure.
    pub(crate) fn one(value: f64) -> Self {
        Self { n: 1, p50: value, p99: value, max: value }
    }
}

/// What a figure is measured against.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Control {
    /// What it is.
    pub(crate) what: String,
    /// What it took, in the same run.
    #[serde(flatten)]
    pub(crate) took: Spread,
}

/// What the project has set itself, and whether the row keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Budget {
    /// In words.
    pub(crate) says: String,
    /// It is kept.
    pub(crate) kept: bool,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The part that measured it.
    pub(crate) part: &'static str,
    /// Of its table.
    pub(crate) title: String,
    /// What was measured.
    pub(crate) what: String,
    /// The dataplane.
    pub(crate) dataplane: String,
    /// Of `ours` and `control`.
    pub(crate) unit: String,
    /// What the agent took.
    pub(crate) ours: Spread,
    /// What it is compared with.
    pub(crate) control: Option<Control>,
    /// The median beside the control's.
    pub(crate) ratio: Option<f64>,
    /// What it should be.
    pub(crate) budget: Option<Budget>,
}

impl Row {
    /// A row without control and budget, in milliseconds.
    pub(crate) fn new(part: &'static str, what: impl Into<String>, ours: Spread) -> Self {
        let (title, what, dataplane) = (String::new(), what.into(), String::new());
        let (control, ratio, budget) = (None, None, None);
        Self { part, title, what, dataplane, unit: "ms".to_owned(), ours, control, ratio, budget }
    }

    /// Of that dataplane.
    pub(crate) fn on(self, dataplane: &str) -> Self {
        Self { dataplane: dataplane.to_owned(), ..self }
    }

    /// In that unit.
    pub(crate) fn in_unit(self, unit: &str) -> Self {
        Self { unit: unit.to_owned(), ..self }
    }

    /// Beside that control.
    pub(crate) fn beside(self, what: &str, took: Spread) -> Self {
        let ratio = (took.p50 > 0.0).then(|| self.ours.p50 / took.p50);
        Self { control: Some(Control { what: what.to_owned(), took }), ratio, ..self }
    }

    /// With that budget.
    pub(crate) fn within(self, says: impl Into<String>, kept: bool) -> Self {
        Self { budget: Some(Budget { says: says.into(), kept }), ..self }
    }
}

impl Row {
    /// A line of a table.
    fn markdown(&self) -> String {
        let Self { what, dataplane, unit, ours, control, ratio, .. } = self;
        let unit = if unit == "ms" { String::new() } else { format!(", {unit}") };
        let (p50, p99) = (figure(ours.p50), figure(ours.p99));
        let mut line = format!("| {what}{unit} | {dataplane} | {p50} | {p99} |");
        match control {
            Some(Control { what, took }) => {
                let ratio = ratio.map(figure).unwrap_or_default();
                line +=
                    &format!(" {what} | {} | {} | {ratio} |", figure(took.p50), figure(took.p99));
            }
            None => line += " | | | |",
        }
        line + "\n"
    }
}

/// With three digits that say something.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        99.5.. => format!("{value:.0}"),
        9.95.. => format!("{value:.1}"),
        0.995.. => format!("{value:.2}"),
        0.0995.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// At length.
    full: bool,
    /// `uname -r`.
    kernel: String,
    /// Processors that may be used.
    processors: usize,
    rows: Vec<Row>,
    #[serde(skip)]
    title: String,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new(full: bool) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = kernel.trim().to_owned();
        Self { full, kernel, processors, rows: Vec::new(), title: String::new() }
    }

    /// Takes a row and prints it, below `title` when that is new.
    pub(crate) fn add(&mut self, title: &str, mut row: Row) {
        title.clone_into(&mut row.title);
        if self.title != title {
            println!("\n{title}");
            println!(
                "  {:<66} {:<9}{:>9}{:>9}{:>9}  {:<26}{:>9}{:>9}{:>8}",
                "", "", "p50", "p99", "max", "beside", "p50", "p99", "ratio"
            );
            title.clone_into(&mut self.title);
        }
        let Row { what, dataplane, unit, ours, control, ratio, .. } = &row;
        let what = if unit == "ms" { what.clone() } else { format!("{what}, {unit}") };
        let places = if unit == "ns" { 0 } else { 3 };
        let Spread { p50, p99, max, .. } = ours;
        let mut line =
            format!("  {what:<66} {dataplane:<9}{p50:>9.places$}{p99:>9.places$}{max:>9.places$}");
        if let Some(Control { what, took }) = control {
            line += &format!("  {what:<26}{:>9.places$}{:>9.places$}", took.p50, took.p99);
        }
        if let Some(ratio) = ratio {
            line += &format!("{ratio:>8.2}");
        }
        println!("{line}");
        self.rows.push(row);
    }

    /// The budgets, and which are missed.
    pub(crate) fn print_budgets(&self) {
        let with = self.rows.iter().filter_map(|row| Some((row, row.budget.as_ref()?)));
        println!("\nbudgets");
        for (row, Budget { says, kept }) in with {
            let kept = if *kept { "kept  " } else { "MISSED" };
            let Row { what, dataplane, unit, ours, .. } = row;
            println!(
                "  {kept} {what} {dataplane}: p50 {:.2}, p99 {:.2} {unit} ({says})",
                ours.p50, ours.p99
            );
        }
    }

    /// The tables as Markdown, the budgets last.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut title = "";
        for row in &self.rows {
            if row.title != title {
                title = &row.title;
                text += &format!(
                    "\n### {title}\n\n| what | dataplane | p50 | p99 | beside | p50 | p99 | ratio |\n\
                     |---|---|--:|--:|---|--:|--:|--:|\n"
                );
            }
            text += &row.markdown();
        }
        text += "\n### Budgets\n\n| | what | dataplane | p50 | p99 | budget |\n|---|---|---|--:|--:|---|\n";
        for row in &self.rows {
            let Some(Budget { says, kept }) = &row.budget else { continue };
            let Row { what, dataplane, ours: Spread { p50, p99, .. }, .. } = row;
            let kept = if *kept { "kept" } else { "**missed**" };
            let (p50, p99) = (figure(*p50), figure(*p99));
            text += &format!("| {kept} | {what} | {dataplane} | {p50} | {p99} | {says} |\n");
        }
        text
    }

    /// Writes all of it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }
}
