//! One call of the plugin, from what it was told to what it answers.

use crate::journal::{self, Priority};
use crate::protocol::{CniError, Code, Command, Invocation, Success};
use crate::{add, calico_ipam, check, del, gc, log, status};

/// Does what `calico` is asked for. ADD prints its result itself.
///
/// # Errors
/// What the runtime is to be told.
pub fn calico(call: &Invocation) -> Result<Option<Success>, CniError> {
    log::to_stderr(&call.conf);
    let done = block_on(async {
        match call.command {
            Command::Add => add::add(call).await,
            Command::Del => del::del(call).await,
            Command::Check => check::check(call).await,
            Command::Gc => gc::gc(call).await,
            Command::Status => status::status(call).await,
            Command::Version => Ok(()),
        }
    });
    if let Err(error) = &done
        && matches!(call.command, Command::Add | Command::Del | Command::Gc)
    {
        let what = format!("{} failed: {error}", call.command.as_str());
        journal::say(Priority::Error, &what, &call.container_id, &call.ifname);
    }
    done.map(|()| None)
}

/// Does what `calico-ipam` is asked for.
///
/// # Errors
/// What the calling plugin is to be told.
pub fn calico_ipam(call: &Invocation) -> Result<Option<Success>, CniError> {
    log::to_stderr(&call.conf);
    block_on(calico_ipam::run(call))
}

/// One thread does: everything waits for the datastore or the kernel, one after the other.
fn block_on<T>(work: impl Future<Output = Result<T, CniError>>) -> Result<T, CniError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|e| CniError::new(Code::Io, "the plugin cannot start", e.to_string()))?;
    runtime.block_on(work)
}
