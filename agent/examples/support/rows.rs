//! What a program that measures tells: lines for people, and rows that `make bench` takes over.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// What samples are like.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    n: usize,
    /// The median.
    pub p50: f64,
    /// 99 of 100 are not above.
    pub p99: f64,
    max: f64,
}

impl Spread {
    /// Milliseconds of durations.
    pub fn of(times: &[Duration]) -> Self {
        let mut all: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        all.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| all.get(all.len() * percent / 100).copied().unwrap_or_default();
        let max = all.last().copied().unwrap_or_default();
        Self { n: all.len(), p50: at(50), p99: at(99), max }
    }

    /// One figure.
    pub fn one(value: f64) -> Self {
        Self { n: 1, p50: value, p99: value, max: value }
    }

    fn json(self) -> Value {
        json!({ "n": self.n, "p50": self.p50, "p99": self.p99, "max": self.max })
    }
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Row(Value);

impl Row {
    /// In milliseconds, below a title.
    pub fn new(title: &str, what: impl Into<String>, ours: Spread) -> Self {
        let what = what.into();
        Self(json!({ "title": title, "what": what, "unit": "ms", "ours": ours.json() }))
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.0[key] = value;
        self
    }

    /// On that dataplane.
    pub fn on(self, dataplane: &str) -> Self {
        self.with("dataplane", dataplane.into())
    }

    /// In that unit.
    pub fn in_unit(self, unit: &str) -> Self {
        self.with("unit", unit.into())
    }

    /// Beside a control of the same run.
    pub fn beside(self, what: &str, took: Spread) -> Self {
        let mut control = took.json();
        control["what"] = what.into();
        self.with("control", control)
    }

    /// With what the project has set itself.
    pub fn within(self, says: &str, kept: bool) -> Self {
        self.with("budget", json!({ "says": says, "kept": kept }))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<Value>,
    title: String,
}

impl Rows {
    /// Takes a row, and shows it.
    pub fn add(&mut self, row: Row) {
        let Row(row) = row;
        let title = row["title"].as_str().unwrap_or_default();
        if self.title != title {
            println!("\n{title}");
            title.clone_into(&mut self.title);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let figure = |value: &Value| value.as_f64().unwrap_or_default();
        let (what, unit, ours) = (text(&row["what"]), text(&row["unit"]), &row["ours"]);
        let mut line = format!(
            "  {what:<58} {:<9}{:>10.3}{:>10.3} {unit}",
            text(&row["dataplane"]),
            figure(&ours["p50"]),
            figure(&ours["p99"])
        );
        let control = &row["control"];
        if control.is_object() {
            let p50 = figure(&control["p50"]);
            let ratio = figure(&ours["p50"]) / p50;
            line += &format!("  {:<24}{p50:>10.3}{ratio:>8.2}", text(&control["what"]));
        }
        if row["budget"].is_object() {
            let kept = row["budget"]["kept"] == true;
            let says = text(&row["budget"]["says"]);
            line += &format!("  {} ({says})", if kept { "kept" } else { "MISSED" });
        }
        println!("{line}");
        self.rows.push(row);
    }

    /// Writes them where a file is named.
    pub fn write(self, path: Option<PathBuf>) {
        if let Some(path) = path {
            std::fs::write(path, Value::from(self.rows).to_string()).unwrap();
        }
    }
}
