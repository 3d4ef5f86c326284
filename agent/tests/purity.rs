//! The calculation, the desired state and the model are pure: no I/O, no clock, no environment, no
//! tasks, no chance. The same updates give the same state on every host and at every time, which is
//! what the oracle, the golden cases and `explain` rely on.
//!
//! This test reads the sources. It looks at what a module imports (an allow list of crates and of
//! our own modules) and at words that give I/O away wherever they stand. Logging counts as I/O:
//! what is worth saying is returned as a notice, and the daemon says it once. Test code is left
//! out: it may read cases.

#![allow(clippy::unwrap_used, reason = "helpers of a test, which clippy does not take for tests")]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Pure sources, from the root of the workspace, and the modules of their own crate that they may
/// use.
const PURE: &[(&str, &[&str])] = &[
    ("agent/src/acl", &["acl", "config", "desired"]),
    ("agent/src/desired", &["acl", "config", "desired"]),
    ("agent/src/felix/nftables/render", &["config", "denied", "desired", "felix"]),
    ("datastore/src/model", &["model"]),
];

/// Crates that do nothing but compute.
const CRATES: &[&str] = &[
    "base64",
    "calico_datastore",
    "imbl",
    "ipnetwork",
    "serde",
    "serde_json",
    "sha2",
    "std",
    "thiserror",
    "winnow",
];

/// Parts of std that only compute, or give a type that does.
const STD: &[&str] = &[
    "borrow",
    "cell",
    "cmp",
    "collections",
    "convert",
    "error",
    "fmt",
    "hash",
    "iter",
    "marker",
    "mem",
    "net",
    "num",
    "ops",
    "rc",
    "slice",
    "str",
    "string",
    "sync",
    "vec",
];

/// Words that no pure source may hold, wherever they stand.
const WORDS: &[&str] = &[
    "Command",
    "File",
    "Instant",
    "RandomState",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "ToSocketAddrs",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
    "async",
    "await",
    "dbg",
    "env",
    "eprint",
    "eprintln",
    "etcd_client",
    "fs",
    "futures",
    "libc",
    "netlink_sys",
    "nix",
    "option_env",
    "print",
    "println",
    "process",
    "rand",
    "rtnetlink",
    "rustix",
    "stderr",
    "stdin",
    "stdout",
    "thread",
    "thread_local",
    "tokio",
    "tracing",
];

/// Something impure in a source.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    line: usize,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The source without comment lines, the contents of strings, and test modules at its end; lines
/// stay in place. What this does not recognise is read as code, which only makes the test stricter.
fn code(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let inline_tests = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(inline_tests) {
            break;
        }
        let (mut quoted, mut escaped) = (false, false);
        if !line.trim_start().starts_with("//") {
            for c in line.chars() {
                let quote = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                code.push(if quoted && !quote { ' ' } else { c });
                quoted ^= quote;
            }
        }
        code.push('\n');
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The first names that a path reaches: `{a, b::c}` → a, b.
fn heads(rest: &str) -> Vec<&str> {
    let Some(list) = rest.strip_prefix('{') else {
        return rest.split(|c| !is_word(c)).next().into_iter().collect();
    };
    let (mut depth, mut start, mut heads) = (0, true, Vec::new());
    for (at, c) in list.char_indices() {
        if depth == 0 && start && is_word(c) {
            heads.extend(list[at..].split(|c| !is_word(c)).next());
            start = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ => {}
        }
    }
    heads
}

/// Everything impure in a source.
fn offences(source: &str, modules: &[&str]) -> Vec<Offence> {
    let code = code(source);
    let mut found = Vec::new();
    let mut offset = 0;
    for (index, text) in code.split_inclusive('\n').enumerate() {
        let mut offend = |what: String| found.push(Offence { line: index + 1, what });
        for word in text.split(|c| !is_word(c)).filter(|word| WORDS.contains(word)) {
            offend(format!("`{word}`"));
        }
        if let Some(path) = text.trim_start().trim_start_matches("pub ").strip_prefix("use ") {
            // `use ast::Node` after `mod ast;` is our own, too.
            let root = path.split(|c| !is_word(c)).next().unwrap_or_default();
            let declared = format!("mod {root};");
            let own = ["crate", "super", "self"].contains(&root)
                || code.lines().any(|line| line.trim_start_matches("pub ") == declared);
            if !own && !CRATES.contains(&root) {
                offend(format!("the crate `{root}`"));
            }
        }
        for (prefix, allowed) in [("std::", STD), ("crate::", modules)] {
            for (place, _) in text.match_indices(prefix) {
                if text[..place].ends_with(is_word) {
                    continue;
                }
                for head in heads(&code[offset + place + prefix.len()..]) {
                    if !allowed.contains(&head) {
                        offend(format!("`{prefix}{head}`"));
                    }
                }
            }
        }
        offset += text.len();
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !["tests.rs", "oracle.rs"].contains(&name) {
            found.push(path);
        }
    }
}

#[test]
fn the_calculation_the_desired_state_and_the_model_do_no_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut failures = Vec::new();
    for (directory, modules) in PURE {
        let mut files = Vec::new();
        sources(&root.join(directory), &mut files);
        assert!(files.len() > 5, "{directory} is not where it used to be");
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            for offence in offences(&source, modules) {
                failures.push(format!("{}: {offence}", file.display()));
            }
        }
    }
    assert!(failures.is_empty(), "impure:\n{}", failures.join("\n"));
}

#[test]
fn an_offender_is_caught() {
    for source in [
        "use tokio::sync::mpsc;",
        "use std::fs;",
        "use std::{fmt, fs};",
        "use std::{\n    fmt,\n    io::Read,\n};",
        "use std::{collections::{BTreeMap, HashMap}, time};",
        "use std::net::{IpAddr, TcpStream};",
        "use std::os::unix::net::SocketAddr;",
        "use std::time::Instant;",
        "fn f() { let now = std::time::SystemTime::now(); }",
        "fn f() { std::process::exit(1) }",
        "fn f() { ::std::env::var(\"X\").ok(); }",
        "fn f() { std::thread::sleep(d) }",
        "use rand::Rng;",
        "use reqwest::Client;",
        "fn f() { tracing::info!(\"x\") }",
        "fn f() { println!(\"x\") }",
        "fn f() -> String { format!(\"{}\", \"quoted\"); tokio::spawn(x) }",
        "use crate::felix::plan;",
        "use crate::{desired::Member, exec::run};",
        "pub use crate::routes::Plan;",
        "#[cfg(test)]\nmod tests;\n\nuse std::fs;",
        "// a comment\nfn f() { async {} }",
    ] {
        assert!(!offences(source, &["desired"]).is_empty(), "not caught: {source}");
    }
}

#[test]
fn the_innocent_go_free() {
    for source in [
        "use std::net::{IpAddr, Ipv4Addr};",
        "use std::{fmt, sync::Arc};",
        "//! Knows no tokio and no std::fs.",
        "fn f() -> &'static str { \"no tokio here\" }",
        "use crate::desired::Member;",
        "mod ast;\nuse ast::Node;",
        "use super::sets::SetIndex;",
        "#[cfg(test)]\nmod tests {\n    use std::fs;\n}",
    ] {
        assert_eq!(offences(source, &["desired"]), [], "{source}");
    }
    assert_eq!(offences("\nuse std::fs;", &[])[0].line, 2);
}
