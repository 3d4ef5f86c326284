//! How far the value behind a name goes, in whatever format: JSON (also inside of a JSON text), TOML,
//! YAML, environment files, BIRD, command lines. Pure.

/// The length of the value at the beginning of `text`. `first`: its name is the first word of its
/// line, which is indented by `indent`. Objects have none: what is in them has names of its own.
pub(super) fn length(text: &str, first: bool, indent: usize) -> usize {
    for quotes in ["\"\"\"", "'''"] {
        if let Some(body) = text.strip_prefix(quotes) {
            return body.find(quotes).map_or(text.len(), |end| end + 2 * quotes.len());
        }
    }
    let slashes = text.len() - text.trim_start_matches('\\').len();
    match text[slashes..].chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(text, slashes, quote),
        Some('{') => 0,
        Some('[') => text.find(']').map_or(text.len(), |end| end + 1),
        Some('|' | '>') if first => line(text) + block(&text[line(text)..], indent),
        Some('\n') if first => block(text, indent),
        _ if first => continued(text),
        _ => word(text),
    }
}

/// The length of a value in a unit's `Environment=`, of which a line may have several: to the quote
/// that `opened` before its name, else to the next assignment, so that it is whole also where somebody
/// forgot the quotes.
pub(super) fn item(text: &str, opened: Option<char>) -> usize {
    let (mut quote, mut quoted, mut escaped) = (opened, opened.is_some(), false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\n' => return at,
            '\\' => escaped = true,
            _ if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => (quote, quoted) = (Some(c), true),
            ' ' | '\t' if quote.is_none() && (quoted || assigns(&text[at + 1..])) => return at,
            _ => {}
        }
    }
    text.len()
}

/// `NAME=`, perhaps in quotes.
fn assigns(text: &str) -> bool {
    let text = text.strip_prefix(['"', '\'']).unwrap_or(text);
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    rest.len() < text.len() && rest.starts_with('=')
}

/// The value without its quotes and the space around it.
pub(super) fn text(value: &str) -> &str {
    value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'))
}

/// To the quote that has as many backslashes before it as the first one.
fn quoted(text: &str, slashes: usize, quote: char) -> usize {
    let start = slashes + 1;
    let mut run = 0;
    for (at, c) in text[start..].char_indices() {
        if c == '\\' {
            run += 1;
            continue;
        }
        // Below the first level an escaped quote is a part; deeper, one with more backslashes.
        if c == quote && (run == slashes || slashes == 0 && run % 2 == 0) {
            return start + at + 1;
        }
        // A quote that nobody closed ends with its line.
        if c == '\n' && slashes == 0 {
            return start + at;
        }
        run = 0;
    }
    text.len()
}

fn line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// To the end of the line, and of those that it goes on in.
fn continued(text: &str) -> usize {
    let mut end = 0;
    loop {
        end += line(&text[end..]);
        if !text[..end].ends_with('\\') || end >= text.len() {
            return end;
        }
        end += 1;
    }
}

/// Lines that are indented more; those of an object are not its value.
fn block(text: &str, indent: usize) -> usize {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        let deeper = line.len() - line.trim_start().len() > indent;
        if !bare.is_empty() && !deeper {
            break;
        }
        if end <= 1 && (bare.ends_with(':') || bare.contains(": ")) {
            return 0;
        }
        end += line.len();
    }
    text[..end].trim_end().len()
}

/// To the end of a word, and of the next one where the first says of what kind it is.
fn word(text: &str) -> usize {
    let end = |text: &str| {
        let end =
            |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '}' | ']' | ')' | '&' | '"');
        text.find(end).unwrap_or(text.len())
    };
    for kind in ["Bearer ", "Basic "] {
        if let Some(rest) = text.strip_prefix(kind) {
            return kind.len() + end(rest);
        }
    }
    end(text)
}
