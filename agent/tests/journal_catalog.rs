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

/// Fields that an explanation repeats are ones that the agent's lines have.
#[test]
fn explanations_repeat_fields_that_there_are() {
    let mut sources = String::new();
    let mut folders = vec![project("agent/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    for (id, text) in catalog() {
        let (name, _) = event::ALL.iter().find(|(_, known)| *known == id).unwrap();
        let constant = name.replace('-', "_").to_uppercase();
        let constant = if *name == "connections-cut" { "CUT".to_owned() } else { constant };
        let call = format!("event = event::{constant},");
        let lines: Vec<_> = sources.split(&call).skip(1).collect();
        assert!(!lines.is_empty(), "nobody says {name}");
        for field in text.split('@').skip(1).step_by(2) {
            let field = field.strip_prefix("CALICO_").unwrap().to_lowercase();
            let says = |line: &&str| {
                let call = line.split(';').next().unwrap();
                call.contains(&field)
            };
            assert!(lines.iter().any(says), "{name} has no field {field}");
        }
    }
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
