//! Selectors, read from their text and asked of labels.

use std::collections::BTreeMap;

/// Labels with those that are inherited.
pub(crate) type Labels = BTreeMap<String, String>;

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    Always,
    Has(String),
    Equal(String, String),
    Contains(String, String),
    Starts(String, String),
    Ends(String, String),
    In(String, Vec<String>),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

impl Expression {
    /// Reads a selector. `None` when it is none, which a value of the model never is.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text };
        reader.blank();
        if reader.rest.is_empty() {
            return Some(Self::Always);
        }
        let all = reader.any()?;
        reader.rest.is_empty().then_some(all)
    }

    /// Is it true of these labels?
    pub(crate) fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::Always => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equal(key, value) => labels.get(key) == Some(value),
            Self::Contains(key, part) => labels.get(key).is_some_and(|v| v.contains(part)),
            Self::Starts(key, part) => labels.get(key).is_some_and(|v| v.starts_with(part)),
            Self::Ends(key, part) => labels.get(key).is_some_and(|v| v.ends_with(part)),
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::Not(inner) => !inner.holds(labels),
            Self::All(parts) => parts.iter().all(|part| part.holds(labels)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(labels)),
        }
    }

    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        self.blank();
        Some(())
    }

    fn any(&mut self) -> Option<Expression> {
        let mut parts = vec![self.all()?];
        while self.take("||").is_some() {
            parts.push(self.all()?);
        }
        Some(Expression::Any(parts))
    }

    fn all(&mut self) -> Option<Expression> {
        let mut parts = vec![self.term()?];
        while self.take("&&").is_some() {
            parts.push(self.term()?);
        }
        Some(Expression::All(parts))
    }

    fn term(&mut self) -> Option<Expression> {
        if self.take("!").is_some() {
            return Some(self.term()?.not());
        }
        if self.take("(").is_some() {
            let inner = self.any()?;
            self.take(")")?;
            return Some(inner);
        }
        for function in ["all(", "global("] {
            if self.take(function).is_some() {
                self.take(")")?;
                return Some(Expression::Always);
            }
        }
        if self.take("has(").is_some() {
            let key = self.label()?;
            self.take(")")?;
            return Some(Expression::Has(key));
        }
        let key = self.label()?;
        self.about(key)
    }

    fn label(&mut self) -> Option<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (label, rest) = self.rest.split_at(end);
        if label.is_empty() {
            return None;
        }
        self.rest = rest;
        self.blank();
        Some(label.to_owned())
    }

    /// What is said of a label. What is absent differs from everything.
    fn about(&mut self, key: String) -> Option<Expression> {
        if self.take("==").is_some() {
            return Some(Expression::Equal(key, self.text()?));
        }
        if self.take("!=").is_some() {
            return Some(Expression::Equal(key, self.text()?).not());
        }
        if self.take("contains").is_some() {
            return Some(Expression::Contains(key, self.text()?));
        }
        if self.take("starts").is_some() {
            self.take("with")?;
            return Some(Expression::Starts(key, self.text()?));
        }
        if self.take("ends").is_some() {
            self.take("with")?;
            return Some(Expression::Ends(key, self.text()?));
        }
        if self.take("not").is_some() {
            self.take("in")?;
            return Some(Expression::In(key, self.set()?).not());
        }
        self.take("in")?;
        Some(Expression::In(key, self.set()?))
    }

    fn set(&mut self) -> Option<Vec<String>> {
        self.take("{")?;
        let mut values = Vec::new();
        while self.take("}").is_none() {
            values.push(self.text()?);
            if self.take(",").is_none() {
                self.take("}")?;
                break;
            }
        }
        Some(values)
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, rest) = self.rest[1..].split_once(quote)?;
        self.rest = rest;
        let value = value.to_owned();
        self.blank();
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: the selector, the labels it is true of, and those it is not.
    #[test]
    fn the_table_of_the_documentation() {
        for (text, yes, no) in [
            ("", &[""][..], &[][..]),
            ("all()", &["", "k=v"], &[]),
            ("global( )", &["", "k=v"], &[]),
            ("k == 'v'", &["k=v"], &["", "k=", "k=w", "j=v"]),
            ("k != 'v'", &["", "k=w", "k="], &["k=v"]),
            ("k in {'v', \"w\",}", &["k=v", "k=w"], &["", "k=x"]),
            ("k not in {'v'}", &["", "k=w"], &["k=v"]),
            ("k notin {}", &["", "k=v"], &[]),
            ("k contains 'b'", &["k=abc", "k=b"], &["", "k=ac"]),
            ("k contains ''", &["k=abc", "k="], &[""]),
            ("k startswith 'a'", &["k=abc"], &["", "k=ba"]),
            ("k ends with 'c'", &["k=abc"], &["", "k=ca"]),
            ("has(k)", &["k=", "k=v"], &["", "j=v"]),
            ("! has( k )", &["", "j=v"], &["k="]),
            ("!!has(k)", &["k="], &[""]),
            ("k == 'v' && j == 'w' || has(x)", &["k=v j=w", "x=y", "k=v x="], &["k=v", "j=w"]),
            ("k == 'v' && (j == 'w' || has(x))", &["k=v j=w", "k=v x="], &["x=y", "k=v"]),
            ("!(k == 'v')&&has(j)", &["j=1", "k=w j="], &["k=v j=1", "k=w"]),
            ("in in {'in'}", &["in=in"], &["", "in=out"]),
            ("not == 'x'", &["not=x"], &[""]),
        ] {
            let expression = Expression::read(text).unwrap_or_else(|| panic!("{text:?}"));
            let labels = |text: &str| -> Labels {
                let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
                pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
            };
            for case in yes {
                assert!(expression.holds(&labels(case)), "{text:?} of {case:?}");
            }
            for case in no {
                assert!(!expression.holds(&labels(case)), "{text:?} not of {case:?}");
            }
        }
        for text in ["k", "k =", "k == v", "has(k", "(all()", "k == 'v' &&", "k in 'v'", "k == 'v"]
        {
            assert_eq!(Expression::read(text), None, "{text:?}");
        }
    }
}
