//! Writes the manual pages and the completions of `calico-agent` into a directory. They are made of
//! the definition of its command line, in a program of their own: the agent does not grow by them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use calico_agent::cli::Cli;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// The name that people type.
const NAME: &str = "calico-agent";

/// Its section: administration.
const SECTION: &str = "8";

/// Shells that distributions have a place for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: calico-manual DIRECTORY")?;
    write(Path::new(&directory)).map(drop)
}

/// Writes everything; returns the files.
fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut written = Vec::new();
    for (name, page) in pages()? {
        let path = directory.join(name);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    for shell in SHELLS {
        let path = generate_to(shell, &mut Cli::command(), NAME, directory)
            .with_context(|| format!("cannot write the completions for {shell}"))?;
        written.push(path);
    }
    Ok(written)
}

/// File names and texts: one page for the program, one for each command that is not hidden.
fn pages() -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = vec![page(&command, NAME)?];
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages.push(page(sub, &format!("{NAME}-{}", sub.get_name()))?);
    }
    Ok(pages)
}

fn page(command: &Command, name: &str) -> Result<(OsString, Vec<u8>)> {
    let file = format!("{name}.{SECTION}").into();
    let mut rendered = Vec::new();
    // The page of a subcommand is found under both names, with a dash between. clap keeps names for
    // ever; otherwise the agent's clap would have to be another, too.
    let command = command.clone().name(&*name.to_owned().leak());
    Man::new(command).title(name.to_uppercase()).section(SECTION).render(&mut rendered)?;
    // What `--help` ends with is a table in lines of its own.
    let text = String::from_utf8(rendered)?;
    let text = match text.split_once(".SH EXTRA\n") {
        Some((before, after)) => {
            let after = after.replacen(".SH ", ".fi\n.SH ", 1);
            format!("{before}.SH NOTES\n.nf\n{after}")
        }
        None => text,
    };
    Ok((file, text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long options of a command and its subcommands that are shown.
    fn options(command: &Command) -> Vec<String> {
        let shown = command.get_arguments().filter(|option| !option.is_hide_set());
        shown.filter_map(|option| option.get_long().map(str::to_owned)).collect()
    }

    #[test]
    fn every_command_has_a_page_with_its_options_and_every_shell_completes_them() {
        let directory = tempfile::tempdir().unwrap();
        let written = write(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        let mut command = Cli::command();
        command.build();
        let commands: Vec<_> = command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
            .collect();
        assert_eq!(written.len(), 1 + commands.len() + SHELLS.len());
        let main = read("calico-agent.8");
        let table = main.split_once(".nf\n").and_then(|(_, rest)| rest.split_once(".fi\n"));
        assert!(table.is_some_and(|(table, _)| table.contains("\nExit codes:\n")), "{main}");
        let shells = ["calico-agent.bash", "_calico-agent", "calico-agent.fish"].map(read);
        for sub in &commands {
            let name = sub.get_name();
            let page = read(&format!("calico-agent-{name}.8"));
            assert!(
                main.contains(&format!("calico\\-agent\\-{}", name.replace('-', "\\-"))),
                "{name}"
            );
            for option in options(sub) {
                let escaped = option.replace('-', "\\-");
                assert!(page.contains(&format!("\\-\\-{escaped}")), "{name} --{option}: {page}");
                for shell in &shells {
                    assert!(shell.contains(&option), "{name} --{option}");
                }
            }
        }
        // Nothing of this machine or of today: the same definitions give the same bytes.
        let again = tempfile::tempdir().unwrap();
        for (one, other) in written.iter().zip(write(again.path()).unwrap()) {
            assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap(), "{}", one.display());
        }
    }
}
