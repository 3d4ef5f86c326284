//! Removes secrets from text: from everything that goes into an archive, whoever wrote it. Pure.
//!
//! Two things are removed: what stands where a secret stands (behind a name that says so, between
//! `://` and `@`, a private key), and wherever it stands, what was found so in a configuration. Too much
//! rather than too little: what is left of a line says what it was about.

use std::collections::BTreeSet;

use super::value;

/// What stands in a secret's place.
pub const REMOVED: &str = "[removed]";

/// Parts of names whose values are secret.
const WORDS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authorization",
    "privatekey",
    "apikey",
    "accesskey",
];
/// Ends of names that hold a key's or a certificate's content.
const CONTENTS: [&str; 3] = ["key", "cert", "psk"];
/// In which form that content is: the last part of such a name.
const FORMS: [&str; 5] = ["data", "pem", "b64", "base64", "content"];
/// Ends of names that say where something is, or what it is called.
const HARMLESS: [&str; 7] = ["file", "path", "dir", "ref", "name", "namespace", "public"];
/// A shorter value is removed only where it stands: it may be a part of anything.
const SHORTEST: usize = 6;
/// Values that say nothing.
const COMMON: [&str; 6] = ["disabled", "enabled", "changeme!", "<none>", "password", REMOVED];

/// True when the value of something of this name is to be removed.
pub fn is_secret(name: &str) -> bool {
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let name = name.to_ascii_lowercase();
    !HARMLESS.iter().any(|end| name.ends_with(end)) && WORDS.iter().any(|word| name.contains(word))
}

/// `ETCD_KEY`, `peer-cert`, `client-key-data`: what it is called says content, and a path in its place
/// is none.
fn is_content(name: &str, value: &str) -> bool {
    let folded = name.to_ascii_lowercase();
    // Behind a dot it is a file's ending: `key.pem: permission denied`.
    let form = folded.rsplit_once(['_', '-']).filter(|(_, form)| FORMS.contains(form));
    let whose = form.map_or(&*folded, |(whose, _)| whose);
    let part = whose.rsplit(['_', '-', '.']).next().unwrap_or_default();
    let compound = part.len() < folded.len() || name.ends_with("Key") && name.len() > 3;
    let ends = CONTENTS.iter().any(|end| part.ends_with(end));
    let ends = ends || form.is_some() && part == "certificate";
    compound && ends && !folded.contains("public") && !value.starts_with('/')
}

/// What is known to be secret.
#[derive(Clone, Debug, Default)]
pub struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Finds the secrets in a configuration, to remove them everywhere.
    pub fn learn(&mut self, text: &str) {
        let mut found = Vec::new();
        clean_places(text, &self.0, &mut found);
        for value in found {
            let value = value.trim();
            if value.len() < SHORTEST || COMMON.contains(&value) {
                continue;
            }
            self.0.insert(value.to_owned());
            // As another format has it: quoted, not quoted, and in a URL.
            self.0.insert(value.replace('\\', "\\\\").replace('"', "\\\""));
            self.0.extend(Some(unquoted(value)).filter(|value| value.len() >= SHORTEST));
            self.0.insert(unescaped(value));
            // The parts of `user:password`; the user alone is no secret.
            if let Some((_, password)) = value.split_once(':').filter(|(_, p)| p.len() >= SHORTEST)
            {
                self.0.insert(password.to_owned());
                self.0.insert(unescaped(password));
            }
        }
    }

    /// Finds those in a unit's environment. Its other settings name credentials and hold none: what
    /// they say would be removed everywhere, the paths of certificates too.
    pub fn learn_unit(&mut self, text: &str) {
        let (mut lines, mut goes_on) = (String::new(), false);
        for line in text.split_inclusive('\n') {
            if goes_on || is_environment(line) {
                lines.push_str(line);
                goes_on = line.ends_with("\\\n");
            }
        }
        self.learn(&lines);
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        let mut text = clean_places(text, &self.0, &mut Vec::new());
        // The longest first: one may be a part of another.
        let mut known: Vec<&String> = self.0.iter().collect();
        known.sort_by_key(|value| std::cmp::Reverse(value.len()));
        for value in known {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), REMOVED);
            }
        }
        text
    }
}

/// `%40` → `@`, as a URL is read.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let hex = rest.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        out.push(code.unwrap_or(*first));
        bytes = if code.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `a\"b` → `a"b`.
fn unquoted(text: &str) -> String {
    let mut chars = text.chars();
    let next = || chars.next().and_then(|c| if c == '\\' { chars.next() } else { Some(c) });
    std::iter::from_fn(next).collect()
}

/// Removes what stands where secrets stand, and notes it.
fn clean_places(text: &str, known: &BTreeSet<String>, found: &mut Vec<String>) -> String {
    let text = private_keys(text);
    let text = user_info(&text, found);
    assignments(&text, known, found)
}

