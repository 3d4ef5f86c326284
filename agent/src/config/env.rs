//! The environment as a value. Nothing else in the agent reads the process's environment.

use std::collections::BTreeMap;

use super::params::folded;

/// Environment variables by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl std::fmt::Debug for Env {
    /// Only the names: there are passwords among the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env {
    /// Every variable of this process. What is not UTF-8 cannot be meant for us.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }

    /// The variables of a file as systemd reads it (`EnvironmentFile=`): `NAME=value`, with or without
    /// quotes, comment lines with `#` or `;`, a backslash at the end of a line that goes on.
    pub fn of_file(text: &str) -> Self {
        assignments(text).into_iter().collect()
    }

    /// The variables of a file's bytes. In its comments any byte may stand; one that is not UTF-8 in a
    /// name or a value is `None`: systemd then takes nothing of the file.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Some(Self::of_file(text));
        }
        let odd = |text: &String| text.contains(char::REPLACEMENT_CHARACTER);
        let all = assignments(&String::from_utf8_lossy(bytes));
        let text = !all.iter().any(|(name, value)| odd(name) || odd(value));
        text.then(|| all.into_iter().collect())
    }

    /// These variables, and those of `weaker` where these say nothing.
    #[must_use]
    pub fn or(self, mut weaker: Self) -> Self {
        weaker.0.extend(self.0.into_iter().filter(|(_, value)| !value.trim().is_empty()));
        weaker
    }

    /// The value of `name` without spaces around it. Empty counts as not set: that is what
    /// environment files and container tools make of "nothing".
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Every variable, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Felix's parameters: name as written without its prefix, and value. Prefix and name count in
    /// any case; of several spellings of one name the first in byte order (upper case) counts.
    pub fn felix(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut seen = std::collections::BTreeSet::new();
        self.0.iter().filter_map(move |(variable, value)| {
            let prefix = variable.get(..PREFIX.len())?;
            let name = variable.get(PREFIX.len()..)?;
            let ours = prefix.eq_ignore_ascii_case(PREFIX) && !name.is_empty();
            let value = value.trim();
            (ours && !value.is_empty() && seen.insert(folded(name))).then_some((name, value))
        })
    }

    /// One of Felix's parameters, its name without prefix, in any case.
    pub fn felix_value(&self, wanted: &str) -> Option<&str> {
        let wanted = folded(wanted);
        self.felix().find(|(name, _)| folded(name) == wanted).map(|(_, value)| value)
    }
}

/// Name and value of each assignment of an environment file, in its order.
fn assignments(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        Some((name.trim().to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// What the names of Felix's parameters begin with.
const PREFIX: &str = "FELIX_";

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Env {
    fn from(variables: [(&str, &str); N]) -> Self {
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_systemd_reads_it() {
        let text = "# comment\n; another\n\nA=1\n B = two words \nC=\"quo ted\"\nD='x'\nE=\"odd\n\
                    F=a\\\n  b\nno assignment\n";
        let env = Env::of_file(text);
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "quo ted"),
            ("D", "x"),
            ("E", "\"odd"),
            ("F", "a   b"),
        ];
        assert_eq!(env, Env::from(expected));
        let own = Env::from([("A", "mine"), ("B", " ")]);
        let both = own.or(env);
        assert_eq!((both.get("A"), both.get("B")), (Some("mine"), Some("two words")));
    }

    #[test]
    fn a_byte_that_is_no_text_may_stand_in_a_comment_only() {
        let env = Env::of_bytes(b"# B\xfcro\n;\xfc\nA=1\n").unwrap();
        assert_eq!(env, Env::from([("A", "1")]));
        assert_eq!(Env::of_bytes("A=\u{fc}\n".as_bytes()), Some(Env::from([("A", "\u{fc}")])));
        for odd in [&b"A=1\nB=\xfc\n"[..], b"A\xfc=1\n", b"A=\xfc\nA=1\n", b"A=1 # \xfc\n"] {
            assert_eq!(Env::of_bytes(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn empty_is_not_set_and_upper_case_wins() {
        let env = Env::from([
            ("FELIX_IPV6SUPPORT", "false"),
            ("felix_ipv6support", "true"),
            ("Felix_Foo_Bar", " x "),
            ("FELIX_EMPTY", "  "),
            ("FELIX_", "x"),
            ("FELIX", "x"),
            ("\u{e9}FELIX_X", "x"),
            ("IP", ""),
        ]);
        let felix: Vec<_> = env.felix().collect();
        assert_eq!(felix, [("IPV6SUPPORT", "false"), ("Foo_Bar", "x")]);
        assert_eq!(env.get("IP"), None);
        assert_eq!(env.felix_value("Ipv6Support"), Some("false"));
    }
}
