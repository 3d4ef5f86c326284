//! The reference shares the model with the agent and nothing else: otherwise an error in what they
//! share would be in both, and never be found. Not even the model's own evaluation counts: of a
//! selector it takes the text, of a prefix the address and the length.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// What the sources may name of other crates.
const PATHS: [&str; 2] = ["calico_datastore::model", "std::"];

/// Methods of the model that evaluate something: each is written anew here.
const METHODS: [&str; 12] = [
    ".matches(labels",
    ".restrictions(",
    ".contains(address",
    ".contains(self.address",
    ".covers(",
    ".overlaps(",
    ".has_ports(",
    ".index_of(",
    ".family()",
    "LabelSource",
    "with_label_prefix",
    "replacing_",
];

fn sources() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// Lines without comments.
fn code(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// What a source names that it must not.
fn offences(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in code(source) {
        if let Some(path) = line.trim_start().trim_start_matches("pub ").strip_prefix("use ") {
            let own = ["crate::", "super::"].iter().any(|own| path.starts_with(own));
            let declared = path.split("::").next().is_some_and(|module| {
                source.lines().any(|line| line.trim() == format!("mod {module};"))
            });
            if !own && !declared && !PATHS.iter().any(|allowed| path.starts_with(allowed)) {
                found.push(format!("{}: {line}", at + 1));
            }
        }
        for (place, _) in line.match_indices("calico_") {
            let rest = &line[place..];
            // A field of the model may be called so.
            let is_path = !line[..place].ends_with('.');
            if is_path && !PATHS.iter().any(|allowed| rest.starts_with(allowed)) {
                found.push(format!("{}: {line}", at + 1));
            }
        }
        for method in METHODS.iter().filter(|method| line.contains(**method)) {
            let own = *method == ".family()" && line.contains("packet.family()");
            if !own {
                found.push(format!("{}: {method} in {line}", at + 1));
            }
        }
    }
    found
}

#[test]
fn it_imports_the_model_and_nothing_else() {
    let files = sources();
    assert!(files.len() >= 10, "the sources are not where they used to be");
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        assert_eq!(offences(&source), Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn it_depends_on_nothing_else() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let mut section = "";
    let mut named = Vec::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && !line.is_empty() {
            named.push(line);
        }
    }
    assert_eq!(named, ["calico-datastore.workspace = true"]);
}

#[test]
fn an_offender_is_caught() {
    for source in [
        "use calico_agent::acl::Calculator;",
        "use calico_datastore::layout::v3;",
        "use serde_json::Value;",
        "fn f() { calico_datastore::layout::v3::decode(key, value) }",
        "fn f() { policy.selector.matches(labels) }",
        "fn f() { net.contains(address) }",
        "fn f() { net.family() }",
    ] {
        assert!(!offences(source).is_empty(), "{source}");
    }
    for source in [
        "use calico_datastore::model::{Cidr, Name};",
        "use std::collections::BTreeMap;",
        "use crate::member::Member;",
        "mod ask;\npub use ask::Tiers;",
        "// use serde_json::Value;",
        "fn f() { packet.family() }",
    ] {
        assert_eq!(offences(source), Vec::<String>::new(), "{source}");
    }
}
