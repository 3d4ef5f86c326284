//! Text to tree, by recursive descent with a bounded depth.
//!
//! Written by hand because operator words count only directly after a label (`in in {"x"}` is a
//! selector), which takes a tokenizer apart, and because every error names its byte.

use std::sync::Arc;

use super::ast::{Node, set};
use super::{InvalidSelector, MAX_DEPTH, MAX_LABEL_LEN};

/// The part of a refused text that its error carries.
const QUOTED_LEN: usize = 200;

pub(super) fn parse(text: &str) -> Result<Node, InvalidSelector> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.skip_blanks();
    if parser.rest().is_empty() {
        return Ok(Node::All);
    }
    let root = parser.or()?;
    if !parser.rest().is_empty() {
        return Err(parser.error("expected && or || or the end"));
    }
    // `a || b && c` nests without a single parenthesis in the text.
    if root.depth() > MAX_DEPTH {
        return Err(parser.too_deep());
    }
    Ok(root)
}

/// Checks a label name that does not come from a selector's text.
pub(super) fn label_name(text: &str) -> Result<Arc<str>, InvalidSelector> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let label = parser.label()?;
    if parser.rest().is_empty() {
        Ok(label)
    } else {
        Err(parser.error("a label is made of A-Z a-z 0-9 _ . / -"))
    }
}

/// Checks a value that does not come from a selector's text.
pub(super) fn value(text: &str) -> Result<Arc<str>, InvalidSelector> {
    if text.contains('"') && text.contains('\'') {
        let parser = Parser { text, at: 0, depth: 0 };
        return Err(parser.error("a value cannot hold both kinds of quotes"));
    }
    Ok(Arc::from(text))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Open parentheses and `!` around the current position.
    depth: usize,
}

type Parse<T> = Result<T, InvalidSelector>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn error(&self, reason: impl Into<String>) -> InvalidSelector {
        let mut end = self.text.len().min(QUOTED_LEN);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let text = match self.text.get(..end) {
            Some(start) if end < self.text.len() => format!("{start}…"),
            _ => self.text.to_owned(),
        };
        InvalidSelector { text, reason: reason.into(), offset: self.at }
    }

    fn too_deep(&self) -> InvalidSelector {
        self.error(format!("nested deeper than {MAX_DEPTH}"))
    }

    /// Space and tab only: a newline is no blank.
    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Two words with any number of blanks, or none, between them.
    fn eat_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        if self.eat(first) {
            self.skip_blanks();
            if self.eat(second) {
                return true;
            }
        }
        self.at = start;
        false
    }

    fn close(&mut self) -> Parse<()> {
        self.skip_blanks();
        if self.eat(")") { Ok(()) } else { Err(self.error("expected )")) }
    }

    fn or(&mut self) -> Parse<Node> {
        let mut terms = vec![self.and()?];
        while self.eat("||") {
            terms.push(self.and()?);
        }
        Ok(join(terms, Node::Or))
    }

    fn and(&mut self) -> Parse<Node> {
        let mut terms = vec![self.term()?];
        while self.eat("&&") {
            terms.push(self.term()?);
        }
        Ok(join(terms, Node::And))
    }

    /// A term and the blanks on both sides of it.
    fn term(&mut self) -> Parse<Node> {
        let outside = self.depth;
        let mut negated = false;
        self.skip_blanks();
        while self.eat("!") {
            negated = !negated;
            self.enter()?;
            self.skip_blanks();
        }
        let primary = self.primary()?;
        self.depth = outside;
        self.skip_blanks();
        Ok(if negated { primary.negated() } else { primary })
    }

    fn enter(&mut self) -> Parse<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.too_deep()) } else { Ok(()) }
    }

    fn primary(&mut self) -> Parse<Node> {
        if self.eat("(") {
            self.enter()?;
            let inner = self.or()?;
            self.close()?;
            return Ok(inner);
        }
        // These are functions only with the parenthesis attached; else they are labels.
        if self.eat("has(") {
            self.skip_blanks();
            let label = self.label()?;
            self.close()?;
            return Ok(Node::Has(label));
        }
        if self.eat("all(") {
            self.close()?;
            return Ok(Node::All);
        }
        if self.eat("global(") {
            self.close()?;
            return Ok(Node::Global);
        }
        let label = self.label()?;
        self.operation(label)
    }

    fn label(&mut self) -> Parse<Arc<str>> {
        let is_label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-');
        let len = self.rest().bytes().take_while(|b| is_label(b)).count();
        if len > MAX_LABEL_LEN {
            return Err(self.error(format!("a label is at most {MAX_LABEL_LEN} bytes long")));
        }
        match self.rest().get(..len) {
            Some(label) if len > 0 => {
                self.at += len;
                Ok(Arc::from(label))
            }
            _ => Err(self.error("expected a label, has(), all(), global(), ! or (")),
        }
    }

    fn operation(&mut self, label: Arc<str>) -> Parse<Node> {
        self.skip_blanks();
        // "in" last: it is a prefix of nothing here, but "not in" must be tried as a whole.
        if self.eat("==") {
            Ok(Node::Equals(label, self.string()?))
        } else if self.eat("!=") {
            Ok(Node::Differs(label, self.string()?))
        } else if self.eat("contains") {
            Ok(Node::Contains(label, self.string()?))
        } else if self.eat_words("starts", "with") {
            Ok(Node::StartsWith(label, self.string()?))
        } else if self.eat_words("ends", "with") {
            Ok(Node::EndsWith(label, self.string()?))
        } else if self.eat_words("not", "in") {
            Ok(Node::NotIn(label, self.set()?))
        } else if self.eat("in") {
            Ok(Node::In(label, self.set()?))
        } else {
            Err(self.error("expected ==, !=, in, not in, contains, starts with or ends with"))
        }
    }

    /// There is no escape: the other quote is how a quote is written.
    fn string(&mut self) -> Parse<Arc<str>> {
        self.skip_blanks();
        let quote = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err(self.error("expected a string in quotes")),
        };
        let inside = &self.rest()[1..];
        match inside.split_once(quote) {
            Some((value, _)) => {
                self.at += value.len() + 2;
                Ok(Arc::from(value))
            }
            None => Err(self.error("the string has no end")),
        }
    }

    fn set(&mut self) -> Parse<Arc<[Arc<str>]>> {
        self.skip_blanks();
        if !self.eat("{") {
            return Err(self.error("expected a set in braces"));
        }
        let mut values = Vec::new();
        loop {
            self.skip_blanks();
            if self.eat("}") {
                return Ok(set(values));
            }
            values.push(self.string()?);
            self.skip_blanks();
            if !self.eat(",") && !self.rest().starts_with('}') {
                return Err(self.error("expected , or }"));
            }
        }
    }
}

/// One operand needs no operator, and its parentheses mean nothing.
fn join(mut terms: Vec<Node>, operator: fn(Vec<Node>) -> Node) -> Node {
    match terms.pop() {
        Some(only) if terms.is_empty() => only,
        Some(last) => {
            terms.push(last);
            operator(terms)
        }
        None => operator(terms),
    }
}
