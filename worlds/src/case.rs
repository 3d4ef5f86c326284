//! A world with questions, as a file.

mod hosts;

use std::collections::BTreeMap;
use std::path::Path;

use calico_datastore::model::Name;
use serde_json::{Map, Value, json};

use crate::question::Question;
use crate::world::World;

pub use self::hosts::HostCase;

/// A world that somebody judged wrongly once, and about what.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it is about, for people.
    pub about: String,
    /// The datastore.
    pub world: World,
    /// The questions that were answered wrongly.
    pub questions: Vec<Question>,
}

/// The text is no case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotACase(pub String);

impl std::fmt::Display for NotACase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotACase {}

impl Case {
    /// The form of a file: JSON.
    pub fn to_text(&self) -> String {
        let objects: Map<String, Value> =
            self.world.objects.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let questions: Vec<String> = self.questions.iter().map(ToString::to_string).collect();
        let json = json!({
            "about": self.about, "node": self.world.node.as_str(),
            "questions": questions, "objects": objects,
        });
        format!("{json:#}\n")
    }

    /// Reads [`Case::to_text`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_text(text: &str) -> Result<Self, NotACase> {
        let bad = |what: &str| NotACase(what.to_owned());
        let json: Value =
            serde_json::from_str(text).map_err(|error| NotACase(error.to_string()))?;
        let string = |field: &str| json[field].as_str().ok_or_else(|| bad(field));
        let questions = json["questions"].as_array().ok_or_else(|| bad("questions"))?;
        let objects = json["objects"].as_object().ok_or_else(|| bad("objects"))?;
        let question = |value: &Value| -> Result<Question, NotACase> {
            value.as_str().ok_or_else(|| bad("a question"))?.parse().map_err(NotACase)
        };
        Ok(Self {
            about: string("about")?.to_owned(),
            world: World {
                node: Name::from(string("node")?),
                objects: objects.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            },
            questions: questions.iter().map(question).collect::<Result<_, _>>()?,
        })
    }

    /// Every case in a directory, by the name of its file; only `*.json` count.
    ///
    /// # Errors
    /// When the directory or a file cannot be read, or a file is no case.
    pub fn read_all(directory: &Path) -> Result<BTreeMap<String, Self>, NotACase> {
        files(directory, Self::from_text)
    }
}

/// Every `*.json` of a directory, read.
fn files<T>(
    directory: &Path,
    read: impl Fn(&str) -> Result<T, NotACase>,
) -> Result<BTreeMap<String, T>, NotACase> {
    let failed = |error: std::io::Error| NotACase(format!("{}: {error}", directory.display()));
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let named = |what: String| NotACase(format!("{}: {what}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(|e| named(e.to_string()))?;
            let case = read(&text).map_err(|error| named(error.0))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.insert(name, case);
        }
    }
    Ok(all)
}
