//! The tarball's and the extension's content, from programs that are built already: those under test, and
//! BIRD of this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use calico_e2e::host::agent_binary;
use calico_e2e::process::Command;
use calico_e2e::rkt::plugin_binary;

use super::project;

/// The release, as the provisioning files name it.
pub(super) const NAME: &str = "calico-agent-0.1.0";

/// Lays `form` out in `dir` as `packaging/dist/build` does; returns where it is.
pub(super) fn make(form: &str, dir: &Path) -> Result<PathBuf> {
    let packaging = project().join("packaging");
    let (tree, bird) = (dir.join("system"), dir.join("bird"));
    Command::new(packaging.join("install"))
        .arg(&tree)
        .env("BINARY", agent_binary()?)
        .env("PLUGIN", plugin_binary()?)
        .run()?;
    std::fs::create_dir_all(&bird)?;
    for program in ["bird", "birdcl"] {
        let places = ["/usr/sbin", "/usr/bin"].map(|place| Path::new(place).join(program));
        let found = places.iter().find(|path| path.exists());
        let found = found.with_context(|| format!("no {program} (scripts/setup)"))?;
        std::fs::copy(found, bird.join(program))?;
    }
    let out = dir.join(NAME);
    Command::new(packaging.join("dist/relocate")).arg(form).args([&tree, &bird, &out]).run()?;
    if form == "opt" {
        std::fs::copy(packaging.join("dist/install"), out.join("install"))?;
    }
    Ok(out)
}
