//! Every event has an explanation in the journal's catalog, journald understands it, and the
//! documentation has the same ids.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calico_agent::exec::Exec;
use calico_agent::telemetry::event;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Id and text of each entry.
fn catalog() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(project("systemd/calico-agent.catalog")).unwrap();
    let entries = text.split("\n-- ").skip(1);
    let entry = |entry: &str| {
        let (id, text) = entry.split_once('\n').unwrap();
        (id.to_owned(), text.to_owned())
    };
    entries.map(entry).collect()
}

#[test]
fn each_event_has_one_explanation_and_stands_in_the_documentation() {
    let catalog = catalog();
    let document = std::fs::read_to_string(project("docs/journalctl.md")).unwrap();
    for (name, id) in event::ALL {
        let entry = catalog.get(id).unwrap_or_else(|| panic!("{name} is not explained"));
        let subject = entry.lines().next().unwrap().strip_prefix("Subject: ").unwrap();
        let row = format!("| `{name}` | {subject} | `{id}` |");
        assert!(document.contains(&row), "docs/journalctl.md has no\n{row}");
    }
    assert_eq!(catalog.len(), event::ALL.len());
}

/// All sources of the agent but its tests.
fn sources() -> String {
    let mut sources = String::new();
    let mut folders = vec![project("agent/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(path).unwrap();
                sources += text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            }
        }
    }
    sources
}

/// What the calls say that log an event, each from its fields on.
fn calls<'a>(sources: &'a str, name: &str) -> Vec<&'a str> {
    let constant = name.replace('-', "_").to_uppercase();
    let constant = if name == "connections-cut" { "CUT".to_owned() } else { constant };
    let call = format!("event = event::{constant},");
    let calls = sources.match_indices(&call).map(|(at, call)| &sources[at + call.len()..]);
    let calls: Vec<_> = calls.map(|rest| rest.split(';').next().unwrap()).collect();
    assert!(!calls.is_empty(), "nobody says {name}");
    calls
}

/// Fields that an explanation repeats are ones that the agent's lines have.
#[test]
fn explanations_repeat_fields_that_there_are() {
    let sources = sources();
    for (id, text) in catalog() {
        let (name, _) = event::ALL.iter().find(|(_, known)| *known == id).unwrap();
        let calls = calls(&sources, name);
        for field in text.split('@').skip(1).step_by(2) {
            let field = field.strip_prefix("CALICO_").unwrap().to_lowercase();
            let says = |call: &&str| call.contains(&field);
            assert!(calls.iter().any(says), "{name} has no field {field}");
        }
    }
}

/// What each event is about, as fields one of which every line about it has. None: the host as a whole.
const ABOUT: &[(&str, &[&str])] = &[
    ("started", &["node"]),
    ("ready", &["generation"]),
    ("stopping", &[]),
    ("waiting", &[]),
    ("in-sync", &[]),
    ("from-disk", &[]),
    ("refused", &["key", "file"]),
    ("accepted", &["key"]),
    // A subject that is an object becomes the field of its kind.
    ("notice", &["subject"]),
    ("problem", &["subject"]),
    ("problem-over", &["subject"]),
    ("endpoint-failed", &["endpoint"]),
    ("endpoint-up", &["endpoint"]),
    ("repaired", &["subject"]),
    ("obstacle", &["subject"]),
    ("obstacle-gone", &["subject"]),
    ("applied", &["generation"]),
    ("hangs", &[]),
    ("alive", &[]),
    ("bad-setting", &["parameter", "error"]),
    ("restart-needed", &["keys"]),
    ("peer-up", &["peer"]),
    ("peer-down", &["peer"]),
    ("denied", &["endpoint"]),
    ("collected", &["endpoint"]),
    ("renamed", &["name"]),
    ("connections-cut", &["family"]),
];

/// A new event is decided here, and a new line of an old one cannot forget what it is about.
#[test]
fn each_line_of_an_event_names_what_it_is_about() {
    let sources = sources();
    for (name, _) in event::ALL {
        let about = ABOUT.iter().find(|(known, _)| *known == name);
        let (_, fields) = about.unwrap_or_else(|| panic!("what is {name} about?"));
        for call in calls(&sources, name).iter().filter(|_| !fields.is_empty()) {
            let mut words = call.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(words.any(|word| fields.contains(&word)), "{name} without {fields:?}: {call}");
        }
    }
    assert_eq!(ABOUT.len(), event::ALL.len());
}

#[tokio::test]
async fn journald_understands_the_catalog() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    let from = project("systemd/calico-agent.catalog");
    std::fs::copy(from, folder.join("calico-agent.catalog")).unwrap();
    let option = format!("--root={}", root.path().display());
    let exec = Exec::default();
    match exec.run("journalctl", &[&option, "--update-catalog"], b"").await {
        Err(error) if error.is_missing() => {
            println!("skipped: journalctl is not installed");
            return;
        }
        made => drop(made.unwrap()),
    }
    let list = exec.run("journalctl", &[&option, "--dump-catalog"], b"").await.unwrap();
    let list = String::from_utf8_lossy(&list.stdout);
    for (name, id) in event::ALL {
        assert!(list.contains(id), "{name} is not in what journald has:\n{list}");
    }
    assert!(list.contains("Defined-By: calico-agent"), "{list}");
}
