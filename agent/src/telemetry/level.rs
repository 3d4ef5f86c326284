//! The log level that somebody asked the running agent for, and until when.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// What can be asked for.
pub const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The level that counts in place of that of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `None`: that of the settings counts.
    pub level: Option<&'static str>,
    /// So long; `None`: until something else is asked for, or the agent ends.
    pub until: Option<Instant>,
}

/// It cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// There is no such level.
    #[error("{0:?} is no log level: {levels}, or `default` for that of the settings", levels = LEVELS.join(", "))]
    Unknown(String),
    /// `RUST_LOG` counts.
    #[error("RUST_LOG says what is logged, for as long as this agent runs")]
    Pinned,
}

/// Where it is asked for. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    asked: watch::Sender<Asked>,
    pinned: bool,
}

impl Switch {
    /// One that nobody has touched; `pinned`: `RUST_LOG` counts.
    pub fn new(pinned: bool) -> Self {
        Self { asked: watch::Sender::default(), pinned }
    }

    /// Asks for a level, or (`default`) for that of the settings. Says what holds now.
    ///
    /// # Errors
    /// When there is no such level, or nobody may choose.
    pub fn ask(&self, level: &str, time: Option<Duration>) -> Result<String, LevelError> {
        if self.pinned {
            return Err(LevelError::Pinned);
        }
        if level == "default" {
            self.reset();
            return Ok("the log level is that of the settings".to_owned());
        }
        let known = LEVELS.into_iter().find(|known| *known == level);
        let level = known.ok_or_else(|| LevelError::Unknown(level.to_owned()))?;
        let until = time.and_then(|time| Instant::now().checked_add(time));
        self.asked.send_replace(Asked { level: Some(level), until });
        Ok(match time {
            Some(time) => format!("the log level is {level} for {time:?}"),
            None => format!("the log level is {level} until the agent ends"),
        })
    }

    /// The level of the settings counts.
    pub fn reset(&self) {
        self.asked.send_replace(Asked::default());
    }

    /// What is asked for, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Asked> {
        self.asked.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_levels_that_exist_and_that_count() {
        let switch = Switch::default();
        assert!(switch.ask("loud", None).unwrap_err().to_string().contains("debug, trace, off"));
        assert_eq!(*switch.subscribe().borrow(), Asked::default());
        let said = switch.ask("debug", Some(Duration::from_secs(60))).unwrap();
        assert_eq!(said, "the log level is debug for 60s");
        let asked = switch.subscribe().borrow().clone();
        assert!(asked.level == Some("debug") && asked.until.is_some_and(|t| t > Instant::now()));
        switch.ask("default", None).unwrap();
        assert_eq!(*switch.subscribe().borrow(), Asked::default());
        assert_eq!(Switch::new(true).ask("debug", None), Err(LevelError::Pinned));
    }
}
