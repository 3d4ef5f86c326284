//! The agent's directories, where the plugin meets it.

use std::path::PathBuf;

use crate::protocol::{CniError, Code, NetConf};

/// Where the agent of this host keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directories {
    /// What an administrator writes: `/etc/calico`.
    pub(crate) config: PathBuf,
    /// What is gone after a reboot: `/run/calico`.
    pub(crate) run: PathBuf,
    /// What survives a reboot: `/var/lib/calico`.
    pub(crate) state: PathBuf,
    /// One file per programmed endpoint.
    pub(crate) endpoint_status: PathBuf,
}

impl Directories {
    /// As a network's configuration has them, else the usual ones.
    pub(crate) fn of(conf: &NetConf) -> Self {
        let or = |path: &Option<PathBuf>, usual: &str| {
            path.clone().unwrap_or_else(|| PathBuf::from(usual))
        };
        let run = or(&conf.run_dir, "/run/calico");
        let endpoint_status =
            conf.endpoint_status_dir.clone().unwrap_or_else(|| run.join("endpoint-status"));
        Self {
            config: or(&conf.config_dir, "/etc/calico"),
            state: or(&conf.state_dir, "/var/lib/calico"),
            run,
            endpoint_status,
        }
    }

    /// The socket at which the agent answers.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// This host's name in the cluster: the configuration's, else what the agent wrote down. The
    /// host's own name is no answer: pods under a name that no agent watches have no protection.
    ///
    /// # Errors
    /// When neither says it.
    pub(crate) fn node_name(&self, conf: &NetConf) -> Result<String, CniError> {
        if let Some(name) = conf.nodename.as_ref().filter(|name| !name.is_empty()) {
            return Ok(name.clone());
        }
        let usual = || self.state.join("nodename");
        let path = conf.nodename_file.clone().unwrap_or_else(usual);
        let why = match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => format!("{} is empty", path.display()),
            Err(error) => format!("cannot read {}: {error}", path.display()),
        };
        Err(CniError::new(
            Code::InvalidConfig,
            "this host's name in the cluster is not known",
            format!("{why}; is calico-agent running? It writes the file. Or set \"nodename\""),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says_goes_first() {
        let usual = Directories::of(&NetConf::default());
        assert_eq!(usual.endpoint_status, PathBuf::from("/run/calico/endpoint-status"));
        assert_eq!(usual.agent_socket(), PathBuf::from("/run/calico/agent.sock"));
        let conf = NetConf {
            run_dir: Some("/r".into()),
            state_dir: Some("/s".into()),
            ..NetConf::default()
        };
        let moved = Directories::of(&conf);
        assert_eq!(moved.endpoint_status, PathBuf::from("/r/endpoint-status"));
        assert_eq!((moved.config, moved.state), ("/etc/calico".into(), "/s".into()));
        let other = NetConf { endpoint_status_dir: Some("/e".into()), ..conf };
        assert_eq!(Directories::of(&other).endpoint_status, PathBuf::from("/e"));
    }

    #[test]
    fn a_host_without_a_name_makes_no_pods() {
        let state = tempfile::tempdir().unwrap();
        let conf = NetConf { state_dir: Some(state.path().into()), ..NetConf::default() };
        let dirs = Directories::of(&conf);
        for text in [None, Some("\n")] {
            if let Some(text) = text {
                std::fs::write(state.path().join("nodename"), text).unwrap();
            }
            let error = dirs.node_name(&conf).unwrap_err();
            assert!(error.details.contains("is calico-agent running?"), "{error}");
        }
        std::fs::write(state.path().join("nodename"), "calico-01\n").unwrap();
        assert_eq!(dirs.node_name(&conf).unwrap(), "calico-01");
        let named = NetConf { nodename: Some("other".to_owned()), ..conf };
        assert_eq!(dirs.node_name(&named).unwrap(), "other");
    }
}
