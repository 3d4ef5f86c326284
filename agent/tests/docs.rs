//! The documents say what the code does.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::path::Path;

use calico_agent::cli::{Cli, exit};
use clap::Parser as _;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    assert!(path.exists(), "{} is not there", path.display());
    std::fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn the_page_about_explain_names_every_option_and_exit_code() {
    let text = document("docs/explain.md");
    let command = <Cli as clap::CommandFactory>::command();
    let explain = command.find_subcommand("explain");
    let options = explain.into_iter().flat_map(|explain| explain.get_arguments());
    let options: Vec<_> = options.filter_map(|option| option.get_long()).collect();
    assert!(options.len() > 15, "{options:?}");
    for option in options {
        assert!(text.contains(&format!("`--{option}`")), "--{option}");
    }
    for code in [exit::DENIED, exit::UNKNOWN, exit::FAILURE, exit::NOT_RUNNING, exit::USAGE] {
        let (_, codes) = text.split_once("The exit code:").unwrap_or_default();
        let codes = codes.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        assert!(codes.contains(&format!("; {code} ")), "{code} in {codes}");
    }
}

/// The pages of the project.
fn pages() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<_> = names
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .chain(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned))
        .collect();
    pages.sort();
    pages
}

#[test]
fn the_page_about_commands_names_every_option_of_its_commands() {
    let text = document("docs/commands.md");
    let command = <Cli as clap::CommandFactory>::command();
    for name in
        ["node", "addgroup", "addtogroup", "showgroups", "master", "diags", "log-level", "reload"]
    {
        let verb = command.find_subcommand(name).unwrap_or_else(|| panic!("no {name}"));
        let section = text.split("\n## ").find(|section| {
            section.lines().next().is_some_and(|heading| heading.contains(&format!("`{name}`")))
        });
        let section = section.unwrap_or_else(|| panic!("no section about {name}"));
        // Those of all commands are said once, at the end.
        let common = ["datastore", "nodename", "config-dir", "run-dir", "state-dir", "etcd"];
        let options = verb.get_arguments().filter_map(|option| option.get_long());
        for option in options.filter(|option| *option != "help") {
            let place = if common.contains(&option) { text.as_str() } else { section };
            assert!(place.contains(&format!("`--{option}")), "{name}: --{option}");
        }
    }
}

#[test]
fn every_path_that_a_document_links_to_exists() {
    for name in pages() {
        for link in document(&name).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !link.starts_with('#') {
                let beside =
                    Path::new(&name).with_file_name(link.split('#').next().unwrap_or(link));
                document(&beside.to_string_lossy());
            }
        }
    }
}

/// Calls of the agent in a page: lines of blocks, and what stands between backticks.
fn calls(text: &str) -> Vec<String> {
    let mut calls = Vec::new();
    let (mut block, mut console) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
            console = line == "```console";
        } else if block {
            // Of a transcript what stands behind a prompt (`calico-01# calico-agent …`).
            let typed = line.split_once("# ").filter(|(host, _)| !host.contains(' '));
            let Some(line) = (if console { typed.map(|(_, typed)| typed) } else { Some(line) })
            else {
                continue;
            };
            let line = line.trim_start_matches("sudo ").split(" #").next().unwrap_or_default();
            calls.push(line.trim().to_owned());
        } else {
            calls.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    calls.retain(|call| call.starts_with("calico-agent "));
    calls
}

/// A call with something in the place of all that stands between two marks.
fn filled(call: &str, open: &str, close: &str) -> String {
    let mut filled = String::new();
    let mut rest = call;
    while let Some((before, (_, after))) =
        rest.split_once(open).and_then(|(before, name)| Some((before, name.split_once(close)?)))
    {
        filled += before;
        filled.push('x');
        rest = after;
    }
    filled + rest
}

/// A call as one would type it, with something in the place of `<name>` and of `$(command)`; `None` for
/// what is more than one call, or none (a title, `calico-agent …`).
fn words(call: &str) -> Option<Vec<String>> {
    if call.starts_with("calico-agent <") {
        return None;
    }
    let filled = filled(&filled(call, "$(", ")"), "<", ">");
    let call = filled.split([';', '|', '>']).next()?;
    let words = call.split_whitespace().map(|word| word.trim_matches(['\\', '"']).to_owned());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    (!words.iter().any(|word| word == "…")).then_some(words)
}

#[test]
fn every_call_of_the_agent_in_a_document_is_one_that_it_takes() {
    let mut tried = 0;
    for page in pages() {
        for call in calls(&document(&page)) {
            let Some(words) = words(&call) else { continue };
            if let Err(error) = Cli::try_parse_from(&words) {
                use clap::error::ErrorKind::{
                    DisplayHelp, DisplayVersion, MissingRequiredArgument,
                };
                // What is missing is left to the reader: `calico-agent explain` in a sentence.
                let fine = [DisplayHelp, DisplayVersion, MissingRequiredArgument];
                assert!(fine.contains(&error.kind()), "{page}: {call}\n{error}");
            }
            tried += 1;
        }
    }
    assert!(tried > 40, "only {tried} calls found");
    for wrong in ["calico-agent statsu", "calico-agent status --outptu json"] {
        assert!(Cli::try_parse_from(words(wrong).unwrap()).is_err());
    }
}
