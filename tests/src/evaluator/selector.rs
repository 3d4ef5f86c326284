//! Selectors: a parser for today's grammar and what an expression says of a set of labels.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `all()`, and an empty text.
    All,
    /// `global()`.
    Global,
    /// `has(k)`.
    Has(String),
    /// A comparison of one label with one text; the operator as it is written.
    Is(String, Operator, String),
    /// `k in {…}`.
    In(String, Vec<String>),
    /// `k not in {…}`.
    NotIn(String, Vec<String>),
    /// `!x`.
    Not(Box<Self>),
    /// `x && y`.
    And(Vec<Self>),
    /// `x || y`.
    Or(Vec<Self>),
}

/// How a label is compared with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `==`.
    Equal,
    /// `!=`.
    Unequal,
    /// `contains`.
    Contains,
    /// `starts with`.
    Starts,
    /// `ends with`.
    Ends,
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut input = Input { rest: text };
        input.skip();
        if input.rest.is_empty() {
            return Ok(Self::All);
        }
        let all = input.or()?;
        ensure!(input.rest.is_empty(), "{:?} is left of {text:?}", input.rest);
        Ok(all)
    }

    /// `label == "value"`.
    pub fn equal(label: &str, value: &str) -> Self {
        Self::Is(label.to_owned(), Operator::Equal, value.to_owned())
    }

    /// Every label name with this prefix; `all()` and `global()` as they are.
    #[must_use]
    pub fn prefixed(&self, prefix: &str) -> Self {
        self.rewritten(prefix, &Self::All, &Self::Global)
    }

    /// With something else in the place of `all()`, and of `global()`.
    #[must_use]
    pub fn replacing(&self, all: &Self, global: &Self) -> Self {
        self.rewritten("", all, global)
    }

    fn rewritten(&self, prefix: &str, all: &Self, global: &Self) -> Self {
        let name = |label: &String| format!("{prefix}{label}");
        let each = |list: &[Self]| list.iter().map(|e| e.rewritten(prefix, all, global)).collect();
        match self {
            Self::All => all.clone(),
            Self::Global => global.clone(),
            Self::Has(label) => Self::Has(name(label)),
            Self::Is(label, operator, value) => Self::Is(name(label), *operator, value.clone()),
            Self::In(label, set) => Self::In(name(label), set.clone()),
            Self::NotIn(label, set) => Self::NotIn(name(label), set.clone()),
            Self::Not(inner) => Self::Not(Box::new(inner.rewritten(prefix, all, global))),
            Self::And(list) => Self::And(each(list)),
            Self::Or(list) => Self::Or(each(list)),
        }
    }

    /// True when something with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.contains_key(label),
            Self::Is(label, operator, text) => {
                let value = labels.get(label);
                match operator {
                    Operator::Equal => value == Some(text),
                    Operator::Unequal => value != Some(text),
                    Operator::Contains => value.is_some_and(|v| v.contains(text.as_str())),
                    Operator::Starts => value.is_some_and(|v| v.starts_with(text.as_str())),
                    Operator::Ends => value.is_some_and(|v| v.ends_with(text.as_str())),
                }
            }
            Self::In(label, set) => labels.get(label).is_some_and(|v| set.contains(v)),
            Self::NotIn(label, set) => labels.get(label).is_none_or(|v| !set.contains(v)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(list) => list.iter().all(|e| e.matches(labels)),
            Self::Or(list) => list.iter().any(|e| e.matches(labels)),
        }
    }
}

struct Input<'a> {
    rest: &'a str,
}

impl Input<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Takes `token` if it comes next, and the blanks behind it.
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        self.skip();
        true
    }

    fn need(&mut self, token: &str) -> Result<()> {
        ensure!(self.take(token), "{token:?} is missing before {:?}", self.rest);
        Ok(())
    }

    fn or(&mut self) -> Result<Selector> {
        let mut list = vec![self.and()?];
        while self.take("||") {
            list.push(self.and()?);
        }
        Ok(Selector::Or(list))
    }

    fn and(&mut self) -> Result<Selector> {
        let mut list = vec![self.term()?];
        while self.take("&&") {
            list.push(self.term()?);
        }
        Ok(Selector::And(list))
    }

    fn term(&mut self) -> Result<Selector> {
        if self.take("!") {
            return Ok(Selector::Not(Box::new(self.term()?)));
        }
        if self.take("(") {
            let inner = self.or()?;
            self.need(")")?;
            return Ok(inner);
        }
        for (function, value) in [("all(", Selector::All), ("global(", Selector::Global)] {
            if self.take(function) {
                self.need(")")?;
                return Ok(value);
            }
        }
        if self.take("has(") {
            let label = self.label()?;
            self.need(")")?;
            return Ok(Selector::Has(label));
        }
        let label = self.label()?;
        self.operator(label)
    }

    fn label(&mut self) -> Result<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        ensure!((1..=512).contains(&end), "no label at {:?}", self.rest);
        let (label, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip();
        Ok(label.to_owned())
    }

    fn operator(&mut self, label: String) -> Result<Selector> {
        let operator = if self.take("==") {
            Operator::Equal
        } else if self.take("!=") {
            Operator::Unequal
        } else if self.take("contains") {
            Operator::Contains
        } else if self.take("starts") {
            self.need("with")?;
            Operator::Starts
        } else if self.take("ends") {
            self.need("with")?;
            Operator::Ends
        } else if self.take("in") {
            return Ok(Selector::In(label, self.set()?));
        } else if self.take("not") {
            self.need("in")?;
            return Ok(Selector::NotIn(label, self.set()?));
        } else {
            bail!("no operator at {:?}", self.rest);
        };
        Ok(Selector::Is(label, operator, self.text()?))
    }

    fn set(&mut self) -> Result<Vec<String>> {
        self.need("{")?;
        let mut all = Vec::new();
        while !self.take("}") {
            all.push(self.text()?);
            if !self.take(",") {
                self.need("}")?;
                break;
            }
        }
        Ok(all)
    }

    fn text(&mut self) -> Result<String> {
        for quote in ['"', '\''] {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let Some((text, rest)) = rest.split_once(quote) else { bail!("an open quote") };
                let text = text.to_owned();
                self.rest = rest;
                self.skip();
                return Ok(text);
            }
        }
        bail!("no text at {:?}", self.rest)
    }
}
