//! What a start reads before anything else: command line, environment and `agent.toml`, put
//! together once for every command that works as `run` does. It reads a few files and writes nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::calculation::Layers;
use crate::cli::RunArgs;
use crate::config::{Env, FileConfig, FileError, Flags, Local, LocalError, Settings};
use crate::paths::Paths;
use crate::telemetry::chain;

/// What this host says about itself.
#[derive(Clone, Debug)]
pub struct Startup {
    /// The three directories.
    pub paths: Paths,
    /// What was given on the command line.
    pub flags: Flags,
    /// What only this host can say.
    pub local: Local,
    /// The layers of the settings that this host holds.
    pub layers: Layers,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// `agent.toml` has mistakes or cannot be read.
    #[error(transparent)]
    File(FileError),
    /// A setting that only this host can make is wrong.
    #[error(transparent)]
    Local(LocalError),
}

impl StartupError {
    /// In words: each mistake of the file in a line of its own.
    pub fn lines(&self) -> String {
        match self {
            Self::File(error) => error.lines(),
            Self::Local(error) => chain(error),
        }
    }
}

impl Startup {
    /// Puts together what the command line, the environment and `agent.toml` say.
    ///
    /// # Errors
    /// When the file has mistakes, or a value that ends the start is wrong.
    pub fn read(args: &RunArgs, env: Env) -> Result<Self, StartupError> {
        let (paths, flags) = (args.paths(), args.flags());
        let file = FileConfig::load(&paths.agent_toml()).map_err(StartupError::File)?;
        let local = Local::resolve(&flags, &env, &file).map_err(StartupError::Local)?;
        let layers = layers(&paths, env, file);
        Ok(Self { paths, flags, local, layers })
    }
}

/// Files that the unit of the agent gets its environment from, the weakest first, beside
/// `calico.env` in the configuration directory.
pub(crate) const ENVIRONMENT_FILES: [&str; 2] =
    ["/etc/default/calico-agent", "/etc/sysconfig/calico-agent"];

/// A file of the unit's environment that says nothing although it is there.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// It cannot be read: what it says to the unit is not known here.
    #[error("cannot read {}, so what it says does not count here", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is no text is not in a comment.
    #[error(
        "{} has a byte that is not UTF-8 in a name or a value: systemd takes nothing of it",
        path.display()
    )]
    NoText {
        /// The file.
        path: PathBuf,
    },
}

/// The environment that the unit would run in, for commands that are typed by hand: what this
/// process has, and below that what the unit's files say. A file that is not there says nothing; of
/// one that is there and says nothing all the same `failed` is told.
pub fn environment(paths: &Paths, process: Env, mut failed: impl FnMut(EnvironmentError)) -> Env {
    let mut read = |path: &Path| {
        let (path, bytes) = (path.to_owned(), std::fs::read(path));
        let env = match bytes {
            Ok(bytes) => Env::of_bytes(&bytes).ok_or(EnvironmentError::NoText { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Env::default()),
            Err(source) => Err(EnvironmentError::Read { path, source }),
        };
        env.unwrap_or_else(|error| {
            failed(error);
            Env::default()
        })
    };
    let mut env = read(&paths.config_dir.join("calico.env"));
    // Somebody else's directories are not those of the unit.
    if paths.config_dir == Paths::default().config_dir {
        for path in ENVIRONMENT_FILES.iter().rev() {
            env = env.or(read(Path::new(path)));
        }
    }
    process.or(env)
}

/// The layers of the settings that this host holds.
pub fn layers(paths: &Paths, env: Env, file: FileConfig) -> Layers {
    let defaults =
        Settings { endpoint_status_prefix: Some(paths.run_dir.clone()), ..Settings::default() };
    Layers { env, file, defaults, refused: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_unit_is_below_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { config_dir: dir.path().to_owned(), ..Paths::default() };
        std::fs::write(dir.path().join("calico.env"), "IP=10.0.0.1\nAS=64513\n").unwrap();
        let process = Env::from([("AS", "64514"), ("IP", "")]);
        let env = environment(&paths, process, |error| panic!("{error}"));
        assert_eq!((env.get("IP"), env.get("AS")), (Some("10.0.0.1"), Some("64514")));
    }

    #[test]
    fn a_file_of_the_unit_that_says_nothing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { config_dir: dir.path().to_owned(), ..Paths::default() };
        let path = dir.path().join("calico.env");
        let read = || {
            let mut failed = Vec::new();
            let env = environment(&paths, Env::default(), |error| failed.push(chain(&error)));
            (env.get("IP").map(str::to_owned), failed.join("\n"))
        };
        assert_eq!(read(), (None, String::new()), "it is not there");
        // systemd looks at names and values only.
        std::fs::write(&path, b"# B\xfcro 3\nIP=10.0.0.1\n").unwrap();
        assert_eq!(read(), (Some("10.0.0.1".to_owned()), String::new()));
        std::fs::write(&path, b"IP=10.0.0.1\nFELIX_X=B\xfcro\n").unwrap();
        let (ip, failed) = read();
        assert!(ip.is_none() && failed.contains("calico.env has a byte that is not"), "{failed}");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (_, failed) = read();
        assert!(failed.starts_with("cannot read ") && failed.contains("directory"), "{failed}");
    }
}
