//! `calico-bench`: what the agent takes from etcd to the kernel, each figure beside a control that was
//! measured in the same run.
//!
//! `make bench` runs it, in a few minutes; `make bench FULL=1` at length. It prints tables and writes
//! `bench/results.json`. Absolute times vary from machine to machine: compare ours with the control
//! of the same row.
//!
//! Every part makes its own hosts out of network namespaces, with an etcd on the wire between them.
//! What a packet has to do with is measured with packets.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the terminal")]

mod arrival;
mod burst;
mod control;
mod endpoint;
mod forward;
mod idle;
mod pod;
mod process;
mod report;
mod stage;
mod start;
mod told;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use calico_e2e::host::Flavour;
use clap::{Parser, ValueEnum};

use crate::report::Report;

#[derive(Parser)]
#[command(name = "calico-bench", about = "From etcd to the kernel, each figure beside a control")]
struct Cli {
    /// More samples, more sizes: tens of minutes instead of a few.
    #[arg(long)]
    full: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these dataplanes.
    #[arg(long, value_delimiter = ',')]
    dataplanes: Vec<Flavour>,
    /// Where the figures go.
    #[arg(long, default_value = "bench/results.json")]
    results: PathBuf,
    /// Where the programs are that measure the agent's insides.
    #[arg(long, default_value = "target/release/examples")]
    programs: PathBuf,
    /// The tables as Markdown, too, into this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From stored values to a desired state, by itself; the policy on disk.
    Calculation,
    /// From a desired state to the kernel, at different sizes, beside the tools and a prepared batch.
    Kernel,
    /// One endpoint more beside the raw tools that write the same.
    Endpoint,
    /// An ADD of the plugin, step by step.
    Pod,
    /// One endpoint more, local and remote, until its first packet passes, beside a watch of etcd.
    Arrival,
    /// A thousand endpoints at once, and updates without end.
    Burst,
    /// From nothing, and again over what is there.
    Start,
    /// With nothing to do.
    Idle,
    /// What a packet from pod to pod costs.
    Forward,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// At length.
    pub(crate) full: bool,
}

impl Size {
    /// One of two.
    pub(crate) fn of<T>(self, quick: T, full: T) -> T {
        if self.full { full } else { quick }
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if !calico_e2e::run::is_root() {
        bail!("root is needed: hosts are network namespaces");
    }
    let size = Size { full: cli.full };
    let flavours = match cli.dataplanes.as_slice() {
        [] => vec![Flavour::Legacy, Flavour::Nft, Flavour::Nftables],
        some => some.to_vec(),
    };
    let mut report = Report::new(size.full);
    for part in Part::value_variants() {
        if !cli.only.is_empty() && !cli.only.contains(part) {
            continue;
        }
        let begin = Instant::now();
        let measured = match part {
            Part::Calculation => told::calculation(&cli.programs, &mut report),
            Part::Kernel => told::kernel(&cli.programs, size, &flavours, &mut report),
            Part::Endpoint => endpoint::measure_all(size, &flavours, &mut report),
            Part::Pod => pod::measure(size.of(60, 400), &mut report),
            Part::Arrival => arrival::measure_all(size, &flavours, &mut report),
            Part::Burst => burst::measure_all(size, &flavours, &mut report),
            Part::Start => start::measure_all(size, &flavours, &mut report),
            Part::Forward => forward::measure_all(size, &flavours, &mut report),
            Part::Idle => idle::measure_all(size, &flavours, &mut report),
        };
        // What was measured before is not lost.
        report.write(&cli.results)?;
        if let Some(path) = &cli.markdown {
            std::fs::write(path, report.markdown())?;
        }
        measured.with_context(|| format!("{part:?}"))?;
        eprintln!("{part:?}: {:.0} s", begin.elapsed().as_secs_f64());
    }
    report.print_budgets();
    println!("\nwritten to {}", cli.results.display());
    Ok(())
}
