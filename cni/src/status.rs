//! STATUS: could an ADD be served?

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::directories::Directories;
use crate::protocol::{CniError, Code, Command, Invocation};
use crate::{datastore, delegate, pool};

/// How long the agent may take to say whether it is ready.
const LIMIT: Duration = Duration::from_secs(2);

/// Everything that an ADD needs: this host's name, the datastore, addresses, the agent.
///
/// # Errors
/// Code 50, or 51 when existing pods suffer as well: without an agent nothing follows changes.
pub(crate) async fn status(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    if call.conf.policy_timeout.is_none_or(|limit| !limit.is_zero()) {
        agent(&dirs.agent_socket()).await?;
    }
    if call.conf.ipam.is_delegated() {
        open(call, &dirs).await?;
        return match delegate::pass_on(call).await {
            // One that is older than STATUS says that it does not know the command.
            Err(error) if is_unknown_command(&error) => Ok(()),
            other => other,
        };
    }
    of_addresses(call).await
}

/// What `calico-ipam` needs.
///
/// # Errors
/// Code 50.
pub(crate) async fn of_addresses(call: &Invocation) -> Result<(), CniError> {
    let dirs = Directories::of(&call.conf);
    let store = open(call, &dirs).await?;
    let pools = pool::list(&store).await.map_err(not_available)?;
    if call.conf.ipam.subnet.is_none() && !pools.iter().any(|pool| pool.enabled) {
        return Err(CniError::new(
            Code::NotAvailable,
            "there is no pool to give addresses from",
            "make one with calicoctl, or name its addresses as ipam.subnet",
        ));
    }
    Ok(())
}

async fn open(
    call: &Invocation,
    dirs: &Directories,
) -> Result<calico_datastore::store::AnyStore, CniError> {
    dirs.node_name(&call.conf).map_err(not_available)?;
    datastore::open_ready(&call.conf).await.map_err(not_available)
}

fn not_available(error: CniError) -> CniError {
    CniError { code: Code::NotAvailable as u32, ..error }
}

/// What a plugin that is older than a command says.
pub(crate) fn is_unknown_command(error: &CniError) -> bool {
    [Code::InvalidEnvironment as u32, Code::IncompatibleVersion as u32].contains(&error.code)
        && [Command::Status, Command::Gc].iter().any(|command| {
            error.msg.contains(command.as_str()) || error.details.contains(command.as_str())
        })
}

async fn agent(socket: &Path) -> Result<(), CniError> {
    let limited =
        |msg: &str, details: String| CniError::new(Code::LimitedConnectivity, msg, details);
    let answer = tokio::time::timeout(LIMIT, ask(socket)).await;
    let why = match answer {
        Ok(Ok(line)) if line.contains(" 200 ") => return Ok(()),
        Ok(Ok(line)) => {
            let details = format!("it says {line:?}; `calico-agent status` says what it waits for");
            return Err(limited("calico-agent is not ready", details));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
    };
    let details = format!("{}: {why}; start it: systemctl start calico-agent", socket.display());
    Err(limited("no calico-agent answers on this host", details))
}

/// The first line of the agent's answer to `GET /ready`.
async fn ask(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = b"GET /ready HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = vec![];
    stream.take(4096).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
