//! `agent.toml` read again (SIGHUP): settings apply in place, what only a start can change is named.

use std::sync::Arc;

use tokio::sync::watch;

use crate::calculation::Layers;
use crate::config::{FileConfig, Flags, Local};
use crate::paths::Paths;
use crate::telemetry::{chain, event};

/// What a new `agent.toml` is compared with.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) paths: Paths,
    pub(super) flags: Flags,
    /// What the agent was started with, and still runs with.
    pub(super) local: Local,
}

impl Reloader {
    /// Reads the file and hands its settings on. A file with mistakes changes nothing. Returns what
    /// counts only after a restart.
    pub(super) fn reload(&self, layers: &watch::Sender<Arc<Layers>>) -> Vec<&'static str> {
        let path = self.paths.agent_toml();
        let read = FileConfig::load(&path).map_err(|error| chain(&error)).and_then(|file| {
            let env = &layers.borrow().env;
            let local = Local::resolve(&self.flags, env, &file).map_err(|error| chain(&error))?;
            Ok((file, local))
        });
        let (file, local) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(
                    event = event::BAD_SETTING,
                    error,
                    "agent.toml is not valid; what was read before stays"
                );
                return Vec::new();
            }
        };
        tracing::info!(path = %path.display(), "read agent.toml again");
        let waiting = local.differences(&self.local);
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!(
                event = event::RESTART_NEEDED,
                keys,
                "these changed and count only after a restart of the agent"
            );
        }
        layers.send_modify(|layers| {
            *layers = Arc::new(Layers { file, ..Layers::clone(layers) });
        });
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Settings};

    #[test]
    fn settings_apply_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { config_dir: dir.path().to_owned(), ..Paths::default() };
        let write = |text: &str| std::fs::write(paths.agent_toml(), text).unwrap();
        let flags = Flags { ip: Some("10.0.0.1".to_owned()), ..Flags::default() };
        let (env, file) = (Env::default(), FileConfig::default());
        let local = Local::resolve(&flags, &env, &file).unwrap();
        let layers =
            watch::Sender::new(Arc::new(Layers { env, file, defaults: Settings::default() }));
        let level = || layers.borrow().resolve(None, None, None).settings.log_level;
        let before = level();
        let reloader = Reloader { paths: paths.clone(), flags, local };

        write("[felix]\nLogSeverityScreen = \"debug\"\n");
        assert_eq!(reloader.reload(&layers), [""; 0]);
        assert_eq!(level(), "debug");
        // The command line goes before the file: nothing has changed there.
        write(
            "[datastore]\nendpoints = \"http://other:2379\"\n[node]\nip = \"10.9.9.9\"\nname = \"n\"\n",
        );
        assert_eq!(reloader.reload(&layers), ["endpoints", "name"]);
        assert_eq!(level(), before);
        for bad in ["[felix]\nnonsense = 1\n", "[datastore]\nendpoints = \"ftp://x\"\n"] {
            write(bad);
            assert_eq!(reloader.reload(&layers), [""; 0], "{bad}");
            assert!(layers.borrow().file.node.contains_key("name"), "{bad}");
        }
    }
}
