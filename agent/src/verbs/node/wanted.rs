//! The settings that were typed, put into the files of this host. Pure.
//!
//! A setting stays where it is: one that the agent's environment names is changed there, for there
//! it counts, and every other one in `agent.toml`. Where etcd is stands in `agent.toml` in any case: the
//! CNI plugin asks it and no environment file.

use std::path::{Path, PathBuf};

use super::toml_file::{self, Form, TomlError};
use super::{NodeArgs, env_file};
use crate::config::{Env, FileConfig, Flags, Local, LocalError, Mistake};
use crate::verbs::diags::secrets::REMOVED;

/// One setting.
#[derive(Debug)]
struct Wanted {
    section: &'static str,
    key: &'static str,
    value: String,
    form: Form,
    /// Its names in the environment, the one to write first.
    variables: &'static [&'static str],
    /// In `agent.toml` also when the environment says it.
    also_in_file: bool,
}

/// A file of this host, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostFile {
    /// Where.
    pub(super) path: PathBuf,
    /// What is in it; empty when it is not there.
    pub(super) text: String,
}

/// The configuration as it is.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// `agent.toml`.
    pub(super) toml: HostFile,
    /// Environment files of the unit, the strongest first.
    pub(super) env: Vec<HostFile>,
}

/// A file to write, and what changes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// Where.
    pub(super) path: PathBuf,
    /// The whole new text.
    pub(super) text: String,
    /// One line for each setting, for people.
    pub(super) changes: Vec<String>,
}

/// What was typed cannot be brought into force.
#[derive(Debug, thiserror::Error)]
pub enum WantedError {
    /// `agent.toml` has mistakes.
    #[error(
        "{} has mistakes: {}",
        path.display(),
        mistakes.iter().map(|m| format!("line {}: {}", m.line, m.message)).collect::<Vec<_>>().join("; ")
    )]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// At least one.
        mistakes: Vec<Mistake>,
    },
    /// `agent.toml` cannot be changed.
    #[error("cannot change {}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TomlError,
    },
    /// A value cannot be meant.
    #[error(transparent)]
    Local(LocalError),
    /// What is configured says otherwise, where it goes before what we write.
    #[error(
        "{0} was given, and the configuration says something else that goes before it: look for {1}"
    )]
    Overruled(&'static str, &'static str),
}

fn wanted(args: &NodeArgs) -> Vec<Wanted> {
    let node = |key, value: &Option<String>, variables| {
        let (value, form) = (value.clone()?, Form::Text);
        Some(Wanted { section: "node", key, value, form, variables, also_in_file: false })
    };
    let store = |key, value: String, form, variables, also_in_file| {
        Some(Wanted { section: "datastore", key, value, form, variables, also_in_file })
    };
    let place = args.datastore.as_deref().and_then(|store| store.strip_prefix("dir:"));
    let kind = args.datastore.as_deref().map(|_| match place {
        Some(_) => "directory".to_owned(),
        None => args.datastore.clone().unwrap_or_default(),
    });
    let all = [
        node("name", &args.nodename, &["NODENAME"][..]),
        node("ip", &args.ip, &["IP"][..]),
        node("ip6", &args.ip6, &["IP6"][..]),
        node("as_number", &args.as_number, &["AS"][..]),
        args.etcd.clone().and_then(|urls| {
            store("endpoints", urls, Form::List, &["ETCD_ENDPOINTS", "ETCD_AUTHORITY"][..], true)
        }),
        kind.and_then(|kind| store("type", kind, Form::Text, &[][..], true)),
        place.and_then(|path| store("directory", path.to_owned(), Form::Text, &[][..], true)),
    ];
    all.into_iter().flatten().collect()
}

