//! `agent.toml` read again (`calico-agent reload`, SIGHUP): settings apply in place, what only a start
//! can change is named, a file with mistakes changes nothing.

use std::sync::Arc;

use tokio::sync::watch;

use crate::calculation::Layers;
use crate::config::{FileConfig, Flags, Local};
use crate::paths::Paths;
use crate::startup::StartupError;
use crate::telemetry::{chain, event};

/// What a new `agent.toml` is compared with, and where it goes.
#[derive(Debug)]
pub struct Reloader {
    /// Where the file is.
    pub paths: Paths,
    /// What goes before it.
    pub flags: Flags,
    /// What the agent was started with, and still runs with.
    pub local: Local,
    /// Who listens resolves the settings anew.
    pub layers: watch::Sender<Arc<Layers>>,
}

impl Reloader {
    /// Reads the file and hands its settings on. Returns the keys that changed and count only after a
    /// restart.
    ///
    /// # Errors
    /// When the file has mistakes: what was read before goes on to count, and `status` says so until
    /// a file without any was read.
    pub fn reload(&self) -> Result<Vec<&'static str>, StartupError> {
        let path = self.paths.agent_toml();
        let read = FileConfig::load(&path).map_err(StartupError::File).and_then(|file| {
            let env = &self.layers.borrow().env;
            let local = Local::resolve(&self.flags, env, &file).map_err(StartupError::Local)?;
            Ok((file, local))
        });
        let (file, local) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(
                    event = event::BAD_SETTING,
                    error = chain(&error),
                    "agent.toml is not valid; what was read before stays"
                );
                self.put(|layers| layers.refused = Some(error.lines()));
                return Err(error);
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
        self.put(|layers| (layers.file, layers.refused) = (file, None));
        Ok(waiting)
    }

    fn put(&self, change: impl FnOnce(&mut Layers)) {
        self.layers.send_modify(|layers| change(Arc::make_mut(layers)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_apply_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { config_dir: dir.path().to_owned(), ..Paths::default() };
        let write = |text: &str| std::fs::write(paths.agent_toml(), text).unwrap();
        let flags = Flags { ip: Some("10.0.0.1".to_owned()), ..Flags::default() };
        let layers = Layers::default();
        let local = Local::resolve(&flags, &layers.env, &layers.file).unwrap();
        let layers = watch::Sender::new(Arc::new(layers));
        let level = || layers.borrow().resolve(None, None, None).settings.log_level;
        let problem = || layers.borrow().problem();
        let before = level();
        let reloader = Reloader { paths: paths.clone(), flags, local, layers: layers.clone() };

        write("[felix]\nLogSeverityScreen = \"debug\"\n");
        assert_eq!(reloader.reload().unwrap(), [""; 0]);
        assert_eq!(level(), "debug");
        // The command line goes before the file: nothing has changed there.
        write(
            "[datastore]\nendpoints = \"http://other:2379\"\n[node]\nip = \"10.9.9.9\"\nname = \"n\"\n",
        );
        assert_eq!(reloader.reload().unwrap(), ["endpoints", "name"]);
        assert_eq!(level(), before);
        for (bad, said) in [
            ("[felix]\nnonsense = 1\n", "agent.toml:2:1: "),
            ("[datastore]\nendpoints = \"ftp://x\"\n", "ftp://x"),
        ] {
            write(bad);
            let error = reloader.reload().unwrap_err();
            assert!(chain(&error).contains(said), "{error}");
            assert!(layers.borrow().file.node.contains_key("name"), "{bad}");
            // Told as long as it is so: a start would fail.
            let problem = problem().unwrap();
            assert_eq!(problem.subject, "agent.toml");
            assert!(problem.message.contains(said), "{problem:?}");
        }
        // Each mistake is said, in a line of its own where there are lines.
        write("[felix]\nnonsense = 1\nmore = 2\n");
        let lines = reloader.reload().unwrap_err().lines();
        assert_eq!(lines.lines().count(), 2, "{lines}");
        let message = problem().unwrap().message;
        assert!(!message.contains('\n') && message.contains("; "), "{message}");
        write("");
        assert_eq!(reloader.reload().unwrap(), [""; 0]);
        assert_eq!(problem(), None);
    }
}
