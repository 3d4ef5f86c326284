//! The envelope of every resource, and the scalar forms that writers have used.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::error::{FieldError, path_at};
use super::keys;
use crate::model::{Labels, Name, Selector};

/// A string, borrowed from the value unless it holds escapes.
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(transparent)]
pub(in crate::layout) struct Text<'a>(#[serde(borrow)] pub(in crate::layout) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The text of a field that is there and not empty. Go writers cannot tell the two apart.
pub(in crate::layout) fn filled<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// A map from string to string, in the order written. `null` values are empty, as Go reads them.
#[derive(Clone, Debug, Default)]
pub(in crate::layout) struct Pairs<'a>(pub(in crate::layout) Vec<(Text<'a>, Text<'a>)>);

impl<'a> Pairs<'a> {
    pub(in crate::layout) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub(in crate::layout) fn get(&self, wanted: &str) -> Option<&str> {
        self.iter().filter(|(key, _)| *key == wanted).map(|(_, value)| value).last()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<'a>(PhantomData<&'a str>);

        impl<'de: 'a, 'a> Visitor<'de> for PairsVisitor<'a> {
            type Value = Pairs<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some((key, value)) = map.next_entry::<Text<'a>, Option<Text<'a>>>()? {
                    pairs.push((key, value.unwrap_or_default()));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// A number or a string: ports, protocols and AS numbers come in both.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::layout) enum Scalar<'a> {
    Number(i64),
    /// A number that is no 64-bit integer, kept for the error.
    Odd(f64),
    Text(Cow<'a, str>),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Odd(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor<'a>(PhantomData<&'a str>);

        impl<'de: 'a, 'a> Visitor<'de> for ScalarVisitor<'a> {
            type Value = Scalar<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(number).map_or(Scalar::Odd(number as f64), Scalar::Number))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Odd(number))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

/// A JSON object. Derived structs would also take an array and fill their fields by position, so
/// that `"source": ["…"]` would become a rule about something else.
#[derive(Clone, Debug, Default)]
pub(in crate::layout) struct Object<T>(pub(in crate::layout) T);

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// The part of `metadata` that means something here. The name comes from the key.
#[derive(Debug, Default, Deserialize)]
pub(in crate::layout) struct Metadata<'a> {
    #[serde(borrow, default)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow, default)]
    annotations: Option<Pairs<'a>>,
}

impl<'a> Metadata<'a> {
    pub(in crate::layout) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().flat_map(Pairs::iter)
    }

    pub(in crate::layout) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key)
    }

    pub(in crate::layout) fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.annotations.iter().flat_map(Pairs::iter)
    }

    pub(in crate::layout) fn to_labels(&self) -> Labels {
        self.labels().collect()
    }
}

/// `{"kind", "apiVersion", "metadata", "spec", "status"}`. A missing spec is an empty one.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de>"))]
struct Envelope<'a, S> {
    #[serde(borrow, default)]
    metadata: Option<Object<Metadata<'a>>>,
    #[serde(default = "no_spec")]
    spec: Option<Object<S>>,
}

fn no_spec<S>() -> Option<Object<S>> {
    None
}

/// Reads a resource.
pub(in crate::layout) fn resource<'a, S: Deserialize<'a> + Default>(
    value: &'a [u8],
) -> Result<(Metadata<'a>, S), FieldError> {
    let Some(Envelope { metadata, spec }) = read::<Envelope<'a, S>>(value)? else {
        return Err(FieldError::new("is null, which is no object"));
    };
    Ok((metadata.unwrap_or_default().0, spec.unwrap_or_default().0))
}

/// Reads JSON. `null` for the whole value is `None`: there is no such object.
pub(in crate::layout) fn read<'a, T: Deserialize<'a>>(
    value: &'a [u8],
) -> Result<Option<T>, FieldError> {
    let document: Option<Object<T>> = serde_json::from_slice(value).map_err(|error| {
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
        if !error.is_data() {
            return FieldError::new(format_args!("not JSON: {text}"));
        }
        let lines = value.split_inclusive(|b| *b == b'\n');
        let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
        FieldError::of(&path_at(value, before + error.column()), reason)
    })?;
    Ok(document.map(|document| document.0))
}

/// A list that may be missing or `null`.
pub(in crate::layout) fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// Converts each element; an error carries the list's name and the element's index.
pub(in crate::layout) fn each<T, U>(
    field: &str,
    list: &Option<Vec<T>>,
    convert: impl Fn(&T) -> Result<U, FieldError>,
) -> Result<Vec<U>, FieldError> {
    use super::error::At;
    self::list(list)
        .iter()
        .enumerate()
        .map(|(i, element)| convert(element).at_index(field, i))
        .collect()
}

/// A selector that is there and not empty.
pub(in crate::layout) fn selector(
    field: &str,
    text: &Option<Text<'_>>,
) -> Result<Option<Selector>, FieldError> {
    filled(text).map(|text| text.parse().map_err(|e| FieldError::of(field, e))).transpose()
}

/// The name of another object.
pub(in crate::layout) fn name(text: &str) -> Result<Name, FieldError> {
    keys::check_name(text).map_err(FieldError::new)?;
    Ok(Name::from(text))
}
