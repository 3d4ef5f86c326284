//! The Debian package of the programs under test: made by `packaging/deb/build`, as `make deb` does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{agent_binary, built};
use crate::process::Command;
use crate::rkt::plugin_binary;

/// When the package was made, as far as it tells: any time that is always the same.
const EPOCH: &str = "1700000000";

/// True when this machine can make one; otherwise the missing program.
pub fn missing() -> Option<&'static str> {
    ["dpkg-deb", "dpkg-shlibdeps", "strip"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err())
}

/// Makes the package of that version in `dir`, little compressed; returns its file.
///
/// # Errors
/// When a program is not built, or a step fails.
pub fn build(dir: &Path, version: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manual = dir.join("manual");
    Command::new(built("calico-manual", "calico-manual", "CALICO_MANUAL_BIN")?)
        .arg(&manual)
        .run()
        .context("no manual pages")?;
    let said = Command::new(source.join("packaging/deb/build"))
        .arg(dir)
        .env("BINARY", agent_binary()?)
        .env("PLUGIN", plugin_binary()?)
        .env("MANUAL", manual)
        .env("VERSION", version)
        .env("COMPRESS", "zstd")
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .limit(Duration::from_secs(120))
        .run()?;
    let path = said.lines().last().context("packaging/deb/build names no file")?;
    Ok(path.into())
}
