//! The host's name in the cluster, and the file that keeps it.
//!
//! The CNI plugin reads that file and refuses to work without it.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use calico_datastore::model::Name;

use crate::atomic_file;
use crate::config::NodeConfig;
use crate::telemetry::event;

/// Where a name came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// It was configured: command line, `NODENAME`, `agent.toml`.
    Configured,
    /// The nodename file of an earlier run.
    File,
    /// `HOSTNAME`, in lower case.
    Variable,
    /// The kernel's host name, in lower case: it may change when the host gets another one, and
    /// then its endpoints are lost. Worth a warning.
    System,
}

impl fmt::Display for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configuration",
            Self::File => "nodename file",
            Self::Variable => "HOSTNAME",
            Self::System => "the system's host name",
        })
    }
}

/// The name cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// It cannot be part of a key.
    #[error(
        "the node name {name:?} (from {from}) cannot be used: it must have 1 to 253 of \
         A-Z a-z 0-9 _ . - and begin and end with a letter or digit; set NODENAME"
    )]
    Invalid {
        /// The name.
        name: String,
        /// Where it came from.
        from: NameSource,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The nodename file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Chooses the name: what was configured, else what the nodename file says, else `HOSTNAME`, else
/// the system's host name. Only the last two are put in lower case.
///
/// # Errors
/// When the name that was chosen cannot be part of a key.
pub fn choose(
    config: &NodeConfig,
    file: Option<&str>,
    system: &str,
) -> Result<(Name, NameSource), NameError> {
    let given = |text: Option<&str>, from| {
        let text = text.map(str::trim).filter(|text| !text.is_empty())?;
        Some((text.to_owned(), from))
    };
    let (name, from) = given(config.name.as_deref(), NameSource::Configured)
        .or_else(|| given(file, NameSource::File))
        .or_else(|| {
            let (name, from) = given(config.hostname.as_deref(), NameSource::Variable)?;
            Some((name.to_lowercase(), from))
        })
        .unwrap_or_else(|| (system.trim().to_lowercase(), NameSource::System));
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let usable = bytes.len() <= 253
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if usable { Ok((Name::from(name), from)) } else { Err(NameError::Invalid { name, from }) }
}

/// Chooses the name from the configuration, the nodename file at `path` and the system.
///
/// # Errors
/// When a file cannot be read or the name cannot be used.
pub fn determine(config: &NodeConfig, path: &Path) -> Result<(Name, NameSource), NameError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|source| NameError::Read { path: path.to_owned(), source })
    };
    let file = match read(path) {
        Ok(text) => Some(text),
        Err(NameError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            None
        }
        Err(error) => return Err(error),
    };
    let system = read(Path::new("/proc/sys/kernel/hostname"))?;
    let (name, from) = choose(config, file.as_deref(), &system)?;
    let kept = file.as_deref().map(str::trim).filter(|kept| !kept.is_empty());
    if let Some(kept) = kept.filter(|kept| name != **kept) {
        tracing::warn!(
            event = event::RENAMED,
            %name,
            before = kept,
            "this host had another name: endpoints stored under that name are no longer its own"
        );
    }
    if from == NameSource::System {
        tracing::warn!(%name, "node name taken from the system; set NODENAME to be sure of it");
    }
    Ok((name, from))
}

/// Keeps the name for the CNI plugin and the next run: written whole or not at all, and not when
/// it is there already. Readable by everybody.
///
/// # Errors
/// When it cannot be written.
pub fn keep(name: &Name, path: &Path) -> Result<(), NameError> {
    if std::fs::read(path).is_ok_and(|kept| kept == name.as_str().as_bytes()) {
        return Ok(());
    }
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        atomic_file::replace(path, 0o644, |file| file.write_all(name.as_str().as_bytes()))
    };
    write().map_err(|source| NameError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, FileConfig, Flags, Local};

    fn config(nodename: &str, hostname: &str) -> NodeConfig {
        let env = Env::from([("NODENAME", nodename), ("HOSTNAME", hostname)]);
        Local::resolve(&Flags::default(), &env, &FileConfig::default()).unwrap().node
    }

    #[test]
    fn replay_of_node_startup() {
        let Some(shared) = std::env::var_os("CALICO_SHARED") else {
            println!("skipped: CALICO_SHARED is not set");
            return;
        };
        let path = PathBuf::from(shared).join("cases/node-startup.json");
        let cases: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = cases["node_name"].as_array().unwrap();
        for case in cases {
            let text = |key: &str| case[key].as_str().unwrap();
            let config = config(text("NODENAME"), text("HOSTNAME"));
            let (name, from) = choose(&config, None, "Sys-Host\n").unwrap();
            // `{"$ref": "hn"}` stands for the system's host name.
            let expected = case["node_name"].as_str().unwrap_or("sys-host");
            assert_eq!(name, *expected, "{case}");
            assert_eq!(from == NameSource::System, case["node_name"].is_object(), "{case}");
        }
        assert_eq!(cases.len(), 6);
    }

    #[test]
    fn the_file_goes_before_host_names_and_behind_the_configuration() {
        for (nodename, file, hostname, expected, from) in [
            ("Mine", Some("kept"), "H", "Mine", NameSource::Configured),
            ("", Some("Kept\n"), "H", "Kept", NameSource::File),
            ("", Some(" \n"), "Host", "host", NameSource::Variable),
            ("", None, "", "system", NameSource::System),
        ] {
            let chosen = choose(&config(nodename, hostname), file, "System\n").unwrap();
            assert_eq!((chosen.0.as_str(), chosen.1), (expected, from));
        }
    }

    #[test]
    fn a_name_that_would_break_a_key_is_refused() {
        for bad in ["a/b", "a b", "-a", "a.", "caf\u{e9}", "..", "x\ny"] {
            assert!(choose(&config(bad, ""), None, "ok").is_err(), "{bad:?} was taken");
        }
        assert!(choose(&config("", ""), None, "").is_err());
        let error = choose(&config("a/b", ""), None, "ok").unwrap_err().to_string();
        assert!(error.contains("\"a/b\"") && error.contains("NODENAME"), "{error}");
    }

    #[test]
    fn the_file_is_written_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("nodename");
        let name = Name::from("calico-01");
        keep(&name, &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "calico-01");
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let before = inode(&path);
        keep(&name, &path).unwrap();
        assert_eq!(inode(&path), before, "an unchanged file was written again");
        keep(&Name::from("other"), &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let chosen = determine(&NodeConfig::default(), &path).unwrap();
        assert_eq!((chosen.0.as_str(), chosen.1), ("other", NameSource::File));
    }
}
