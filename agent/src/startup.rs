//! What a start reads before anything else: command line, environment and `agent.toml`, put
//! together once for every command that works as `run` does. It reads one file and writes nothing.

use std::error::Error as _;
use std::path::Path;

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
        match self.source() {
            None => self.to_string(),
            Some(_) => chain(self),
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

/// The environment that the unit would run in, for commands that are typed by hand: what this
/// process has, and below that what the unit's files say. A file that is not there says nothing.
pub fn environment(paths: &Paths, process: Env) -> Env {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut env = Env::of_file(&read(&paths.config_dir.join("calico.env")));
    // Somebody else's directories are not those of the unit.
    if paths.config_dir == Paths::default().config_dir {
        for path in ENVIRONMENT_FILES.iter().rev() {
            env = env.or(Env::of_file(&read(Path::new(path))));
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
        let env = environment(&paths, Env::from([("AS", "64514"), ("IP", "")]));
        assert_eq!((env.get("IP"), env.get("AS")), (Some("10.0.0.1"), Some("64514")));
    }
}
