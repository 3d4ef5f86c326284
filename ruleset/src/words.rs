//! A line as words, as the tools read it: quotes and backslashes are gone.

use std::borrow::Cow;

/// The words of a line; `None` when a quote is not closed.
pub(crate) fn words(line: &str) -> Option<Vec<Cow<'_, str>>> {
    if !line.contains(['"', '\\', '\'']) {
        return Some(line.split_ascii_whitespace().map(Cow::Borrowed).collect());
    }
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        if c.is_ascii_whitespace() && !quoted && !escaped {
            out.extend(word.take().map(Cow::Owned));
            continue;
        }
        let at = word.get_or_insert_with(String::new);
        match c {
            _ if escaped => {
                at.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => at.push(c),
        }
    }
    out.extend(word.map(Cow::Owned));
    (!quoted && !escaped).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words("-A  x -j DROP").unwrap(), ["-A", "x", "-j", "DROP"]);
        let line = r#"-j LOG --log-prefix "it\"s a\\b: " --log-level 5"#;
        assert_eq!(
            words(line).unwrap(),
            ["-j", "LOG", "--log-prefix", r#"it"s a\b: "#, "--log-level", "5"]
        );
        assert_eq!(words(r#"--log-prefix "" x"#).unwrap(), ["--log-prefix", "", "x"]);
        assert!(words("\"open").is_none() && words("open\\").is_none());
    }
}