/// The files that have to change so that what was typed is in force.
///
/// # Errors
/// When the files have mistakes, a value cannot be meant, or something says otherwise and stays.
pub(super) fn edits(args: &NodeArgs, files: &Files) -> Result<Vec<Edit>, WantedError> {
    let Files { mut toml, mut env } = files.clone();
    parsed(&toml)?;
    let mut edits: Vec<Edit> = Vec::new();
    let mut note = |path: &Path, what: String, before: Option<String>| {
        let line = match before {
            Some(before) => format!("{what} (was {before})"),
            None => what,
        };
        match edits.iter_mut().find(|edit| edit.path == path) {
            Some(edit) => edit.changes.push(line),
            None => {
                edits.push(Edit { path: path.to_owned(), text: String::new(), changes: vec![line] })
            }
        }
    };
    for Wanted { section, key, value, form, variables, also_in_file } in wanted(args) {
        let same = |said: &str| means(said, &value);
        let mut in_env = false;
        for file in &mut env {
            let named = Env::of_file(&file.text);
            in_env |= variables.iter().any(|name| named.get(name).is_some());
            if let Some((text, before)) = env_file::set(&file.text, variables, &value, same) {
                note(&file.path, format!("{}={value}", variables[0]), Some(shown(key, before)));
                file.text = text;
            }
        }
        if in_env && !also_in_file {
            continue;
        }
        let set = toml_file::set(&toml.text, section, key, (&value, &form), same);
        let failed = |source| WantedError::Toml { path: toml.path.clone(), source };
        if let Some((text, before)) = set.map_err(failed)? {
            let before = before.map(|before| shown(key, before));
            note(&toml.path, format!("[{section}] {key} = {value}"), before);
            toml.text = text;
        }
    }
    in_force(args, &toml, &env)?;
    for edit in &mut edits {
        let file = [&toml].into_iter().chain(&env).find(|file| file.path == edit.path);
        edit.text = file.map(|file| file.text.clone()).unwrap_or_default();
    }
    Ok(edits)
}

/// A former value for people: what is said here comes into journals, and who had a password in a URL of
/// etcd is about to be rid of it. (A new one has none: the agent takes no such URL.) A password may hold
/// commas, so of a list only what stands behind the last one is said.
fn shown(key: &str, before: String) -> String {
    match before.rsplit_once('@').filter(|_| key == "endpoints") {
        Some((credentials, rest)) => {
            let scheme = ["http://", "https://"].into_iter().find(|s| credentials.starts_with(s));
            format!("{}{REMOVED}@{rest}", scheme.unwrap_or_default())
        }
        None => before,
    }
}

fn parsed(toml: &HostFile) -> Result<FileConfig, WantedError> {
    FileConfig::parse(&toml.text)
        .map_err(|mistakes| WantedError::Mistakes { path: toml.path.clone(), mistakes })
}

/// Asks the files as the agent would, whether they say what was typed.
fn in_force(args: &NodeArgs, toml: &HostFile, env: &[HostFile]) -> Result<(), WantedError> {
    let file = parsed(toml)?;
    let environment =
        env.iter().fold(Env::default(), |stronger, file| stronger.or(Env::of_file(&file.text)));
    let resolve =
        |flags: &Flags| Local::resolve(flags, &environment, &file).map_err(WantedError::Local);
    let is = resolve(&Flags::default())?;
    let asked = resolve(&Flags {
        nodename: args.nodename.clone(),
        ip: args.ip.clone(),
        ip6: args.ip6.clone(),
        as_number: args.as_number.clone(),
        etcd_endpoints: args.etcd.clone(),
        datastore: args.datastore.clone(),
    })?;
    let difference = asked.differences(&is);
    // The same address, and the length of its prefix beside it, is no other.
    let same_address = |typed: &Option<String>, key, variable| {
        let said = environment.get(variable).or_else(|| file.node.get(key).map(String::as_str));
        typed.as_deref().zip(said).is_some_and(|(typed, said)| means(said, typed))
    };
    for name in difference {
        let overruled = match name {
            "name" => ("--nodename", "NODENAME, [node] name"),
            "ip" if same_address(&args.ip, "ip", "IP") => continue,
            "ip6" if same_address(&args.ip6, "ip6", "IP6") => continue,
            "ip" => ("--ip", "IP, [node] ip"),
            "ip6" => ("--ip6", "IP6, [node] ip6"),
            "as_number" => ("--as", "AS, [node] as_number"),
            "endpoints" => ("--etcd", "ETCD_ENDPOINTS, FELIX_ETCD…"),
            "type" | "directory" => (
                "the datastore",
                "CALICO_DATASTORE, or [datastore] type: --datastore etcd, etcdv2 or dir:/path says which",
            ),
            _ => continue,
        };
        return Err(WantedError::Overruled(overruled.0, overruled.1));
    }
    Ok(())
}

/// Whether what is said means what was typed: an address stays with the length of its prefix.
fn means(said: &str, typed: &str) -> bool {
    said == typed
        || said.split_once('/').is_some_and(|(address, rest)| {
            address == typed && rest.bytes().all(|b| b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests;
