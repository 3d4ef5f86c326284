//! Gets each piece, as text, in bounded time.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use calico_datastore::store::Store as _;
use calico_datastore::timestamp::rfc3339;

use super::pieces::{NETWORKS, Piece, Source, VERSIONS};
use super::secrets::{REMOVED, is_secret};
use crate::api::{client, table};
use crate::check::{self, finding};
use crate::cli::RunArgs;
use crate::config::Env;
use crate::exec::{Exec, ExecError, Output};
use crate::felix::counters::Counters;
use crate::felix::ipset::Sets;
use crate::preview;
use crate::startup::Startup;
use crate::telemetry::chain;

/// The longest that one program may take.
pub(super) const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
/// The longest that one piece may take: `check` starts many programs.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
/// The longest that the datastore may take.
const STORE_LIMIT: Duration = Duration::from_secs(20);
/// So many bytes of one piece are kept.
const MOST_BYTES: usize = 16 << 20;
/// So many bytes of each of several files in one piece.
const MOST_OF_FILE: usize = 1 << 20;
/// So many files of one directory, with those below.
const MOST_FILES: usize = 2000;

/// What pieces are made of.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Starts programs.
    pub(super) exec: Exec,
    /// The directories, and what was typed of the datastore.
    pub(super) run: RunArgs,
    /// The environment that the agent's unit has.
    pub(super) env: Env,
}

/// The text of a piece, or why there is none.
pub(super) async fn collect(host: &Host, piece: &Piece) -> Result<String, String> {
    let made = tokio::time::timeout(PIECE_LIMIT, text_of(host, &piece.source)).await;
    let text = made.unwrap_or_else(|_| Err(format!("not had within {PIECE_LIMIT:?}")))?;
    // Of a journal the end says more.
    Ok(bounded(text, piece.name.starts_with("journal/")))
}

async fn text_of(host: &Host, source: &Source) -> Result<String, String> {
    let socket = host.run.paths().api_socket();
    match source {
        Source::Program(program, args) => {
            let output = host.exec.run(program, args, b"").await.map_err(|e| chain(&e))?;
            Ok(printed(&output))
        }
        Source::Bird(args) => first_of(&host.exec, &bird_clients(), args).await,
        Source::Versions => Ok(versions(&host.exec).await),
        Source::File(path) => {
            let path = path.clone();
            apart(move || std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display())))
                .await
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        }
        Source::Files(path) => {
            let path = path.clone();
            apart(move || contents(&path, None)).await
        }
        Source::Networks(path) => {
            let path = path.clone();
            apart(move || contents(&path, Some(&NETWORKS))).await
        }
        Source::Listing(path) => {
            let path = path.clone();
            apart(move || listing(&path)).await
        }
        Source::Agent(path) => client::text(&socket, path).await.map_err(|e| chain(&e)),
        Source::Status => client::status(&socket)
            .await
            .map(|status| table::render(&status))
            .map_err(|e| chain(&e)),
        Source::Check => Ok(finding::render(&check::check(&host.run, host.env.clone()).await)),
        Source::Plan => {
            let startup = Startup::read(&host.run, host.env.clone()).map_err(|e| chain(&e))?;
            let plan = preview::preview(startup).await.map_err(|e| chain(&e))?;
            Ok(preview::render::render(&plan))
        }
        Source::Sets => sets().await,
        Source::Datastore => {
            let stored = tokio::time::timeout(STORE_LIMIT, datastore(host)).await;
            stored.unwrap_or_else(|_| Err(format!("no answer within {STORE_LIMIT:?}")))
        }
    }
}

/// Beside the other pieces: a disk may hang.
async fn apart<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn printed(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.stderr.is_empty() {
        let _ = writeln!(text, "{}", output.stderr);
    }
    text
}

/// The tarball and the system extension bring the client that needs no library for its command line,
/// and not every `PATH` leads to it: it lies beside this program.
fn bird_clients() -> Vec<String> {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.with_file_name("birdcl").display().to_string();
    vec!["birdc".to_owned(), "birdcl".to_owned(), beside]
}

/// What the first of several programs prints that is installed.
async fn first_of(exec: &Exec, programs: &[String], args: &[String]) -> Result<String, String> {
    for program in programs {
        match exec.run(program, args, b"").await {
            Err(error) if error.is_missing() => {}
            made => return made.map(|output| printed(&output)).map_err(|error| chain(&error)),
        }
    }
    Err(format!("not installed: {}", programs.join(", ")))
}

