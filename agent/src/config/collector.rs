//! `[collector]` of `agent.toml`: how what rkt left behind is looked for on this host.

use std::path::PathBuf;
use std::time::Duration;

use super::file::FileConfig;
use super::kind::parse_duration;
use super::local::LocalError;

/// The keys of `[collector]` and what they are.
pub static COLLECTOR_KEYS: &[(&str, &str)] = &[
    ("interval", "Look this often for what rkt left behind: seconds or 1m30s. 0 = never."),
    ("grace", "What looks left behind goes when it has looked so for this long."),
    ("rkt_data_dir", "rkt's data directory: `data` in its paths.d, or its --dir."),
];

/// How the collector works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorConfig {
    /// The time between two looks; zero: it does not look.
    pub interval: Duration,
    /// For so long every look must say that something is left behind.
    pub grace: Duration,
    /// rkt's data directory.
    pub rkt_data_dir: PathBuf,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            grace: Duration::from_secs(120),
            rkt_data_dir: PathBuf::from("/var/lib/rkt"),
        }
    }
}

impl CollectorConfig {
    /// What `agent.toml` says, else the defaults.
    ///
    /// # Errors
    /// On the first value that cannot be what was meant.
    pub(super) fn resolve(file: &FileConfig) -> Result<Self, LocalError> {
        let mut config = Self::default();
        for (key, value) in &file.collector {
            let bad = |expected| LocalError::Value {
                name: format!("[collector] {key} in agent.toml"),
                value: value.clone(),
                expected,
            };
            let time = || parse_duration(value).ok_or_else(|| bad("it takes a time: 90 or 1m30s"));
            match *key {
                "interval" => config.interval = time()?,
                "grace" => config.grace = time()?,
                _ if value.starts_with('/') => config.rkt_data_dir = PathBuf::from(value),
                _ => return Err(bad("it takes an absolute path")),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<CollectorConfig, LocalError> {
        CollectorConfig::resolve(&FileConfig::parse(text).unwrap())
    }

    #[test]
    fn what_is_said_counts_and_the_rest_is_the_default() {
        assert_eq!(config("").unwrap(), CollectorConfig::default());
        let said = config("[collector]\ninterval = 1.5\nrkt_data_dir = \"/srv/rkt\"\n").unwrap();
        let expected = CollectorConfig {
            interval: Duration::from_millis(1500),
            rkt_data_dir: "/srv/rkt".into(),
            ..CollectorConfig::default()
        };
        assert_eq!(said, expected);
        assert!(config("[collector]\ninterval = 0\n").unwrap().interval.is_zero());
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, name) in [
            ("grace = \"soon\"", "grace"),
            ("interval = -1", "interval"),
            ("rkt_data_dir = \"var/lib/rkt\"", "rkt_data_dir"),
        ] {
            let error = config(&format!("[collector]\n{text}\n")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("[collector] {name} in agent.toml is ")), "{error}");
        }
        let mistakes = FileConfig::parse("[collector]\ngraze = 1\n").unwrap_err();
        assert_eq!(
            mistakes[0].message,
            "unknown key `graze` in [collector], did you mean `grace`?"
        );
    }
}
