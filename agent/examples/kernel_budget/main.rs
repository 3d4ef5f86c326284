//! Measures what a change of policy costs on its way into the kernel: the whole policy of a host, and
//! single changes of it, on each dataplane, at different sizes, beside the system's own tools that are
//! told the same, and beside the bytes of the same transaction made beforehand.
//!
//! ```text
//! cargo run --release --example kernel_budget -- [--full] [--dataplanes legacy,nft,nftables] [--rows FILE]
//! ```
//!
//! Needs root: everything happens in network namespaces of its own. `make bench` runs it and takes over
//! its rows. Ours and the control take turns; compare the two of one row, not absolute times.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a tool for people that stops at whatever is wrong"
)]
#![allow(unreachable_pub, missing_docs, reason = "what the examples share is public in none")]

mod change;
mod host;
mod large;
mod netns;
#[path = "../support/rows.rs"]
mod rows;
mod samples;
mod tools;
mod transaction;
mod updates;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use crate::rows::Rows;
use crate::world::{Dataplane, Size};

#[derive(Parser)]
struct Cli {
    /// Every size, more samples.
    #[arg(long)]
    full: bool,
    /// Only these dataplanes.
    #[arg(long, value_delimiter = ',')]
    dataplanes: Vec<Dataplane>,
    /// Where the figures go as JSON.
    #[arg(long)]
    rows: Option<PathBuf>,
}

fn main() {
    let cli = Cli::parse();
    let dataplanes = match cli.dataplanes.as_slice() {
        [] => vec![Dataplane::Legacy, Dataplane::Nft, Dataplane::Nftables],
        some => some.to_vec(),
    };
    let size = |endpoints, classes| Size { endpoints, classes };
    // A class without an endpoint is none.
    let sizes = if cli.full {
        vec![
            size(100, 10),
            size(100, 100),
            size(500, 10),
            size(500, 100),
            size(2000, 10),
            size(2000, 100),
            size(2000, 1000),
        ]
    } else {
        vec![size(100, 10), size(2000, 100)]
    };
    // What a budget is asked of. Of nftables that is the transaction; iptables-nft grows as legacy does.
    let hosts =
        |size: Size, dataplane| cli.full || size.endpoints == 100 || dataplane == Dataplane::Legacy;
    let mut rows = Rows::default();
    let begin = Instant::now();
    for size in sizes {
        for dataplane in &dataplanes {
            if hosts(size, *dataplane) {
                updates::measure(*dataplane, size, cli.full, &mut rows);
            }
            if *dataplane == Dataplane::Nftables {
                updates::alone(size, cli.full, &mut rows);
            }
            eprintln!("{size:?}, {dataplane:?}: at {:.0} s", begin.elapsed().as_secs_f64());
        }
    }
    // Both kinds of iptables have the same sets.
    for dataplane in dataplanes.iter().filter(|&&one| cli.full || one != Dataplane::Nft) {
        large::measure(*dataplane, cli.full, &mut rows);
        eprintln!("large, {dataplane:?}: at {:.0} s", begin.elapsed().as_secs_f64());
    }
    rows.write(cli.rows);
}
