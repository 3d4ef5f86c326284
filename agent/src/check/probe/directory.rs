//! Looks at the files of a datastore on this host. Writes nothing.

use std::path::Path;

use calico_datastore::backend::directory::{Directory, DirectoryConfig, survey};
use calico_datastore::layout::v3;
use calico_datastore::store::Store;
use nix::unistd::{AccessFlags, access};

use crate::check::judge::directory::DirectoryFacts;
use crate::telemetry::chain;

/// What is there.
pub async fn probe(config: &DirectoryConfig) -> DirectoryFacts {
    let stored = Directory::new(config.clone()).get(v3::LAYOUT.ready_key).await;
    // Absent means yes, and what cannot be read is told otherwise.
    let ready = stored.ok().flatten().is_none_or(|said| v3::LAYOUT.is_ready(Some(&said.value)));
    DirectoryFacts {
        admin: config.admin.clone(),
        files: survey(&config.admin).map_err(|error| chain(&error)),
        state: config.state.clone(),
        writable: is_writable(&config.state),
        ready,
    }
}

/// Whether something may be written into a directory, or made where it is not there yet.
fn is_writable(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.is_some_and(|path| access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
}