/// Everything between the lines of a private key, also where line ends are written as `\n`.
fn private_keys(text: &str) -> String {
    const END: &str = "PRIVATE KEY-----";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let Some(head) = rest[begin..].find(END).filter(|at| *at < 40) else {
            let next = begin + "-----BEGIN ".len();
            out.push_str(&rest[..next]);
            rest = &rest[next..];
            continue;
        };
        out.push_str(&rest[..begin]);
        out.push_str(REMOVED);
        let body = &rest[begin + head + END.len()..];
        // One that is cut off goes to the end.
        rest = body.find(END).map_or("", |end| &body[end + END.len()..]);
    }
    out + rest
}

/// `http://user:password@host` → `http://[removed]@host`.
fn user_info(text: &str, found: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        out.push_str(before);
        let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>');
        let url = &behind[..behind.find(end).unwrap_or(behind.len())];
        // A password may hold a comma; one before another scheme is between two URLs.
        let mut commas = url.match_indices(',').map(|(at, _)| at);
        let next = |at: &usize| {
            let next = &url[at + 1..];
            let behind = next.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            behind.len() < next.len() && behind.starts_with("://")
        };
        let url = commas.find(next).map_or(url, |at| &url[..at]);
        rest = behind;
        if let Some(at) = url.rfind('@') {
            found.push(url[..at].to_owned());
            out.push_str(REMOVED);
            rest = &behind[at..];
        }
    }
    out + rest
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// A unit's `Environment=`, also one that is commented out. `line`: from its beginning on.
fn is_environment(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '#', ';']);
    let sign = line.strip_prefix("Environment").map(|rest| rest.trim_start_matches([' ', '\t']));
    sign.is_some_and(|sign| sign.starts_with('='))
}

/// `password = …`, `"token": "…"`, `ETCD_KEY=…`, `password "…"`, `--password …`.
fn assignments(text: &str, known: &BTreeSet<String>, found: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    // What is before `at` has been read; the line in which that is begins at `line`, and the first of
    // those that backslashes make one of at `start`.
    let (mut at, mut line, mut start) = (0, 0, 0);
    while let Some(begin) = text[at..].find(is_name).map(|next| at + next) {
        let end = text[begin..].find(|c| !is_name(c)).map_or(text.len(), |next| begin + next);
        if let Some(newline) = text[at..begin].rfind('\n') {
            line = at + newline + 1;
            start = if text[..line].ends_with("\\\n") { start } else { line };
        }
        out.push_str(&text[at..end]);
        at = end;
        let (name, after) = (&text[begin..end], &text[end..]);
        let Some((gap, value)) = value_of(name, after) else { continue };
        let is_secret = is_secret(name);
        if !is_secret && !is_content(name, "") {
            continue;
        }
        let before = &text[line..begin];
        let mark = |c: char| c.is_whitespace() || matches!(c, '-' | '#' | '"' | '\'' | '\\');
        let first = before.trim_start_matches(mark).is_empty() || before.trim() == "export";
        let indent = before.len() - before.trim_start().len();
        let length = if is_environment(&text[start..begin]) {
            value::item(value, before.chars().next_back().filter(|c| matches!(c, '"' | '\'')))
        } else {
            value::length(value, first, indent)
        };
        // One that is known may hold what ends others.
        let whole = known.iter().filter(|known| value.starts_with(known.as_str()));
        let length = whole.map(String::len).fold(length, usize::max);
        let secret = value::text(&value[..length]);
        if secret.is_empty() || !(is_secret || is_content(name, secret)) {
            continue;
        }
        found.push(secret.to_owned());
        out.push_str(&after[..gap]);
        out.push_str(&value[..length].replacen(secret, REMOVED, 1));
        at = end + gap + length;
        // A value may go over several lines.
        if let Some(newline) = text[end..at].rfind('\n') {
            line = end + newline + 1;
            start = if text[..line].ends_with("\\\n") { start } else { line };
        }
    }
    out + &text[at..]
}

/// How far behind a name its value begins, and the value with what follows.
fn value_of<'a>(name: &str, after: &'a str) -> Option<(usize, &'a str)> {
    // The end of a quoted name: `"`, or `\"` inside of another text.
    let quote = after.trim_start_matches('\\');
    let closed = quote.strip_prefix(['"', '\'']).unwrap_or(after);
    let sign = closed.trim_start_matches([' ', '\t']);
    let value = match sign.strip_prefix(['=', ':']) {
        // A selector compares: `token == 'x'`. (`TOKEN==x` is an environment file's.)
        Some(_) if sign.starts_with("==") && sign.len() < closed.len() => return None,
        Some(value) => value.trim_start_matches([' ', '\t']),
        // BIRD has no sign, and options need none.
        None if sign.len() < closed.len()
            && closed.len() == after.len()
            && (sign.starts_with('"') || name.starts_with("--")) =>
        {
            sign
        }
        None => return None,
    };
    Some((after.len() - value.len(), value))
}

#[cfg(test)]
mod tests;
