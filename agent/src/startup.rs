//! What a start reads before anything else: command line, environment and `agent.toml`, put
//! together once for every command that works as `run` does. It reads one file and writes nothing.

use crate::calculation::Layers;
use crate::cli::RunArgs;
use crate::config::{Env, FileConfig, FileError, Flags, Local, LocalError, Settings};
use crate::paths::Paths;

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

/// The layers of the settings that this host holds.
pub fn layers(paths: &Paths, env: Env, file: FileConfig) -> Layers {
    let defaults =
        Settings { endpoint_status_prefix: Some(paths.run_dir.clone()), ..Settings::default() };
    Layers { env, file, defaults }
}
