//! `calico-agent diags`: one archive with what this host should have and what it has, so that somebody
//! who cannot log in can find out what is wrong. Secrets are removed from every file of it; what cannot
//! be had is named with the reason, and nothing is waited for for long. It needs no running agent.

mod archive;
mod collect;
pub mod pieces;
pub mod secrets;
mod value;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use calico_datastore::timestamp::rfc3339;
use clap::Args;
use futures::stream::{self, StreamExt as _};

use self::archive::Archive;
use self::collect::{Host, PROGRAM_LIMIT, collect};
use self::pieces::{NETWORKS, Piece, Source, pieces};
use self::secrets::Secrets;
use crate::cli::exit;
use crate::config::{Env, FileConfig, Flags, Local};
use crate::exec::Exec;
use crate::node::name;
use crate::paths::Paths;
use crate::telemetry::chain;
use crate::terminal::{self, Progress, complain, say, small_runtime};
use crate::verbs::place::PlaceArgs;

/// How many pieces are made at the same time.
const AT_ONCE: usize = 4;

/// `calico-agent diags`.
#[derive(Clone, Debug, Args)]
pub struct DiagsArgs {
    /// Where to write it [default: calico-diags-HOST-TIME.tar.gz in this directory].
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Leave out what the datastore holds: it may be large, and that of a whole cluster.
    #[arg(long)]
    pub without_datastore: bool,
    /// Where the datastore and the agent's files are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The archive cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct Unwritten {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// What is not in the archive, and why.
#[derive(Debug, Default)]
struct Missing(Vec<(String, String)>);

/// Writes the archive and says where it is.
pub fn main(args: &DiagsArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let made = runtime.block_on(make(args));
    // What hangs is left behind.
    runtime.shutdown_background();
    match made {
        Ok((path, missing)) => {
            let path = path.display();
            let missing = match missing.0.len() {
                0 => String::new(),
                n => format!("{n} files could not be had: errors.txt in it says which, and why\n"),
            };
            say(&format!(
                "{path}\n{missing}Passwords, tokens and keys are removed. Look before you hand it on: \
                 addresses, names and policy are in it.\n"
            ));
            exit::OK
        }
        Err(error) => {
            complain(&chain(&error));
            exit::FAILURE
        }
    }
}

async fn make(args: &DiagsArgs) -> Result<(PathBuf, Missing), Unwritten> {
    let run = args.place.run();
    let paths = run.paths();
    let process = Env::of_process();
    let env = terminal::environment(&paths);
    let mut secrets = known_secrets(&env, &[&process], &pieces(&paths, false));
    // As TOML reads it: its text may have escapes. A mistake elsewhere in it makes it no less secret.
    let (file, _) = FileConfig::load_as_far(&paths.agent_toml());
    if let Some(password) = file.datastore.get("password") {
        secrets.learn(&format!("password={password}\n"));
    }
    let (now, node) = (rfc3339(SystemTime::now()), node(&run.paths(), &env, &run.flags()));
    let directory = format!("calico-diags-{node}-{}", now.replace(':', ""));
    let path = args.output.clone().unwrap_or_else(|| format!("{directory}.tar.gz").into());
    let failed = |source| Unwritten { path: path.clone(), source };
    // Before a minute's work that would be lost.
    let mut archive = Archive::create(&path, directory).map_err(failed)?;

    let host = Host { exec: Exec::new(PROGRAM_LIMIT), run, env };
    let pieces = pieces(&paths, !args.without_datastore);
    let mut progress = Progress::new(pieces.len());
    let mut missing = Missing::default();
    let host = &host;
    let made =
        stream::iter(&pieces).map(|piece| async move { (piece, collect(host, piece).await) });
    let mut made = std::pin::pin!(made.buffered(AT_ONCE));
    while let Some((piece, text)) = made.next().await {
        progress.step(&piece.name);
        if let (true, Ok(text)) = (piece.name.starts_with("systemd/"), &text) {
            secrets.learn_unit(text);
        }
        let text = text.unwrap_or_else(|error| {
            let error = secrets.clean(&error);
            missing.0.push((piece.name.clone(), error.clone()));
            format!("not available: {error}\n")
        });
        archive.add(&piece.name, &secrets.clean(&text)).map_err(failed)?;
    }
    progress.end();
    archive.add("errors.txt", &missing.text()).map_err(failed)?;
    archive.add("summary.txt", &summary(&node, &now, pieces.len(), &missing)).map_err(failed)?;
    archive.finish().map_err(failed)?;
    Ok((path, missing))
}

/// What the files that people write say, and the environment. (What units say is learned of
/// systemctl's output, as it comes.)
fn known_secrets(env: &Env, more: &[&Env], pieces: &[Piece]) -> Secrets {
    let mut secrets = Secrets::default();
    for env in [env].iter().chain(more) {
        for (name, value) in env.iter() {
            secrets.learn(&format!("{name}={value}\n"));
        }
    }
    for piece in pieces {
        let written = ["config/", "bird/"].iter().any(|start| piece.name.starts_with(start));
        match &piece.source {
            Source::File(path) if written => {
                // As it is collected, so that what has odd bytes is found again.
                let bytes = std::fs::read(path).unwrap_or_default();
                secrets.learn(&String::from_utf8_lossy(&bytes));
            }
            Source::Files(path) if written => {
                secrets.learn(&collect::contents(path, None).unwrap_or_default());
            }
            Source::Networks(path) if written => {
                secrets.learn(&collect::contents(path, Some(&NETWORKS)).unwrap_or_default());
            }
            _ => {}
        }
    }
    secrets
}

/// What this host is called, as far as that can be told.
fn node(paths: &Paths, env: &Env, flags: &Flags) -> String {
    let file = FileConfig::load(&paths.agent_toml()).unwrap_or_default();
    let local = Local::resolve(flags, env, &file).map(|local| local.node).unwrap_or_default();
    name::determine(&local, &paths.nodename())
        .map_or_else(|_| "unknown".to_owned(), |(name, _)| name.to_string())
}

impl Missing {
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, error) in &self.0 {
            let _ = writeln!(text, "{name}: {error}");
        }
        if text.is_empty() { "nothing is missing\n".to_owned() } else { text }
    }
}

fn summary(node: &str, now: &str, pieces: usize, missing: &Missing) -> String {
    let agent = missing.0.iter().find(|(name, _)| name == "agent/status.txt");
    let agent = match agent {
        Some((_, error)) => format!("does not answer: {error}"),
        None => "answers: agent/status.txt".to_owned(),
    };
    format!(
        "Diagnostics of calico-agent\nNode     {node}\nTime     {now}\nVersion  {}\nAgent    {agent}\n\
         Files    {pieces}, of which {} could not be had: errors.txt\n",
        env!("CARGO_PKG_VERSION"),
        missing.0.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_no_text_hides_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calico.env");
        std::fs::write(&path, b"# \xfc\nETCD_PASSWORD=Correct-Horse\nMY_TOKEN=b\xe4ttery\n")
            .unwrap();
        let piece =
            |name: &str| Piece { name: name.to_owned(), source: Source::File(path.clone()) };
        let known = |name| known_secrets(&Env::default(), &[], &[piece(name)]);
        let text = "login with Correct-Horse and b\u{fffd}ttery failed";
        assert_eq!(
            known("config/calico.env").clean(text),
            "login with [removed] and [removed] failed"
        );
        assert_eq!(known("journal/agent.txt").clean(text), text);
    }
}
