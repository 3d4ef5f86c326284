//! The datastore, member by member.

use std::time::Duration;

use crate::check::finding::{Finding, Findings, Group};

/// What one endpoint said.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its URL.
    pub endpoint: String,
    /// Its answer; or why there is none.
    pub answer: Result<Answer, Silence>,
}

/// What a member answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// How long one read took.
    pub latency: Duration,
    /// What it says its version is; `None`: it does not tell us.
    pub version: Option<String>,
    /// Whether the store says that it is ready; `None`: nobody has said anything yet.
    pub ready: Option<bool>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct Silence {
    /// What was said.
    pub said: String,
    /// It answered, and does not let us read.
    pub refused: bool,
}

/// A read takes milliseconds; above this changes arrive late.
const SLOW: Duration = Duration::from_millis(500);

/// Judges the members; `problem`: the configuration as a whole cannot work.
pub fn judge(members: &[Member], problem: Option<&str>) -> Vec<Finding> {
    let mut out = Findings::of(Group::Etcd);
    if let Some(problem) = problem {
        out.fail(
            "configuration",
            problem,
            "see ETCD_… in /usr/share/doc/calico-agent/calico.env.example",
        );
    }
    let one_answers = members.iter().any(|member| member.answer.is_ok());
    for member in members {
        let what = &member.endpoint;
        match &member.answer {
            Err(silence) => {
                let advice = advice(silence);
                let said = without_name(&silence.said, what);
                // One of several may be away for a while.
                if one_answers {
                    out.warn(what, said, advice);
                } else {
                    out.fail(what, said, advice);
                }
            }
            Ok(answer) => answered(&mut out, what, answer),
        }
    }
    let ready = members.iter().find_map(|member| member.answer.as_ref().ok()?.ready);
    match (one_answers, ready) {
        (true, Some(true)) => out.ok("ready", "the store says that it is ready"),
        (true, Some(false)) => out.fail(
            "ready",
            "the store says that it is not ready, so the agent changes nothing",
            "somebody has locked it: calicoctl datastore migrate unlock",
        ),
        (true, None) => out.ok("ready", "nothing is written there yet; the first agent does that"),
        (false, _) => {}
    }
    out.done()
}

/// `no answer from http://…` stands behind that name already.
fn without_name(said: &str, endpoint: &str) -> String {
    ["from", "to"].iter().fold(said.to_owned(), |said, word| {
        // Not of one whose name only begins so.
        let named = format!(" {word} {endpoint}");
        match said.split_once(&named) {
            Some((before, after)) if after.is_empty() || after.starts_with([' ', ':']) => {
                format!("{before}{after}")
            }
            _ => said,
        }
    })
}

fn answered(out: &mut Findings, what: &str, answer: &Answer) {
    let millis = answer.latency.as_secs_f64() * 1e3;
    let version = answer.version.as_deref().unwrap_or("of unknown version");
    let said = format!("etcd {version}, a read takes {millis:.1} ms");
    if answer.latency >= SLOW {
        out.warn(
            what,
            format!("{said}: changes arrive late"),
            "look at its disk and at the network",
        );
    } else if let Some(why) = answer.version.as_deref().and_then(bad_version) {
        out.warn(what, format!("{said}: {why}"), "update etcd");
    } else {
        out.ok(what, said);
    }
}

/// Why a version should not be used.
fn bad_version(version: &str) -> Option<&'static str> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 5, 0..=2) => Some("this version may lose data when it is killed"),
        (0..=2, ..) | (3, 0..=2, _) => Some("this version is not maintained any more"),
        _ => None,
    }
}

fn advice(silence: &Silence) -> &'static str {
    let said = silence.said.to_ascii_lowercase();
    if said.contains("authentication failed") {
        "check ETCD_USERNAME and ETCD_PASSWORD"
    } else if silence.refused {
        "give this user a role that may read and write /calico/ (etcdctl role grant-permission)"
    } else if said.contains("cannot read") {
        "check the path; the unit may read only what root may"
    } else if said.contains("certificate") || said.contains("tls") {
        "check ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE against this member's certificate"
    } else {
        "is etcd running there, and is there a route and no firewall between? (ETCD_ENDPOINTS)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_named_once() {
        for (said, left) in [
            ("no answer from http://x:2379 within 2 s", "no answer within 2 s"),
            ("cannot connect to http://x:2379: refused", "cannot connect: refused"),
            (
                "cannot connect to http://x:23790: refused",
                "cannot connect to http://x:23790: refused",
            ),
            ("cannot get /k", "cannot get /k"),
        ] {
            assert_eq!(without_name(said, "http://x:2379"), left);
        }
    }
    use crate::check::finding::{Level, worst};

    fn up(ready: Option<bool>) -> Member {
        let answer = Answer { ready, version: Some("3.4.23".into()), ..Default::default() };
        Member { endpoint: "http://a:2379".into(), answer: Ok(answer) }
    }

    fn down(said: &str, refused: bool) -> Member {
        let silence = Silence { said: said.into(), refused };
        Member { endpoint: "http://b:2379".into(), answer: Err(silence) }
    }

    #[test]
    fn one_of_several_may_be_away() {
        for (members, level) in [
            (vec![up(Some(true))], Level::Ok),
            (vec![up(None)], Level::Ok),
            (vec![up(Some(false))], Level::Fail),
            (vec![up(Some(true)), down("refused", false)], Level::Warn),
            (vec![down("refused", false)], Level::Fail),
        ] {
            assert_eq!(worst(&judge(&members, None)), level, "{members:?}");
        }
        assert_eq!(worst(&judge(&[], Some("no CA"))), Level::Fail);
    }

    #[test]
    fn what_to_do_follows_from_what_was_said() {
        for (said, refused, expected) in [
            ("connection refused", false, "running"),
            ("invalid peer certificate: UnknownIssuer", false, "ETCD_CA_CERT_FILE"),
            ("permission denied", true, "role"),
            ("authentication failed, invalid user ID or password", true, "ETCD_PASSWORD"),
            ("cannot read /x: no such file", false, "path"),
        ] {
            let found = judge(&[down(said, refused)], None);
            let advice = found[0].advice.clone().unwrap();
            assert!(advice.contains(expected), "{said}: {advice}");
        }
    }

    #[test]
    fn slow_or_old_is_a_warning() {
        let member = |version: &str, millis| Member {
            endpoint: "http://a".into(),
            answer: Ok(Answer {
                latency: Duration::from_millis(millis),
                version: Some(version.into()),
                ready: Some(true),
            }),
        };
        for (version, millis, level) in [
            ("3.4.23", 2, Level::Ok),
            ("3.6.1", 2, Level::Ok),
            ("3.5.9", 2, Level::Ok),
            ("3.5.1", 2, Level::Warn),
            ("3.2.0", 2, Level::Warn),
            ("3.4.23", 700, Level::Warn),
        ] {
            assert_eq!(worst(&judge(&[member(version, millis)], None)), level, "{version}");
        }
    }
}
