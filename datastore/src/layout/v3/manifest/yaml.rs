//! YAML (and JSON, which is YAML) to JSON values: the core schema, without its traps.
//!
//! * What YAML 1.1 and 1.2 read differently (`no`, `010`, `1_000`) is refused: `calicoctl` would
//!   have read something else than a reader of YAML 1.2 sees. Quotes say what is meant.
//! * A key that comes twice is refused, and so are tags, merge keys (`<<`) and keys that are no
//!   text. Anchors and aliases work, and count as often as they are used.
//! * Depth and number of values are bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

/// How deep values may be nested. A rule is some ten levels deep.
const DEPTH_MAX: usize = 64;

/// Values in one file, aliases followed.
const VALUES_MAX: usize = 1_000_000;

/// A document and the line where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// From 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

/// The text is not YAML, or uses what is refused here. Nothing behind it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    /// From 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// Reads a text: the documents that are whole, and what ended it too early.
pub(super) fn read(text: &str) -> (Vec<Document>, Option<YamlError>) {
    let mut builder = Builder::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => {
                builder.take(event, span.start).map_err(|reason| (span.start, reason))
            }
            Err(error) => Err((*error.marker(), format!("not YAML: {}", error.info()))),
        };
        if let Err((marker, reason)) = outcome {
            let error = YamlError { line: marker.line().max(1), reason };
            return (builder.documents, Some(error));
        }
    }
    (builder.documents, None)
}

/// A collection that is not complete.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    /// Where the current document begins.
    line: usize,
    stack: Vec<(Open, usize)>,
    root: Option<Value>,
    /// What was anchored in this document, with the number of its values.
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, marker: Marker) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) => {
                self.line = 0;
                self.root = None;
                self.anchors.clear();
            }
            Event::DocumentEnd => {
                let value = self.root.take().unwrap_or(Value::Null);
                self.documents.push(Document { line: self.line.max(1), value });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.begin(marker)?;
                if self.is_key() {
                    return self.key(&text, style, tag.as_deref());
                }
                let value = scalar(&text, style, tag.as_deref())?;
                self.value(value, anchor, 1)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(marker)?;
                self.open(Open::List(Vec::new()), anchor, tag.as_deref())?;
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(marker)?;
                self.open(Open::Map(Map::new(), None), anchor, tag.as_deref())?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match self.stack.pop() {
                    Some((Open::List(list), anchor)) => (Value::Array(list), anchor),
                    Some((Open::Map(map, _), anchor)) => (Value::Object(map), anchor),
                    None => return Err("not YAML: an end without a beginning".to_owned()),
                };
                let size = if value.1 > 0 { size(&value.0) } else { 0 };
                self.value(value.0, value.1, size)?;
            }
            Event::Alias(anchor) => {
                self.begin(marker)?;
                if self.is_key() {
                    return Err("a key cannot be an alias".to_owned());
                }
                // One that is not complete yet would contain itself.
                let (value, size) =
                    self.anchors.get(&anchor).cloned().ok_or("an alias of itself")?;
                self.count(size)?;
                self.value(value, 0, 0)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, marker: Marker) -> Result<(), String> {
        if self.line == 0 {
            self.line = marker.line();
        }
        self.count(1)
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(values);
        if self.values > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values, aliases counted"));
        }
        Ok(())
    }

    fn is_key(&self) -> bool {
        matches!(self.stack.last(), Some((Open::Map(_, None), _)))
    }

    fn key(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<(), String> {
        let Some((Open::Map(map, key), _)) = self.stack.last_mut() else { return Ok(()) };
        let plain = style == ScalarStyle::Plain;
        if tag.is_some() {
            return Err("tags are not supported".to_owned());
        }
        if plain && text == "<<" {
            return Err("merge keys (<<) are not supported".to_owned());
        }
        if plain && (text.is_empty() || odd(text).is_some()) {
            return Err(format!("the key {text:?} needs quotes"));
        }
        if map.contains_key(text) {
            return Err(format!("the key {text:?} comes twice"));
        }
        *key = Some(text.to_owned());
        Ok(())
    }

    fn open(&mut self, open: Open, anchor: usize, tag: Option<&Tag>) -> Result<(), String> {
        if tag.is_some() {
            return Err("tags are not supported".to_owned());
        }
        if self.is_key() {
            return Err("a key must be a text".to_owned());
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(format!("nested more than {DEPTH_MAX} levels deep"));
        }
        self.stack.push((open, anchor));
        Ok(())
    }

    fn value(&mut self, value: Value, anchor: usize, size: usize) -> Result<(), String> {
        if anchor > 0 {
            // What is kept costs memory as well.
            self.count(size)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some((Open::List(list), _)) => list.push(value),
            Some((Open::Map(map, key), _)) => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

/// How many values it is made of. Not deeper than [`DEPTH_MAX`] levels per alias.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
            return Ok(Value::String(text.to_owned()));
        }
        Some(_) => return Err("tags are not supported".to_owned()),
        None => {}
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::String(text.to_owned()));
    }
    if let Some(why) = odd(text) {
        return Err(format!("{text} needs quotes, or another spelling: {why}"));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text)?.map_or_else(|| Value::String(text.to_owned()), Value::Number),
    })
}

/// Why nobody can be sure what a plain text means.
fn odd(text: &str) -> Option<&'static str> {
    const WORDS: [&str; 4] = ["yes", "no", "on", "off"];
    if WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some("a text to some readers of YAML, true or false to others");
    }
    let digits = text.trim_start_matches(['+', '-']);
    let all = |rest: &str, of: &dyn Fn(u8) -> bool| !rest.is_empty() && rest.bytes().all(of);
    let numeric = |b: u8| b.is_ascii_digit() || b == b'_';
    if let Some(rest) = digits.strip_prefix('0')
        && (all(rest, &numeric)
            || rest.strip_prefix(['o', 'b']).is_some_and(|rest| all(rest, &numeric)))
    {
        return Some("a decimal number to some readers of YAML, to the base 8 or 2 to others");
    }
    let hex = digits.strip_prefix("0x").unwrap_or(digits);
    let base: &dyn Fn(u8) -> bool = if hex.len() < digits.len() {
        &|b| b.is_ascii_hexdigit() || b == b'_'
    } else {
        &|b| numeric(b) || b == b'.'
    };
    if digits.contains('_') && digits.starts_with(|c: char| c.is_ascii_digit()) && all(hex, base) {
        return Some("a number to some readers of YAML, a text to others");
    }
    None
}

/// A number of the core schema; `None`: it is none.
fn number(text: &str) -> Result<Option<Number>, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let large = || format!("{text} is out of range; it needs quotes if it is a text");
    if let Some(hex) = digits.strip_prefix("0x") {
        if text.len() == digits.len()
            && !hex.is_empty()
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return u64::from_str_radix(hex, 16).map(|n| Some(n.into())).map_err(|_| large());
        }
        return Ok(None);
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let parsed = if negative {
            text.parse::<i64>().map(Number::from)
        } else {
            digits.parse::<u64>().map(Number::from)
        };
        return parsed.map(Some).map_err(|_| large());
    }
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(large());
    }
    if !is_float(digits) {
        return Ok(None);
    }
    let value = text.parse::<f64>().ok().and_then(Number::from_f64);
    value.map(Some).ok_or_else(large)
}

/// `1.5`, `.5`, `1.`, `1e3`: digits, at most one dot, at most one exponent.
fn is_float(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_one = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    (!whole.is_empty() || !fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && exponent_is_one
}

#[cfg(test)]
mod tests;
