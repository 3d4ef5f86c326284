//! Fields of JSON objects. `null` is as good as absent: Go writes it for what is empty.

use std::fmt;

use serde_json::{Map, Value};

use super::{CniError, Code};

/// A field does not hold what it should. Values are not repeated unless the caller does: they
/// may be secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not {expected}: it is {found}")]
pub struct InvalidField {
    /// Where: `ipam.ipv4_pools[1]`.
    pub path: String,
    /// What should be there: `a number`.
    pub expected: String,
    /// What is there: `a list`, `"10.0.0"`.
    pub found: String,
}

impl InvalidField {
    /// A field of the right type whose content is wrong.
    pub(crate) fn content(path: &str, expected: &str, found: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), expected: expected.to_owned(), found: found.to_string() }
    }

    fn kind(path: &str, expected: &str, found: &Value) -> Self {
        Self::content(path, expected, kind(found))
    }
}

impl From<InvalidField> for CniError {
    fn from(InvalidField { path, expected, found }: InvalidField) -> Self {
        Self::new(
            Code::InvalidConfig,
            format!("{path:?} is not {expected}"),
            format!("it is {found}"),
        )
    }
}

/// What a value is, in a word.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value and where it is.
pub(crate) struct Field<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> Field<'a> {
    pub(crate) fn object(&self) -> Result<Object<'a>, InvalidField> {
        match self.value {
            Value::Object(map) => Ok(Object { map, path: format!("{}.", self.path) }),
            other => Err(InvalidField::kind(&self.path, "an object", other)),
        }
    }

    pub(crate) fn text(&self) -> Result<&'a str, InvalidField> {
        match self.value {
            Value::String(text) => Ok(text),
            other => Err(InvalidField::kind(&self.path, "a string", other)),
        }
    }

    /// The items of a list but for nulls.
    pub(crate) fn items(&self) -> Result<Vec<Field<'a>>, InvalidField> {
        let Value::Array(items) = self.value else {
            return Err(InvalidField::kind(&self.path, "a list", self.value));
        };
        let items = items.iter().enumerate().filter(|(_, value)| !value.is_null());
        Ok(items.map(|(i, value)| Field { value, path: format!("{}[{i}]", self.path) }).collect())
    }

    /// A number, or its digits as a string.
    fn number(&self) -> Result<u64, InvalidField> {
        let expected = "a whole number from 0 up";
        let number = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            other => return Err(InvalidField::kind(&self.path, expected, other)),
        };
        number.ok_or_else(|| InvalidField::content(&self.path, expected, self.value))
    }
}

/// An object and where it is.
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    /// What stands before the names of its fields: nothing, or `ipam.`.
    path: String,
}

impl<'a> Object<'a> {
    pub(crate) fn root(map: &'a Map<String, Value>) -> Self {
        Self { map, path: String::new() }
    }

    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// A field, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(Field { value, path: self.path(key) })
    }

    /// An empty string is as good as none.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, InvalidField> {
        let text = self.get(key).map(|field| field.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<String>, InvalidField> {
        Ok(self.text(key)?.map(str::to_owned))
    }

    /// What a string says by the rules of `parse`.
    pub(crate) fn parsed<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, InvalidField> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(InvalidField::content(&self.path(key), expected, format_args!("{text:?}"))),
        }
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Object<'a>>, InvalidField> {
        self.get(key).map(|field| field.object()).transpose()
    }

    /// The items of a list; none when there is no list.
    pub(crate) fn items(&self, key: &str) -> Result<Vec<Field<'a>>, InvalidField> {
        self.get(key).map_or(Ok(vec![]), |field| field.items())
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>, InvalidField> {
        self.items(key)?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    /// A list of strings, or one string with commas between.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<String>, InvalidField> {
        let items = match self.get(key).map(|field| field.value) {
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            _ => self.strings(key)?,
        };
        let items = items.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
        Ok(items.map(str::to_owned).collect())
    }

    /// A number from `least` to `most`, or its digits as a string. An empty string is none.
    pub(crate) fn number(
        &self,
        key: &str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, InvalidField> {
        let empty = Value::String(String::new());
        let Some(field) = self.get(key).filter(|field| *field.value != empty) else {
            return Ok(None);
        };
        let number = field.number()?;
        if (least..=most).contains(&number) {
            return Ok(Some(number));
        }
        let expected = format!("a number from {least} to {most}");
        Err(InvalidField::content(&field.path, &expected, number))
    }

    /// `true` or `false`, also as a string: what the original plugin's are.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, InvalidField> {
        let Some(field) = self.get(key) else { return Ok(None) };
        let expected = "true or false";
        match field.value {
            Value::Bool(flag) => Ok(Some(*flag)),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "" => Ok(None),
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(InvalidField::content(&field.path, expected, field.value)),
            },
            other => Err(InvalidField::kind(&field.path, expected, other)),
        }
    }
}
