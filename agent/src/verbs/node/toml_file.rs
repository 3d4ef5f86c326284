//! Changes single values in `agent.toml`; comments, order and everything else stay. Pure.

use toml_edit::{Array, DocumentMut, Item, Table, Value};

/// What a value is written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `"text"`.
    Text,
    /// `["a", "b"]`, given with commas between.
    List,
}

/// The first line of a file that is made.
const HEADING: &str = "\
# Written by `calico-agent node`; it is yours to edit. Every setting: agent.toml.example.
";

/// The file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum TomlError {
    /// It is not TOML.
    #[error("it is not TOML: {}", .0.message())]
    Malformed(toml_edit::TomlError),
    /// Something else stands where the section would be.
    #[error("{0} is no section")]
    NotASection(&'static str),
}

/// Sets `[section] key` to `value`, unless `same` says that what it has means that. Returns the new
/// text and what was there before; `None`: nothing is to be done.
///
/// # Errors
/// When the text cannot be changed.
pub(super) fn set(
    text: &str,
    section: &'static str,
    key: &'static str,
    (value, form): (&str, &Form),
    same: impl Fn(&str) -> bool,
) -> Result<Option<(String, Option<String>)>, TomlError> {
    let mut document: DocumentMut = text.parse().map_err(TomlError::Malformed)?;
    let table = document.entry(section).or_insert_with(|| Item::Table(Table::new()));
    let table = table.as_table_like_mut().ok_or(TomlError::NotASection(section))?;
    let before = table.get(key).and_then(Item::as_value).map(said);
    if before.as_deref().is_some_and(same) {
        return Ok(None);
    }
    let mut new = match form {
        Form::Text => Value::from(value),
        Form::List => Value::from(value.split(',').collect::<Array>()),
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            // With the comment behind it.
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
    let heading = if text.is_empty() { HEADING } else { "" };
    Ok(Some((format!("{heading}{document}"), before)))
}

/// As the environment would have it: lists have commas.
fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.value().clone(),
        Value::Array(items) => items.iter().map(said).collect::<Vec<_>>().join(","),
        other => other.to_string().trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, value: &str) -> Option<(String, Option<String>)> {
        super::set(text, "node", "ip", (value, &Form::Text), |said| said == value).unwrap()
    }

    #[test]
    fn only_the_value_changes() {
        let text = "# mine\n[felix]\nx = 1 # one\n\n[node]\n# the address\nip = \"10.0.0.1\" # here\nname='n'\n";
        let (new, before) = set(text, "10.0.0.2").unwrap();
        assert_eq!(new, text.replace("10.0.0.1", "10.0.0.2"));
        assert_eq!(before.as_deref(), Some("10.0.0.1"));
        assert_eq!(set(text, "10.0.0.1"), None);
        let (new, before) = set("# mine\n[felix]\nx = 1\n", "10.0.0.1").unwrap();
        assert_eq!(new, "# mine\n[felix]\nx = 1\n\n[node]\nip = \"10.0.0.1\"\n");
        assert_eq!(before, None);
        let (new, _) = set("", "10.0.0.1").unwrap();
        assert_eq!(new, format!("{HEADING}[node]\nip = \"10.0.0.1\"\n"));
    }

    #[test]
    fn lists_are_lists_and_what_is_wrong_is_said() {
        let list = |text: &str| {
            let value = ("http://a,http://b", &Form::List);
            super::set(text, "datastore", "endpoints", value, |said| said == value.0)
        };
        let (new, before) = list("[datastore]\nendpoints = [\"http://c\"]\n").unwrap().unwrap();
        assert_eq!(new, "[datastore]\nendpoints = [\"http://a\", \"http://b\"]\n");
        assert_eq!(before.as_deref(), Some("http://c"));
        assert_eq!(list(&new).unwrap(), None);
        assert_eq!(list("datastore = 1\n").unwrap_err().to_string(), "datastore is no section");
        assert!(list("[datastore\n").unwrap_err().to_string().starts_with("it is not TOML: "));
    }
}
