//! `calico-sbom`: what the released programs are made of, as a CycloneDX bill of materials and as the
//! licences that have to go with them.
//!
//! Reads what `cargo tree` and `cargo metadata` print, since Cargo alone knows which crates and
//! features are in a program; `packaging/dist/build` runs it. The same input gives the same bytes.

mod bird;
mod cyclonedx;
mod licences;
mod parts;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;

use crate::cyclonedx::Release;

#[derive(Parser)]
#[command(name = "calico-sbom", about = "Bill of materials and licences of a release")]
struct Cli {
    /// `cargo tree -e normal,no-proc-macro --prefix none --format '{p}'` of the programs.
    #[arg(long)]
    tree: PathBuf,
    /// `cargo metadata --format-version 1` for the same target.
    #[arg(long)]
    metadata: PathBuf,
    /// `Cargo.lock`, for the checksums.
    #[arg(long)]
    lock: PathBuf,
    /// The file that says which BIRD is in the release.
    #[arg(long)]
    bird: PathBuf,
    /// `rustc --version`.
    #[arg(long)]
    rustc: String,
    /// The architecture of the programs.
    #[arg(long)]
    arch: String,
    /// The time of the release, `2026-11-21T19:00:00Z`.
    #[arg(long)]
    time: String,
    /// Where the bill of materials goes.
    #[arg(long)]
    sbom: PathBuf,
    /// Where the licences go.
    #[arg(long)]
    licences: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let parts = parts::collect(&read(&cli.tree)?, &read(&cli.metadata)?, &read(&cli.lock)?)?;
    let release = Release {
        bird: bird::parse(&read(&cli.bird)?)?,
        rust: cli.rustc.split_whitespace().nth(1).context("rustc says no version")?.to_owned(),
        arch: cli.arch,
        time: cli.time,
    };
    write(&cli.sbom, &cyclonedx::render(&parts, &release)?)?;
    write(&cli.licences, &licences::render(&parts)?)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
