//! Command line, environment, `agent.toml`: every mistake at once, where a start ends at the first.

use crate::check::finding::{Finding, Findings, Group};
use crate::config::{Env, FileConfig, FileError, Flags, Ignored, Local, Source};
use crate::reconcile::Problem;

/// What was said, as far as it is wrong.
#[derive(Clone, Debug, Default)]
pub struct ConfigFacts {
    /// Where `agent.toml` is looked for.
    pub path: String,
    /// It is there.
    pub present: bool,
    /// Its mistakes.
    pub file: Vec<String>,
    /// What ends a start.
    pub local: Vec<String>,
    /// Values of settings that are refused.
    pub settings: Vec<Problem>,
    /// Names without effect.
    pub ignored: Vec<Ignored>,
}

/// The mistakes of a file that could not be loaded.
pub fn mistakes_of(error: &FileError) -> Vec<String> {
    error.to_string().lines().map(str::to_owned).collect()
}

/// Every local setting that would end a start, each once. A start names only the first.
pub fn local_mistakes(flags: &Flags, env: &Env, file: &FileConfig) -> Vec<String> {
    // One is as it was said, the others are what nobody could object to: flags win.
    let harmless = |text: &str| Some(text.to_owned());
    let calm = Flags {
        nodename: flags.nodename.clone(),
        ip: harmless("none"),
        ip6: harmless("none"),
        as_number: harmless("64512"),
        etcd_endpoints: harmless("https://etcd:2379"),
        datastore: harmless("etcd"),
    };
    let alone = [
        Flags {
            etcd_endpoints: flags.etcd_endpoints.clone(),
            datastore: flags.datastore.clone(),
            ..calm.clone()
        },
        Flags { ip: flags.ip.clone(), ..calm.clone() },
        Flags { ip6: flags.ip6.clone(), ..calm.clone() },
        Flags { as_number: flags.as_number.clone(), ..calm.clone() },
        calm,
    ];
    let mut found: Vec<String> = Vec::new();
    for flags in alone {
        for error in Local::mistakes(&flags, env, file).into_iter().flatten() {
            let said = error.to_string();
            if !found.contains(&said) {
                found.push(said);
            }
        }
    }
    found
}

/// Says what is wrong.
pub fn judge(facts: &ConfigFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Configuration);
    for mistake in &facts.file {
        out.fail(
            "agent.toml",
            mistake,
            "correct it: with a mistake in it the agent does not start",
        );
    }
    if facts.file.is_empty() {
        let said = if facts.present { "no mistakes" } else { "not there, which is fine" };
        out.ok("agent.toml", format!("{}: {said}", facts.path));
    }
    for mistake in &facts.local {
        out.fail("setting", mistake, "correct it: the agent does not start like this");
    }
    for problem in &facts.settings {
        out.warn(&problem.subject, &problem.message, "correct the value");
    }
    for name in &facts.ignored {
        // What the environment says to a Felix that this host does not run is no mistake of ours,
        // but a name nobody knows is one of somebody.
        let advice = if name.source == Source::Environment && name.reason == "unknown name" {
            "a typing mistake? /usr/share/doc/calico-agent/agent.toml.example lists the names"
        } else {
            "leave it out"
        };
        out.warn(&name.name, format!("{} sets it: {}", name.source, name.reason), advice);
    }
    if facts.local.is_empty() && facts.settings.is_empty() && facts.ignored.is_empty() {
        out.ok("settings", "command line and environment have no mistakes");
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    #[test]
    fn every_local_mistake_is_named_once() {
        let env = Env::from([
            ("ETCD_ENDPOINTS", "ftp://etcd"),
            ("IP", "10.0.0.300"),
            ("IP6", "10.0.0.1"),
            ("AS", "many"),
            ("ETCD_CERT_FILE", "/cert"),
        ]);
        let flags = Flags { ip6: Some("fd00::1".to_owned()), ..Flags::default() };
        let found = local_mistakes(&flags, &env, &FileConfig::default());
        assert_eq!(found.len(), 4, "{found:#?}");
        for (what, text) in found.iter().zip(["ETCD_ENDPOINTS", "ETCD_CERT_FILE", "IP is", "AS is"])
        {
            assert!(found.iter().any(|said| said.contains(text)), "{text}: {what}");
        }
        assert!(
            local_mistakes(&Flags::default(), &Env::default(), &FileConfig::default()).is_empty()
        );
    }

    #[test]
    fn no_mistake_no_alarm() {
        let facts = ConfigFacts { path: "/etc/calico/agent.toml".into(), ..Default::default() };
        assert_eq!(worst(&judge(&facts)), Level::Ok);
        let bad = ConfigFacts { local: vec!["IP is \"x\"".into()], ..facts.clone() };
        assert_eq!(worst(&judge(&bad)), Level::Fail);
        let problem = Problem { subject: "Ipv6Support".into(), message: "no".into() };
        let bad = ConfigFacts { settings: vec![problem], ..facts };
        assert_eq!(worst(&judge(&bad)), Level::Warn);
    }
}
