//! `unsafe` stands in one small file of the agent, and nowhere else. The lint denies it; what the
//! lint lets through says `expect(unsafe_code)`, and this test says where that may stand.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The only source with `unsafe`, below the agent's folder, and how long it may become.
const ONLY: (&str, usize) = ("src/felix/watch/sockopt.rs", 150);

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Lines with the words that make or permit it. Comments and texts may name them.
fn offences(source: &str) -> Vec<usize> {
    let code = source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let names = |line: &str| {
        // What stands between quotes is every second part.
        let mut code = line.split('"').step_by(2);
        code.any(|part| part.split(|c| !is_word(c)).any(|word| word.starts_with("unsafe")))
    };
    code.filter(|(_, line)| names(line)).map(|(index, _)| index + 1).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_stands_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "../datastore/src", "../tests/src"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 150, "the sources are not where they used to be");
    let mut failures = Vec::new();
    for path in files.iter().filter(|path| **path != root.join(ONLY.0)) {
        for line in offences(&fs::read_to_string(path).unwrap()) {
            failures.push(format!("{}:{line}", path.display()));
        }
    }
    assert!(failures.is_empty(), "unsafe:\n{}", failures.join("\n"));
    let only = fs::read_to_string(root.join(ONLY.0)).unwrap();
    assert!(!offences(&only).is_empty(), "{} needs no exception any more", ONLY.0);
    assert!(only.lines().count() <= ONLY.1, "{} should stay small", ONLY.0);
    assert!(only.contains("// SAFETY: "));
}

#[test]
fn an_offender_is_caught_and_the_innocent_go_free() {
    for source in ["unsafe { f() }", "#![expect(unsafe_code)]", "unsafe fn f() {}"] {
        assert_eq!(offences(source), [1], "{source}");
    }
    for source in ["// unsafe", "/// not unsafe here", "let safe = 1;", r#"arg("--unsafe-x")"#] {
        assert_eq!(offences(source), [0; 0], "{source}");
    }
}
