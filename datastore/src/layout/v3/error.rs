//! What is wrong with a document, naming the field.

use std::fmt;

/// A field that cannot be read: its path from the top of the document, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::layout) struct FieldError {
    path: String,
    reason: String,
}

impl FieldError {
    /// An error whose place is not known yet: callers put the path in front by [`At`].
    pub(in crate::layout) fn new(reason: impl fmt::Display) -> Self {
        Self { path: String::new(), reason: reason.to_string() }
    }

    /// An error of a field.
    pub(in crate::layout) fn of(field: &str, reason: impl fmt::Display) -> Self {
        Self { path: field.to_owned(), reason: reason.to_string() }
    }

    fn under(mut self, segment: &str) -> Self {
        if !self.path.is_empty() && !self.path.starts_with('[') {
            self.path.insert(0, '.');
        }
        self.path.insert_str(0, segment);
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// Puts the path of a field in front of an error that came out of it.
pub(in crate::layout) trait At<T> {
    /// The error came out of the field `name`.
    fn at(self, name: &str) -> Result<T, FieldError>;
    /// The error came out of element `index` of the list `name`.
    fn at_index(self, name: &str, index: usize) -> Result<T, FieldError>;
}

impl<T> At<T> for Result<T, FieldError> {
    fn at(self, name: &str) -> Self {
        self.map_err(|error| error.under(name))
    }

    fn at_index(self, name: &str, index: usize) -> Self {
        self.map_err(|error| error.under(&format!("{name}[{index}]")))
    }
}

/// The path of the value at a byte offset of a JSON text. Only errors come here, so it scans the
/// text again instead of making every decode carry a path along.
pub(in crate::layout) fn path_at(json: &[u8], offset: usize) -> String {
    enum Level {
        Object(Option<String>),
        Array(usize),
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    // A string directly after `{` or `,` in an object is a key.
    let mut key_next = false;
    while at < offset.min(json.len()) {
        match json[at] {
            b'{' => {
                levels.push(Level::Object(None));
                key_next = true;
            }
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => {
                levels.pop();
                key_next = false;
            }
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object(_)) => key_next = true,
                None => {}
            },
            b'"' => {
                let start = at + 1;
                at = start;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                if key_next && let Some(Level::Object(key)) = levels.last_mut() {
                    let text = json.get(start..at).unwrap_or_default();
                    *key = Some(String::from_utf8_lossy(text).into_owned());
                    key_next = false;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&key);
            }
            Level::Object(None) => {}
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together() {
        let error: Result<(), _> = Err(FieldError::new("bad"));
        let error = error.at_index("ports", 0).at("destination").at_index("ingress", 2).at("spec");
        assert_eq!(error.unwrap_err().to_string(), "spec.ingress[2].destination.ports[0]: bad");
    }

    #[test]
    fn the_path_at_an_offset() {
        let json = br#"{"a":{"x\"y":1,"b":[{"c":"}]"},{"d":[1,2,"here"]}]}}"#;
        let find = |what: &str| json.windows(what.len()).position(|w| w == what.as_bytes());
        assert_eq!(path_at(json, find("here").unwrap()), "a.b[1].d[2]");
        assert_eq!(path_at(json, find("1,\"b").unwrap()), "a.x\\\"y");
        assert_eq!(path_at(json, 0), "");
        assert_eq!(path_at(b"{\"", 100), "");
    }
}
