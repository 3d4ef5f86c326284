//! The interpreter shares nothing with what it is held against: it depends on no crate of this
//! workspace.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

#[test]
fn it_knows_nothing_of_the_agent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split_once("[dependencies]\n").unwrap().1;
    let dependencies = dependencies.split("\n[").next().unwrap().trim();
    assert_eq!(dependencies, "thiserror.workspace = true");
    let mut sources = 0;
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // Examples name the crate itself.
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let foreign = code.filter(|line| line.contains("calico") || line.contains("#[path"));
        assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", path.display());
        sources += 1;
    }
    assert!(sources > 10);
}
