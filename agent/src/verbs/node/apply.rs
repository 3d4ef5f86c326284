//! Does what was planned, and says each step.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::plan::{Plan, Step};
use super::wanted::Edit;
use crate::atomic_file;
use crate::exec::{Exec, ExecError};
use crate::telemetry::chain;

/// A step failed; those before it are done, and doing it again goes on where it ended.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file, link or directory.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program.
    #[error("cannot do the step `{step}`")]
    Run {
        /// What was to be done.
        step: String,
        /// Why not.
        #[source]
        source: ExecError,
    },
}

/// Does all steps.
pub(super) async fn apply(
    plan: &Plan,
    exec: &Exec,
    say: &mut impl FnMut(&str),
) -> Result<(), ApplyError> {
    for step in &plan.steps {
        match step {
            Step::Write(edit) => {
                let Edit { path, changes, .. } = edit;
                write(edit).map_err(failed(path))?;
                say(&format!("wrote {}: {}", path.display(), changes.join("; ")));
            }
            Step::Link { path, target } => {
                link(path, target).map_err(failed(path))?;
                say(&format!("linked {} to {}", path.display(), target.display()));
            }
            Step::Run { program, args, must, .. } => match exec.run(program, args, b"").await {
                Ok(_) => say(&format!("ran {}", step.to_do().trim_start_matches("run "))),
                Err(source) if *must => {
                    return Err(ApplyError::Run { step: step.to_do(), source });
                }
                Err(error) => say(&format!("went on without: {}", chain(&error))),
            },
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> ApplyError {
    let path = path.to_owned();
    |source| ApplyError::Write { path, source }
}

/// Whole or not at all; owner and permissions stay.
fn write(edit: &Edit) -> std::io::Result<()> {
    if let Some(directory) = edit.path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let before = edit.path.metadata().ok();
    // A password in a URL is for root alone.
    let mode = if edit.text.contains('@') { 0o600 } else { 0o644 };
    let mode = before.as_ref().map_or(mode, |before| before.permissions().mode() & 0o7777);
    atomic_file::replace(&edit.path, mode, |out| {
        out.write_all(edit.text.as_bytes())?;
        let file = out.get_ref();
        if let Some(before) = &before {
            std::os::unix::fs::fchown(file, Some(before.uid()), Some(before.gid()))?;
        }
        // Whatever the umask is.
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    })
}

fn link(path: &Path, target: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // In the place of one that leads nowhere in one step.
    let new = atomic_file::unfinished(path);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &new)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_keep_their_permissions_and_a_step_that_failed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/agent.toml");
        let edit = |text: &str| Edit { path: path.clone(), text: text.to_owned(), changes: vec![] };
        let run = |program, must| Step::Run {
            program,
            args: vec!["x".to_owned()],
            purpose: "a test".to_owned(),
            must,
        };
        let link = Step::Link { path: dir.path().join("bin/calico"), target: "/nowhere".into() };
        let steps = vec![
            Step::Write(edit("a = 1\n")),
            link.clone(),
            link,
            run("false", false),
            run("true", true),
        ];
        let plan = Plan { steps, ..Plan::default() };
        let mut said = Vec::new();
        apply(&plan, &Exec::default(), &mut |line| said.push(line.to_owned())).await.unwrap();
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(said[3].starts_with("went on without: false exit status: 1"), "{said:?}");
        assert_eq!(
            std::fs::read_link(dir.path().join("bin/calico")).unwrap(),
            Path::new("/nowhere")
        );
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o644);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        write(&edit("b = 1\n")).unwrap();
        assert_eq!((mode(), std::fs::read_to_string(&path).unwrap().as_str()), (0o640, "b = 1\n"));
        std::fs::remove_file(&path).unwrap();
        write(&edit("http://u:p@x")).unwrap();
        assert_eq!(mode(), 0o600);

        let plan = Plan { steps: vec![run("false", true), run("true", true)], ..Plan::default() };
        let mut said = 0;
        let error = apply(&plan, &Exec::default(), &mut |_| said += 1).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot do the step `run false x (a test)`");
        assert_eq!(said, 0);
    }
}