async fn versions(exec: &Exec) -> String {
    let mut text = format!("calico-agent {}\n", env!("CARGO_PKG_VERSION"));
    for (program, args) in VERSIONS {
        let said = match exec.run(program, &[args], b"").await {
            Ok(output) => printed(&output),
            Err(error @ ExecError::Start { .. }) if error.is_missing() => {
                "not installed".to_owned()
            }
            Err(error) => chain(&error),
        };
        let _ = writeln!(text, "--- {program} {args}\n{}", said.trim_end());
    }
    text
}

/// Our address sets as the kernel has them; `ipset` need not be installed.
async fn sets() -> Result<String, String> {
    let sets = Sets::new(Counters::default()).read().await.map_err(|error| chain(&error))?;
    let mut text = String::new();
    for (name, set) in &sets {
        let _ = writeln!(text, "{name}: {} members", set.members.len());
        let mut members: Vec<String> = set.members.iter().map(ToString::to_string).collect();
        members.sort();
        for member in members {
            let _ = writeln!(text, "  {member}");
        }
    }
    Ok(text)
}

/// One line for each key, with its revision and its value.
async fn datastore(host: &Host) -> Result<String, String> {
    let startup = Startup::read(&host.run, host.env.clone()).map_err(|error| chain(&error))?;
    let location = startup.local.datastore.clone().below(&startup.paths.state_dir);
    let store = location.open().map_err(|error| chain(&error))?;
    let mut text = String::new();
    for prefix in store.layout().prefixes {
        let stored = store.list(prefix).await.map_err(|error| chain(&error))?;
        for (key, stored) in stored {
            let value = String::from_utf8_lossy(&stored.value);
            let name = key.rsplit('/').next().unwrap_or_default();
            // A value without a format has its name in the key.
            let value = if is_secret(name) && !value.starts_with('{') { REMOVED } else { &*value };
            let _ = writeln!(text, "{key} @{} {value}", stored.revision);
            if text.len() > MOST_BYTES {
                return Ok(text);
            }
        }
    }
    Ok(text)
}

