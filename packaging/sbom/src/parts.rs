//! Which crates are in the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Name and version.
pub(crate) type Id = (String, String);

/// A crate that is in the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name and version.
    pub(crate) id: Id,
    /// An SPDX expression.
    pub(crate) licence: String,
    /// Where it is developed.
    pub(crate) repository: Option<String>,
    /// SHA-256 of the published crate; none for ours.
    pub(crate) checksum: Option<String>,
    /// Where its files are.
    pub(crate) directory: PathBuf,
    /// The crates among the parts that it is built on, sorted.
    pub(crate) needs: Vec<Id>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The parts, sorted, from what `cargo tree` and `cargo metadata` print and from `Cargo.lock`.
///
/// # Errors
/// When one of them cannot be read, or a crate has no licence.
pub(crate) fn collect(tree: &str, metadata: &str, lock: &str) -> Result<Vec<Part>> {
    let wanted = wanted(tree)?;
    let metadata: Metadata =
        serde_json::from_str(metadata).context("cargo metadata is not read")?;
    let lock: Lock = toml::from_str(lock).context("Cargo.lock is not read")?;
    let checksums: BTreeMap<Id, String> = lock
        .package
        .into_iter()
        .filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?)))
        .collect();
    let names: BTreeMap<&str, Id> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), (package.name.clone(), package.version.clone())))
        .collect();
    let mut needs: BTreeMap<&str, Vec<Id>> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = |dep: &&Dependency| dep.dep_kinds.iter().any(|kind| kind.kind.is_none());
            let deps = node.deps.iter().filter(normal);
            let ids: BTreeSet<Id> = deps
                .filter_map(|dep| names.get(dep.pkg.as_str()).cloned())
                .filter(|id| wanted.contains(id))
                .collect();
            (node.id.as_str(), ids.into_iter().collect())
        })
        .collect();

    let mut parts = Vec::new();
    for package in &metadata.packages {
        let id = (package.name.clone(), package.version.clone());
        if !wanted.contains(&id) {
            continue;
        }
        let Some(licence) = &package.license else { bail!("{} {} names no licence", id.0, id.1) };
        let directory = package.manifest_path.parent().context("a manifest is in a directory")?;
        parts.push(Part {
            checksum: checksums.get(&id).cloned(),
            // What was written before there was `OR`.
            licence: licence.replace(" / ", " OR ").replace('/', " OR "),
            repository: package.repository.clone(),
            directory: directory.to_owned(),
            needs: needs.remove(package.id.as_str()).unwrap_or_default(),
            id,
        });
    }
    parts.sort_by(|a, b| a.id.cmp(&b.id));
    anyhow::ensure!(parts.len() == wanted.len(), "cargo tree and cargo metadata disagree");
    Ok(parts)
}

/// Lines like `tokio v1.54.0`, `tokio v1.54.0 (*)` and `calico-cni v0.1.0 (/its/directory)`.
fn wanted(tree: &str) -> Result<BTreeSet<Id>> {
    let mut ids = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let id = words.next().zip(words.next().and_then(|word| word.strip_prefix('v')));
        let (name, version) = id.with_context(|| format!("no crate and version: {line}"))?;
        ids.insert((name.to_owned(), version.to_owned()));
    }
    Ok(ids)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TREE: &str = "agent v0.1.0 (/src/agent)\nleaf v2.0.0\n\nagent v0.1.0 (*)\n";

    pub(crate) fn metadata() -> String {
        serde_json::json!({
            "packages": [
                {"id": "l", "name": "leaf", "version": "2.0.0", "license": "MIT/Apache-2.0",
                 "repository": "https://example.org/leaf", "manifest_path": "/crates/leaf/Cargo.toml"},
                {"id": "a", "name": "agent", "version": "0.1.0", "license": "Apache-2.0",
                 "repository": null, "manifest_path": "/src/agent/Cargo.toml"},
                {"id": "m", "name": "macros", "version": "1.0.0", "license": null,
                 "repository": null, "manifest_path": "/crates/macros/Cargo.toml"},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [
                    {"pkg": "l", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "m", "dep_kinds": [{"kind": null}]},
                ]},
                {"id": "l", "deps": [{"pkg": "a", "dep_kinds": [{"kind": "dev"}]}]},
            ]},
        })
        .to_string()
    }

    pub(crate) const LOCK: &str = "version = 4\n[[package]]\nname = \"leaf\"\nversion = \"2.0.0\"\n\
         checksum = \"c0ffee\"\n[[package]]\nname = \"agent\"\nversion = \"0.1.0\"\n";

    #[test]
    fn what_is_in_the_programs_is_found_with_its_edges() -> Result<()> {
        let parts = collect(TREE, &metadata(), LOCK)?;
        let ids: Vec<&str> = parts.iter().map(|part| part.id.0.as_str()).collect();
        assert_eq!(ids, ["agent", "leaf"], "macros are not in the programs");
        let leaf = ("leaf".to_owned(), "2.0.0".to_owned());
        assert_eq!(parts[0].needs, [leaf]);
        assert_eq!(parts[0].checksum, None);
        assert_eq!(parts[1].needs, [], "a dependency of tests is none");
        assert_eq!(parts[1].checksum.as_deref(), Some("c0ffee"));
        assert_eq!(parts[1].licence, "MIT OR Apache-2.0");
        Ok(())
    }

    #[test]
    fn a_crate_without_a_licence_and_an_unknown_one_are_errors() {
        let said = collect("macros v1.0.0\n", &metadata(), LOCK).map_err(|e| e.to_string());
        assert_eq!(said.unwrap_err(), "macros 1.0.0 names no licence");
        assert!(collect("other v1.0.0\n", &metadata(), LOCK).is_err());
        assert!(collect("other\n", &metadata(), LOCK).is_err());
    }
}
