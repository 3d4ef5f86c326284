//! The units, and the time of day.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::finding::{Finding, Findings, Group};

/// What systemd says about a unit: property → value.
pub type Unit = BTreeMap<String, String>;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct SystemdFacts {
    /// This host was started by systemd.
    pub booted: bool,
    /// The unit of the agent; or why systemd did not tell.
    pub agent: Option<Result<Unit, String>>,
    /// The unit of BIRD.
    pub bird: Option<Result<Unit, String>>,
}

/// The properties that are asked for.
pub const PROPERTIES: &str =
    "LoadState,UnitFileState,ActiveState,SubState,Result,WatchdogUSec,NeedDaemonReload,NRestarts";

/// Judges the units.
pub fn judge(facts: &SystemdFacts) -> Vec<Finding> {
    let mut out = Findings::of(Group::Systemd);
    if !facts.booted {
        out.ok("systemd", "not in use here");
        return out.done();
    }
    for (name, unit) in [("calico-agent", &facts.agent), ("calico-bird", &facts.bird)] {
        match unit {
            Some(Ok(unit)) => judge_unit(&mut out, name, unit),
            Some(Err(said)) => out.warn(name, said, "ask with `systemctl status`"),
            None => {}
        }
    }
    out.done()
}

fn judge_unit(out: &mut Findings, name: &str, unit: &Unit) {
    let is = |property: &str, value: &str| unit.get(property).is_some_and(|said| said == value);
    let agent = name == "calico-agent";
    if is("LoadState", "not-found") {
        out.warn(
            name,
            "there is no such unit",
            "install it (make install), or start the agent by other means at boot",
        );
        return;
    }
    if is("LoadState", "masked") {
        out.fail(name, "masked", format!("systemctl unmask {name}"));
        return;
    }
    if is("ActiveState", "failed") {
        out.fail(name, "failed", format!("journalctl -u {name} says why"));
    } else if !is("UnitFileState", "enabled") {
        out.warn(
            name,
            "not enabled: it does not start at boot",
            format!("systemctl enable {name}"),
        );
    } else if is("NeedDaemonReload", "yes") {
        out.warn(
            name,
            "its unit file has changed since systemd read it",
            format!("systemctl daemon-reload; systemctl restart {name}"),
        );
    } else if agent && is("WatchdogUSec", "0") {
        out.warn(
            name,
            "it has no watchdog: an agent that hangs is not restarted",
            "set WatchdogSec=60s, as the unit of this package does",
        );
    } else {
        let state = unit.get("ActiveState").map_or("in an unknown state", String::as_str);
        out.ok(name, format!("enabled, {state}"));
    }
}

/// Before this time (2025-01-01) no host with this program can have been set right.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

/// Judges the clock: `now` since 1970.
pub fn judge_clock(now: Duration) -> Vec<Finding> {
    let mut out = Findings::of(Group::Clock);
    if now < EARLIEST {
        out.fail(
            "time",
            "it is earlier than this program was made: certificates are not valid yet",
            "set the clock, and have it kept right (systemd-timesyncd, chrony)",
        );
    } else {
        out.ok("time", "plausible");
    }
    out.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Level, worst};

    #[test]
    fn units() {
        let good = [
            ("LoadState", "loaded"),
            ("UnitFileState", "enabled"),
            ("ActiveState", "active"),
            ("WatchdogUSec", "1min"),
            ("NeedDaemonReload", "no"),
        ];
        let level = |change: (&str, &str)| {
            let mut unit: Unit =
                good.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            unit.insert(change.0.to_owned(), change.1.to_owned());
            let facts = SystemdFacts { booted: true, agent: Some(Ok(unit)), bird: None };
            worst(&judge(&facts))
        };
        for (change, expected) in [
            (("SubState", "running"), Level::Ok),
            (("ActiveState", "inactive"), Level::Ok),
            (("ActiveState", "failed"), Level::Fail),
            (("LoadState", "not-found"), Level::Warn),
            (("LoadState", "masked"), Level::Fail),
            (("UnitFileState", "disabled"), Level::Warn),
            (("WatchdogUSec", "0"), Level::Warn),
            (("NeedDaemonReload", "yes"), Level::Warn),
        ] {
            assert_eq!(level(change), expected, "{change:?}");
        }
        assert_eq!(worst(&judge(&SystemdFacts::default())), Level::Ok);
    }

    #[test]
    fn the_clock() {
        assert_eq!(worst(&judge_clock(Duration::ZERO)), Level::Fail);
        assert_eq!(worst(&judge_clock(EARLIEST)), Level::Ok);
    }
}
