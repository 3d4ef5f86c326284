//! The MTU of a pod's interface.
//!
//! What the conf says; else what the agent found (it knows which overlays the pools use); else what
//! the host's own interfaces have; else Ethernet's.

use std::io;
use std::path::Path;

use crate::network::{self, NetworkError};

/// The agent's file in its state directory: the bytes as decimal text.
pub const FILE: &str = "mtu";

/// When nobody knows better: Ethernet's.
pub const DEFAULT: u32 = 1500;
/// The least with which IPv4 works.
const LEAST: u32 = 68;
/// The least with which the kernel keeps IPv6.
const LEAST_V6: u32 = 1280;
/// The longest packet of IPv4, and the most that a veth takes.
const MOST: u32 = 65535;

/// Where an MTU comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The network's conf.
    Conf,
    /// The agent's file.
    Agent,
    /// The host's interfaces.
    Host,
    /// Nobody: [`DEFAULT`].
    Default,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Bytes.
    pub mtu: u32,
    /// Who said so.
    pub source: Source,
    /// What was passed over, and why: a line each, for people. A pod with a smaller MTU than
    /// possible is better than none.
    pub warnings: Vec<String>,
}

/// The conf asks for what no interface can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an mtu of {mtu} is not possible here ({least} to {MOST})")]
pub struct InvalidMtu {
    /// What it asks for, bytes.
    pub mtu: u32,
    /// The least that the pod's address families need.
    pub least: u32,
}

/// Chooses, for a pod with or without IPv6 addresses. Asks the kernel only if it must.
///
/// # Errors
/// When the conf's is out of bounds. Any other trouble is a warning, and the next source is asked.
pub async fn choose(
    conf: Option<u32>,
    state_dir: &Path,
    with_v6: bool,
) -> Result<Choice, InvalidMtu> {
    let least = if with_v6 { LEAST_V6 } else { LEAST };
    if let Some(mtu) = conf {
        return match (least..=MOST).contains(&mtu) {
            true => Ok(Choice { mtu, source: Source::Conf, warnings: Vec::new() }),
            false => Err(InvalidMtu { mtu, least }),
        };
    }
    let path = state_dir.join(FILE);
    let mut warnings = Vec::new();
    match from_agent(std::fs::read_to_string(&path), least) {
        Ok(Some(mtu)) => return Ok(Choice { mtu, source: Source::Agent, warnings }),
        Ok(None) => {}
        Err(reason) => warnings.push(format!("{} is ignored: {reason}", path.display())),
    }
    Ok(from_host(network::host_mtu().await, least, warnings))
}

/// What the agent's file says; absent is nothing.
fn from_agent(text: io::Result<String>, least: u32) -> Result<Option<u32>, String> {
    let text = match text {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(text) => text,
    };
    let text = text.trim();
    match text.parse::<u32>() {
        Ok(mtu) if (least..=MOST).contains(&mtu) => Ok(Some(mtu)),
        Ok(mtu) => Err(InvalidMtu { mtu, least }.to_string()),
        // Not the whole of whatever it is.
        Err(_) => Err(format!("{:?} is no number", text.chars().take(20).collect::<String>())),
    }
}

fn from_host(
    found: Result<Option<u32>, NetworkError>,
    least: u32,
    mut warnings: Vec<String>,
) -> Choice {
    match found {
        // The loopback's 65536, where it carries a route, is a byte too many.
        Ok(Some(mtu)) if mtu >= least => {
            return Choice { mtu: mtu.min(MOST), source: Source::Host, warnings };
        }
        Ok(Some(mtu)) => {
            let error = InvalidMtu { mtu, least };
            warnings.push(format!("the host's MTU is ignored: {error}"));
        }
        Ok(None) => {}
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            warnings.push(format!("the host's MTU is unknown: {error}{cause}"));
        }
    }
    Choice { mtu: DEFAULT, source: Source::Default, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str) -> io::Result<String> {
        Ok(text.to_owned())
    }

    #[test]
    fn the_agents_file_is_a_number_in_bounds() {
        assert_eq!(from_agent(say("1430\n"), LEAST), Ok(Some(1430)));
        assert_eq!(from_agent(say("68"), LEAST), Ok(Some(68)));
        assert_eq!(from_agent(say("65535"), LEAST), Ok(Some(65535)));
        assert_eq!(from_agent(Err(io::ErrorKind::NotFound.into()), LEAST), Ok(None));
        for bad in ["", "67", "65536", "-1", "1430 1500", "fifteen hundred"] {
            assert!(from_agent(say(bad), LEAST).is_err(), "{bad:?}");
        }
        assert!(from_agent(say("1279"), LEAST_V6).is_err());
        assert_eq!(from_agent(say("1280"), LEAST_V6), Ok(Some(1280)));
        assert!(from_agent(Err(io::ErrorKind::PermissionDenied.into()), LEAST).is_err());
    }

    #[test]
    fn the_hosts_is_taken_in_bounds_and_else_passed_over_aloud() {
        let of = |found| from_host(found, LEAST_V6, Vec::new());
        let chosen = of(Ok(Some(9000)));
        assert_eq!((chosen.mtu, chosen.source), (9000, Source::Host));
        assert_eq!(of(Ok(Some(65536))).mtu, 65535);
        let none = of(Ok(None));
        assert_eq!((none.mtu, none.source, none.warnings.len()), (1500, Source::Default, 0));
        let low = of(Ok(Some(576)));
        assert_eq!((low.mtu, low.source, low.warnings.len()), (1500, Source::Default, 1));
        let failed = of(Err(NetworkError::Open(io::Error::from_raw_os_error(24))));
        assert_eq!((failed.mtu, failed.source), (1500, Source::Default));
        assert!(failed.warnings[0].contains("Too many open files"), "{:?}", failed.warnings);
    }

    #[tokio::test]
    async fn the_confs_wins_and_must_be_possible() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(FILE), "1430").unwrap();
        let conf = choose(Some(1400), state.path(), true).await.unwrap();
        assert_eq!((conf.mtu, conf.source), (1400, Source::Conf));
        let agent = choose(None, state.path(), true).await.unwrap();
        assert_eq!((agent.mtu, agent.source), (1430, Source::Agent));
        let error = choose(Some(1279), state.path(), true).await.unwrap_err();
        assert_eq!(error.to_string(), "an mtu of 1279 is not possible here (1280 to 65535)");
        assert!(choose(Some(1279), state.path(), false).await.is_ok());
        assert!(choose(Some(67), state.path(), false).await.is_err());
        assert!(choose(Some(65536), state.path(), false).await.is_err());
    }

    #[tokio::test]
    async fn a_broken_file_is_named_and_passed_over() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(FILE), "0").unwrap();
        let choice = choose(None, state.path(), false).await.unwrap();
        assert_ne!(choice.source, Source::Agent);
        let path = state.path().join(FILE).display().to_string();
        assert!(choice.warnings[0].starts_with(&path), "{:?}", choice.warnings);
    }
}
