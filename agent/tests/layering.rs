//! The datastore crate is the only code that knows keys and JSON of the store. The agent says what
//! it wants to read or write and never spells it out, in its tests neither: a layout that changes
//! changes in one place, and a second layout finds nothing that was built for the first.
//!
//! This test reads the sources of the agent.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// What gives a key or a document of the store away, and why. Paths of this host (`/etc/calico`,
/// `/run/calico`, `/var/lib/calico`) are none of them: only keys *begin* with `/calico/`.
const SPELLED: &[(&str, &str)] = &[
    ("\"/calico/", "a key of the datastore"),
    ("projectcalico.org/v3", "a key or the apiVersion of a document"),
    ("config.projectcalico.org/", "an annotation of a document"),
    ("/no-region/", "a key of the datastore"),
    ("felixconfigurations", "a key of the datastore"),
    ("clusterinformations", "a key of the datastore"),
];

/// Sources that read or write JSON outside of their tests: the agent's own answers on its socket,
/// the policy that it keeps on disk in a format of its own, the files that tell the CNI plugin what is
/// programmed, the network configurations of this host, and what `nft` prints.
const JSON: &[&str] = &[
    "api/client.rs",
    "api/server.rs",
    "beside/nft.rs",
    "check/probe/cni.rs",
    "main.rs",
    "status/files.rs",
    "stored/format.rs",
];

/// Everything in a source that belongs into the datastore crate: line and what is wrong. Comment
/// lines may name keys: they explain.
fn offences(file: &str, source: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let mut tests = file.ends_with("tests.rs") || file.contains("/tests/");
    let mut lines = source.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        // A test module in the file is its end; one in a file of its own is not.
        let inline = |next: &&str| next.contains("mod ") && next.ends_with('{');
        tests |= line == "#[cfg(test)]" && lines.peek().is_some_and(|(_, next)| inline(next));
        if line.trim_start().starts_with("//") {
            continue;
        }
        let spelled = SPELLED.iter().filter(|(text, _)| line.contains(text));
        found.extend(spelled.map(|(_, what)| (index + 1, *what)));
        if line.contains("serde_json") && !tests && !JSON.contains(&file) {
            found.push((index + 1, "JSON"));
        }
    }
    found
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
fn the_agent_spells_no_key_and_no_document_of_the_datastore() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "the sources are not where they used to be");
    let mut failures = Vec::new();
    for path in files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
        for (line, what) in offences(file, &fs::read_to_string(&path).unwrap()) {
            failures.push(format!("src/{file}:{line}: {what}"));
        }
    }
    assert!(failures.is_empty(), "belongs into the datastore crate:\n{}", failures.join("\n"));
}

#[test]
fn every_source_that_may_use_json_is_there() {
    for file in JSON {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        assert!(fs::read_to_string(&path).unwrap().contains("serde_json"), "{file}");
    }
}

#[test]
fn an_offender_is_caught() {
    for source in [
        r#"const NODES: &str = "/calico/resources/v3/x/nodes/";"#,
        r##"let key = r#"/calico/felix/v2/"#;"##,
        r#"let key = format!("/calico/{rest}");"#,
        r#"let key = format!("{PREFIX}projectcalico.org/v3/nodes");"#,
        r#"object.insert("apiVersion", "projectcalico.org/v3");"#,
        r#"annotations.get("config.projectcalico.org/LogSeverityScreen")"#,
        r#"format!("{prefix}/no-region/host/{node}")"#,
        r#"format!("{prefix}/felixconfigurations/default")"#,
        "use serde_json::Value;",
        "let node = serde_json::from_slice(&value);",
        "#[cfg(test)]\nmod tests;\n\nuse serde_json::Value;",
        "#[cfg(test)]\nmod tests {\n    const KEY: &str = \"/calico/v1/Ready\";\n}",
    ] {
        assert_ne!(offences("node/register.rs", source), [], "not caught: {source}");
    }
    assert_eq!(offences("a.rs", "\n\nuse serde_json::json;"), [(3, "JSON")]);
}

#[test]
fn the_innocent_go_free() {
    for (file, source) in [
        ("paths.rs", r#"PathBuf::from("/etc/calico")"#),
        ("paths.rs", r#"PathBuf::from("/run/calico/agent.sock")"#),
        ("paths.rs", r#"PathBuf::from("/var/lib/calico/nodename")"#),
        ("status/keys.rs", "//! `/calico/felix/v2/no-region/host/<host>/status` vanishes."),
        ("acl/anchor.rs", r#"label == "projectcalico.org/namespace""#),
        ("api/client.rs", "serde_json::from_slice(&body)"),
        ("status/files.rs", "#[cfg(test)]\nmod tests {\n    use serde_json::Value;\n}"),
        ("config/tests/replay.rs", "use serde_json::Value;"),
    ] {
        assert_eq!(offences(file, source), [], "{file}: {source}");
    }
}
