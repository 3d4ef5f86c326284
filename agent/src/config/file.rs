//! `agent.toml`, the native form of the configuration.
//!
//! Strict, because nobody watches an agent start: an unknown key or a bad value is an error with
//! its line. All mistakes are reported at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::collector::COLLECTOR_KEYS;
use super::params::{PARAMS, Param, nearest};
use super::settings::Settings;
use super::unsupported::why_unsupported;
use crate::telemetry::chain;

/// The keys of `[datastore]` and what they are.
pub static DATASTORE_KEYS: &[(&str, &str)] = &[
    (
        "type",
        "etcd, etcdv2 (Calico up to 2.6), or directory: files of this host. As CALICO_DATASTORE.",
    ),
    ("directory", "Manifests as calicoctl takes them, only read (/etc/calico/resources)."),
    ("endpoints", "URLs of etcd, `http://…` or `https://…`. As ETCD_ENDPOINTS."),
    ("ca_cert_file", "The authority that signed etcd's certificate. As ETCD_CA_CERT_FILE."),
    ("cert_file", "This host's certificate. As ETCD_CERT_FILE."),
    ("key_file", "Its private key. As ETCD_KEY_FILE."),
    ("username", "The user. As ETCD_USERNAME."),
    ("password", "The user's password. As ETCD_PASSWORD."),
];

/// The keys of `[node]` and what they are.
pub static NODE_KEYS: &[(&str, &str)] = &[
    ("name", "This host's name in the cluster. As NODENAME."),
    ("ip", "Its IPv4 address, with or without a prefix length, or none. As IP."),
    ("ip6", "Its IPv6 address, with or without a prefix length, or none. As IP6."),
    ("as_number", "Its AS number, plain or dotted. As AS."),
];

/// What `agent.toml` says. Everything is optional.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FileConfig {
    /// `[datastore]`: key → text.
    pub datastore: BTreeMap<&'static str, String>,
    /// `[node]`: key → text.
    pub node: BTreeMap<&'static str, String>,
    /// `[collector]`: key → text.
    pub collector: BTreeMap<&'static str, String>,
    /// `[felix]`: Felix's name of the parameter → text. Every value was checked.
    pub felix: BTreeMap<&'static str, String>,
}

/// A mistake and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, naming the key.
    pub message: String,
}

/// `agent.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has mistakes: one line each, `path:line:column: message`.
    #[error("{}", Lines(path, mistakes))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// At least one, in the order of the file.
        mistakes: Vec<Mistake>,
    },
}

impl FileError {
    /// In words: each mistake in a line of its own.
    pub fn lines(&self) -> String {
        match self {
            Self::Mistakes { .. } => self.to_string(),
            Self::Read { .. } => chain(self),
        }
    }
}

struct Lines<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Mistake { line, column, message }) in self.1.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{line}:{column}: {message}", self.0.display())?;
        }
        Ok(())
    }
}

impl fmt::Debug for FileConfig {
    /// Only the keys: there is a password among the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.datastore.keys().chain(self.node.keys());
        let keys = keys.chain(self.collector.keys()).chain(self.felix.keys());
        f.debug_set().entries(keys).finish()
    }
}

impl FileConfig {
    /// Reads `path`. A file that is not there says nothing.
    ///
    /// # Errors
    /// When it cannot be read or has mistakes.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        match Self::load_as_far(path) {
            (config, None) => Ok(config),
            (_, Some(error)) => Err(error),
        }
    }

    /// Reads `path` for who must go on whatever is in it: what has no mistake, and what is wrong.
    pub fn load_as_far(path: &Path) -> (Self, Option<FileError>) {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let (config, mistakes) = Self::parse_as_far(&text);
                let error = (!mistakes.is_empty())
                    .then(|| FileError::Mistakes { path: path.to_owned(), mistakes });
                (config, error)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Self::default(), None),
            Err(source) => {
                (Self::default(), Some(FileError::Read { path: path.to_owned(), source }))
            }
        }
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the file.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        match Self::parse_as_far(text) {
            (config, mistakes) if mistakes.is_empty() => Ok(config),
            (_, mistakes) => Err(mistakes),
        }
    }

    /// What the text says where it has no mistake, and every mistake in it, in the order of the file.
    pub fn parse_as_far(text: &str) -> (Self, Vec<Mistake>) {
        let mut reader = Reader { text, mistakes: vec![] };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            reader.mistake(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        let config = reader.file(table.get_ref());
        let mut mistakes = reader.mistakes;
        mistakes.sort_by_key(|m| (m.line, m.column));
        (config, mistakes)
    }
}

