//! The licences of the crates in the programs, each text once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::parts::Part;

/// How the names of files begin that hold a licence or have to be handed on with one.
const FILES: [&str; 6] = ["license", "licence", "copying", "notice", "unlicense", "copyright"];

/// What a program under Apache-2.0 may contain. Another one is for a person to judge.
const ACCEPTED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A list of the crates, then the texts.
///
/// # Errors
/// When a licence is none of those that are known, or the files of a crate cannot be read.
pub(crate) fn render(parts: &[Part]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    let others = parts.iter().filter(|part| part.checksum.is_some());
    for part in others {
        let name = format!("{} {}", part.id.0, part.id.1);
        let unknown = part
            .licence
            .split([' ', '(', ')'])
            .find(|word| !["", "OR", "AND", "WITH"].contains(word) && !ACCEPTED.contains(word));
        ensure!(unknown.is_none(), "{name} is under {}, which nobody looked at", part.licence);
        let found = texts_of(&part.directory)?;
        let without = if found.is_empty() { " (publishes no text of it)" } else { "" };
        writeln!(list, "{name}: {}{without}", part.licence)?;
        for text in found {
            let crates = texts.entry(text).or_default();
            if crates.last() != Some(&name) {
                crates.push(name.clone());
            }
        }
    }
    // In the order of the first crate of each.
    let mut texts: Vec<_> = texts.into_iter().map(|(text, crates)| (crates, text)).collect();
    texts.sort();

    let mut page = String::from(
        "The programs calico-agent and calico contain these crates, which are published with their\n\
         source under these names and versions, and Rust's standard library (MIT OR Apache-2.0):\n\n",
    );
    page += &list;
    for (crates, text) in texts {
        write!(page, "\n{}\n{}:\n\n{text}\n", "-".repeat(80), crates.join(", "))?;
    }
    Ok(page)
}

/// What lies in a crate's own directory, without spaces at the ends of lines.
fn texts_of(directory: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && FILES.iter().any(|begin| name.starts_with(begin)) {
            files.push(path);
        }
    }
    files.sort();
    let mut texts = Vec::new();
    for path in files {
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        texts.push(lines.join("\n").trim_matches('\n').to_owned());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_there_once_with_all_its_crates() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let part = |name: &str, texts: &[(&str, &str)]| -> Result<Part> {
            let directory = dir.path().join(name);
            fs::create_dir(&directory)?;
            for (file, text) in texts {
                fs::write(directory.join(file), text)?;
            }
            Ok(Part {
                id: (name.to_owned(), "1.0.0".to_owned()),
                licence: "MIT".to_owned(),
                repository: None,
                checksum: Some("c0ffee".to_owned()),
                directory,
                needs: Vec::new(),
            })
        };
        let parts = [
            part("one", &[("LICENSE-MIT", "Permission\n"), ("README.md", "not this")])?,
            part("two", &[("license.txt", "Permission  \n\n")])?,
            part("three", &[("COPYING", "Other")])?,
            part("four", &[])?,
        ];
        let page = render(&parts)?;
        assert_eq!(page.matches("Permission").count(), 1, "{page}");
        assert!(page.contains("one 1.0.0, two 1.0.0:\n\nPermission\n"), "{page}");
        assert!(page.contains("three 1.0.0:\n\nOther\n"), "{page}");
        assert!(page.contains("four 1.0.0: MIT (publishes no text of it)\n"), "{page}");
        assert!(!page.contains("not this"), "{page}");

        let mut other = part("five", &[])?;
        other.licence = "(MIT OR Apache-2.0) AND Unicode-3.0".to_owned();
        assert!(render(&[other.clone()]).is_ok());
        other.licence = "MIT AND GPL-3.0-only".to_owned();
        assert!(render(&[other]).is_err());
        Ok(())
    }
}
