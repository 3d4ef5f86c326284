//! Asks BIRD over its socket, and the kernel with which file it was started.

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::host;
use crate::check::judge::bird::BirdFacts;
use crate::paths::Paths;
use crate::routes::bird::{ControlError, sessions, status};
use crate::telemetry::chain;

/// How BIRD is.
pub async fn probe(paths: &Paths, proc: &Path) -> BirdFacts {
    let (config, socket) = (paths.bird_config(), paths.bird_socket());
    let status = match status(&socket).await {
        Ok(status) => Some(Ok(status)),
        Err(ControlError::Connect { .. }) => None,
        Err(error) => Some(Err(chain(&error))),
    };
    let running = matches!(status, Some(Ok(_)));
    let reads = if running { started_with(&socket, proc).await } else { None };
    let sessions = if running { sessions(&socket).await.unwrap_or_default() } else { Vec::new() };
    BirdFacts { configured: config.exists(), config, socket, status, reads, sessions }
}

/// The file behind `-c` of the process that listens. BIRD names it only when it reads it again,
/// which this is not to make it do.
async fn started_with(socket: &Path, proc: &Path) -> Option<PathBuf> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    let line = host::command_line(proc, u32::try_from(pid).ok()?);
    // No `-c`: it was built with a place, which is not ours.
    let file = config_of(&line)?;
    Some(PathBuf::from(file)).filter(|path| path.is_absolute())
}

/// `-c FILE` or `-cFILE`.
fn config_of(line: &[String]) -> Option<&str> {
    line.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("-c")? {
        "" => line.get(at + 1).map(String::as_str),
        file => Some(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_command_line() {
        for (line, expected) in [
            ("bird -f -c /a/bird.cfg -s /x", Some("/a/bird.cfg")),
            ("bird -c/a/bird.cfg", Some("/a/bird.cfg")),
            ("bird -f", None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(config_of(&words), expected, "{line}");
        }
    }
}
