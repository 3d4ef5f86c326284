//! The bill of materials in the form of CycloneDX 1.5.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bird::Bird;
use crate::parts::{Id, Part};

/// The programs, which the bill is about.
const PROGRAMS: [&str; 2] = ["calico-agent", "calico-cni"];

/// What the crates do not tell.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// BIRD in it.
    pub(crate) bird: Bird,
    /// The version of Rust's standard library.
    pub(crate) rust: String,
    /// The architecture.
    pub(crate) arch: String,
    /// When it was made, as RFC 3339 has it.
    pub(crate) time: String,
}

/// The bill as JSON text with a final newline.
///
/// # Errors
/// When the agent is not among the parts.
pub(crate) fn render(parts: &[Part], release: &Release) -> Result<String> {
    let agent = parts.iter().find(|part| part.id.0 == PROGRAMS[0]).context("no agent in it")?;
    let version = &agent.id.1;
    let bird = bird(&release.bird);
    let rust = rust(&release.rust);
    let whole = format!("calico-agent-release@{version}");

    let mut components: Vec<Value> = parts.iter().map(component).collect();
    let mut edges: Vec<Value> = parts
        .iter()
        .map(|part| {
            let needs: Vec<String> = part.needs.iter().map(reference).collect();
            json!({"ref": reference(&part.id), "dependsOn": needs})
        })
        .collect();
    let programs = parts.iter().filter(|part| PROGRAMS.contains(&part.id.0.as_str()));
    let mut roots: Vec<Value> = programs.map(|part| json!(reference(&part.id))).collect();
    for extra in [bird, rust] {
        edges.push(json!({"ref": extra["bom-ref"].clone(), "dependsOn": []}));
        roots.push(extra["bom-ref"].clone());
        components.push(extra);
    }
    edges.insert(0, json!({"ref": whole, "dependsOn": roots}));

    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": release.time,
            "tools": {"components": [
                {"type": "application", "name": "calico-sbom", "version": env!("CARGO_PKG_VERSION")},
            ]},
            "component": {
                "type": "application",
                "bom-ref": whole,
                "name": "calico-agent",
                "version": version,
                "licenses": [{"expression": agent.licence}],
                "properties": [{"name": "architecture", "value": release.arch}],
            },
        },
        "components": components,
        "dependencies": edges,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// The name by which the bill speaks of a crate; for a published one it is also what others call it.
fn reference((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn component(part: &Part) -> Value {
    let reference = reference(&part.id);
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": part.id.0,
        "version": part.id.1,
        "licenses": [{"expression": part.licence}],
    });
    if let Some(checksum) = &part.checksum {
        component["purl"] = json!(reference);
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(repository) = &part.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

fn bird(bird: &Bird) -> Value {
    let files = bird.files.iter().map(|(sum, name)| {
        json!({"type": "distribution", "url": name, "hashes": [{"alg": "SHA-256", "content": sum}]})
    });
    let purl = format!("pkg:deb/debian/{}@{}?arch=source", bird.package, bird.version);
    json!({
        "type": "application",
        "bom-ref": purl,
        "name": "bird",
        "version": bird.version,
        "purl": purl,
        "licenses": [{"expression": "GPL-2.0-or-later"}],
        "externalReferences": files.collect::<Vec<_>>(),
    })
}

fn rust(version: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": format!("rust-std@{version}"),
        "name": "rust-std",
        "version": version,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::parts::collect;
    use crate::parts::tests::{LOCK, TREE, metadata};

    fn bill() -> Value {
        let tree = TREE.replace("agent", "calico-agent");
        let metadata = metadata().replace("\"agent\"", "\"calico-agent\"");
        let parts = collect(&tree, &metadata, LOCK).unwrap();
        let bird = crate::bird::parse(include_str!("../../dist/bird.source")).unwrap();
        let release = Release {
            bird,
            rust: "1.95.0".to_owned(),
            arch: "x86_64".to_owned(),
            time: "2026-11-21T19:00:00Z".to_owned(),
        };
        let text = render(&parts, &release).unwrap();
        assert_eq!(text, render(&parts, &release).unwrap());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_component_is_named_once_and_every_edge_ends_at_one() {
        let bill = bill();
        let components = bill["components"].as_array().unwrap();
        let mut known: BTreeSet<&str> =
            components.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(known.len(), 4, "two crates, BIRD, Rust: {known:?}");
        assert_eq!(components.len(), 4);
        known.insert(bill["metadata"]["component"]["bom-ref"].as_str().unwrap());
        for edge in bill["dependencies"].as_array().unwrap() {
            assert!(known.contains(edge["ref"].as_str().unwrap()), "{edge}");
            for end in edge["dependsOn"].as_array().unwrap() {
                assert!(known.contains(end.as_str().unwrap()), "{edge}");
            }
        }
    }

    #[test]
    fn licences_and_checksums_are_in_it() {
        let text = bill().to_string();
        for part in ["GPL-2.0-or-later", "c0ffee", "MIT OR Apache-2.0", "pkg:deb/debian/bird2@"] {
            assert!(text.contains(part), "{part}");
        }
    }
}