struct Reader<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn mistake(&mut self, at: usize, message: String) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        self.mistakes.push(Mistake { line, column, message });
    }

    fn file(&mut self, table: &DeTable<'_>) -> FileConfig {
        let mut config = FileConfig::default();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let sections = ["datastore", "node", "collector", "felix"];
            if !sections.contains(&name) {
                let hint = if Param::find(name).is_some() {
                    "; it belongs into the section [felix]".to_owned()
                } else {
                    hint(name, sections.into_iter().map(Cow::Borrowed))
                };
                let what = if value.get_ref().is_table() { "section" } else { "key" };
                self.mistake(key.span().start, format!("unknown {what} `{name}`{hint}"));
                continue;
            }
            let Some(section) = value.get_ref().as_table() else {
                self.mistake(key.span().start, format!("`{name}` is a section: write [{name}]"));
                continue;
            };
            match name {
                "datastore" => config.datastore = self.section(name, section, DATASTORE_KEYS),
                "node" => config.node = self.section(name, section, NODE_KEYS),
                "collector" => config.collector = self.section(name, section, COLLECTOR_KEYS),
                _ => config.felix = self.felix(section),
            }
        }
        config
    }

    fn section(
        &mut self,
        section: &str,
        table: &DeTable<'_>,
        known: &'static [(&'static str, &'static str)],
    ) -> BTreeMap<&'static str, String> {
        let mut found = BTreeMap::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let Some((known, _)) = known.iter().find(|(known, _)| *known == name) else {
                let hint = hint(name, known.iter().map(|(known, _)| Cow::Borrowed(*known)));
                let message = format!("unknown key `{name}` in [{section}]{hint}");
                self.mistake(key.span().start, message);
                continue;
            };
            if let Some(text) = self.text_of(name, value) {
                found.insert(*known, text);
            }
        }
        found
    }

    fn felix(&mut self, table: &DeTable<'_>) -> BTreeMap<&'static str, String> {
        let mut found = BTreeMap::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let Some(param) = Param::find(name) else {
                let hint = match why_unsupported(name) {
                    Some(reason) => format!(": Felix knows it, this agent does not ({reason})"),
                    None => hint(name, PARAMS.iter().map(|p| Cow::Owned(p.snake_case()))),
                };
                let message = format!("unknown key `{name}` in [felix]{hint}");
                self.mistake(key.span().start, message);
                continue;
            };
            let Some(text) = self.text_of(name, value) else { continue };
            if let Err(error) = param.apply(&text, &mut Settings::default()) {
                let message = format!("`{name}` is {:?}: it takes {}", error.value, error.allowed);
                self.mistake(value.span().start, message);
            } else if found.insert(param.name, text).is_some() {
                self.mistake(key.span().start, format!("`{name}` sets {} again", param.name));
            }
        }
        found
    }

    /// A value as the environment would have it: lists have commas.
    fn text_of(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(yes) => yes.to_string(),
            DeValue::Array(items) => {
                let texts: Option<Vec<_>> = items.iter().map(|i| self.text_of(name, i)).collect();
                texts?.join(",")
            }
            other => {
                let message = format!("`{name}` cannot be a value of type {}", other.type_str());
                self.mistake(value.span().start, message);
                return None;
            }
        };
        if text.trim().is_empty() {
            let message = format!("`{name}` is empty: leave the line out to set nothing");
            self.mistake(value.span().start, message);
            return None;
        }
        Some(text)
    }
}

/// `, did you mean …?`, when something is close.
fn hint<'a>(name: &str, known: impl Iterator<Item = Cow<'a, str>>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}