/// Files below a directory, in order.
fn below(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        let entries = match std::fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if next == directory => {
                return Err(format!("{}: {error}", next.display()));
            }
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else if found.len() < MOST_FILES {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Their contents, one behind the other; with `endings` those of files that end so, and of the
/// others the names.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn contents(directory: &Path, endings: Option<&[&str]>) -> Result<String, String> {
    let mut text = String::new();
    for path in below(directory)? {
        let _ = writeln!(text, "--- {}", path.display());
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if endings.is_some_and(|endings| !endings.contains(&ending)) {
            let _ = writeln!(text, "not read: only .{}", endings.unwrap_or_default().join(", ."));
            continue;
        }
        // What is no file (a socket, a pipe) may never end.
        let file = path.metadata().is_ok_and(|metadata| metadata.is_file());
        let read = if file { std::fs::read(&path) } else { continue };
        match read {
            Ok(bytes) => {
                let bytes = &bytes[..bytes.len().min(MOST_OF_FILE)];
                let _ = writeln!(text, "{}", String::from_utf8_lossy(bytes).trim_end());
            }
            Err(error) => {
                let _ = writeln!(text, "not available: {error}");
            }
        }
    }
    Ok(text)
}

fn listing(directory: &Path) -> Result<String, String> {
    let mut text = String::new();
    for path in below(directory)? {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let _ = writeln!(
            text,
            "{:06o} {:>10} {} {}",
            metadata.permissions().mode(),
            metadata.len(),
            rfc3339(changed),
            path.display()
        );
    }
    Ok(text)
}

/// The beginning, or the end, of a text that is too long.
fn bounded(text: String, end: bool) -> String {
    if text.len() <= MOST_BYTES {
        return text;
    }
    let left_out = text.len() - MOST_BYTES;
    if end {
        let from = boundary(&text, left_out);
        return format!("[{left_out} bytes before this are left out]\n{}", &text[from..]);
    }
    let to = boundary(&text, MOST_BYTES);
    format!("{}\n[{left_out} bytes behind this are left out]\n", &text[..to])
}

/// The next place at which a character begins.
fn boundary(text: &str, at: usize) -> usize {
    (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::DirectoryArgs;

    fn host(dir: &Path, limit: Duration) -> Host {
        let sub = |name: &str| dir.join(name);
        let run = RunArgs {
            directories: DirectoryArgs {
                config_dir: sub("etc"),
                run_dir: sub("run"),
                state_dir: sub("lib"),
            },
            nodename: Some("n".to_owned()),
            datastore: Some(format!("dir:{}", sub("resources").display())),
            ..RunArgs::default()
        };
        Host { exec: Exec::new(limit), run, env: Env::default() }
    }

    async fn get(host: &Host, source: Source) -> Result<String, String> {
        collect(host, &Piece { name: "x".to_owned(), source }).await
    }

    #[tokio::test]
    async fn what_cannot_be_had_says_why_and_nothing_is_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), Duration::from_millis(100));
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        for (source, expected) in [
            (Source::Program("sleep", words("60")), "did not finish within 100ms"),
            (Source::Program("no-such-program", words("")), "cannot start no-such-program"),
            (Source::Program("ls", words("/nowhere")), "No such file"),
            (Source::File("/nowhere".into()), "/nowhere: No such file"),
            (Source::Files("/nowhere".into()), "/nowhere: No such file"),
            (Source::Agent("/status"), "no agent answers"),
        ] {
            let error = get(&host, source).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn files_are_read_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), PROGRAM_LIMIT);
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/two"), "2\n").unwrap();
        std::fs::write(dir.path().join("a/one"), "1").unwrap();
        let there = dir.path().join("a");
        let text = get(&host, Source::Files(there.clone())).await.unwrap();
        let at = there.display();
        assert_eq!(text, format!("--- {at}/b/two\n2\n--- {at}/one\n1\n"));
        let text = get(&host, Source::Listing(there.clone())).await.unwrap();
        assert!(text.lines().count() == 2 && text.contains(&format!(" {at}/one")), "{text}");
    }

    #[tokio::test]
    async fn of_networks_no_plugin_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), PROGRAM_LIMIT);
        let (at, there) = (dir.path().display(), dir.path().join("net.d"));
        std::fs::create_dir_all(&there).unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, b"\x7fELF\0ETCD_PASSWORD=calico-agent\0").unwrap();
        std::os::unix::fs::symlink(&program, there.join("calico")).unwrap();
        std::fs::write(there.join("kubeconfig"), "client-key-data: abc").unwrap();
        for name in ["a.conf", "b.conflist", "c.json"] {
            std::fs::write(there.join(name), name).unwrap();
        }
        let text = get(&host, Source::Networks(there.clone())).await.unwrap();
        let mut expected = String::new();
        for name in ["a.conf", "b.conflist", "c.json"] {
            let _ = writeln!(expected, "--- {at}/net.d/{name}\n{name}");
        }
        for name in ["calico", "kubeconfig"] {
            let why = "not read: only .conf, .conflist, .json";
            let _ = writeln!(expected, "--- {at}/net.d/{name}\n{why}");
        }
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn the_client_that_is_there_is_asked() {
        let exec = Exec::new(PROGRAM_LIMIT);
        let names = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let echo = first_of(&exec, &names("no-such-program /no/such echo ls"), &names("x")).await;
        assert_eq!(echo.unwrap(), "x\n");
        // One that answers badly is not passed over.
        let ls = first_of(&exec, &names("ls echo"), &names("/nowhere")).await;
        assert!(ls.unwrap_err().contains("No such file"));
        let none = first_of(&exec, &names("no-such-program /no/such"), &names("x")).await;
        assert_eq!(none.unwrap_err(), "not installed: no-such-program, /no/such");
        assert!(bird_clients()[2].starts_with('/') && bird_clients()[2].ends_with("/birdcl"));
    }

    #[test]
    fn a_long_text_says_what_is_left_out() {
        let long = "ä".repeat(MOST_BYTES / 2 + 10);
        let head = bounded(long.clone(), false);
        assert!(head.ends_with("[20 bytes behind this are left out]\n"));
        assert!(bounded(long, true).starts_with("[20 bytes before this are left out]\nä"));
        assert_eq!(bounded("x".to_owned(), true), "x");
    }
}
