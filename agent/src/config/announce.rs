//! Logs what a new resolution changed: each thing once, not each time it is asked.

use super::resolve::Resolution;
use crate::telemetry::event;

/// Logs what differs between `last` and `now`: a changed parameter at info, a refused value as a
/// warning, a name without effect at debug.
pub fn announce(now: &Resolution, last: Option<&Resolution>) {
    let news = news(now, last);
    for (parameter, source, value) in news.changed {
        match source {
            Some(source) => tracing::info!(parameter, value, %source, "setting"),
            None => tracing::info!(parameter, "setting is the default again"),
        }
    }
    for problem in news.problems {
        let (parameter, reason) = (&problem.subject, &problem.message);
        tracing::warn!(event = event::BAD_SETTING, parameter, reason, "bad setting");
    }
    for ignored in news.ignored {
        let (name, source) = (&ignored.name, ignored.source);
        tracing::debug!(parameter = name, %source, reason = ignored.reason, "setting ignored");
    }
}

/// What differs from the last resolution.
#[derive(Debug, Default, PartialEq)]
struct News<'a> {
    changed: Vec<(&'static str, Option<super::Source>, &'a str)>,
    problems: Vec<&'a crate::reconcile::Problem>,
    ignored: Vec<&'a super::Ignored>,
}

fn news<'a>(now: &'a Resolution, last: Option<&'a Resolution>) -> News<'a> {
    let mut news = News::default();
    let before = |name| last.and_then(|last| last.given.get(name));
    for (name, given) in &now.given {
        if before(name) != Some(given) {
            news.changed.push((name, Some(given.0), &given.1));
        }
    }
    let gone = last.into_iter().flat_map(|last| last.given.keys());
    news.changed
        .extend(gone.filter(|name| !now.given.contains_key(*name)).map(|name| (*name, None, "")));
    let known = |problem: &&_| last.is_some_and(|last| last.problems.contains(problem));
    news.problems = now.problems.iter().filter(|problem| !known(problem)).collect();
    let known = |ignored: &&_| last.is_some_and(|last| last.ignored.contains(*ignored));
    news.ignored = now.ignored.iter().filter(|ignored| !known(ignored)).collect();
    news
}

#[cfg(test)]
mod tests {
    use super::super::{Env, FileConfig, Settings, Source, Sources, resolve};
    use super::*;

    fn ask(variables: &[(&str, &str)]) -> Resolution {
        let env: Env = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let file = FileConfig::default();
        let sources = Sources { env: &env, file: &file, node: None, global: None };
        resolve(&sources, &Settings::default(), None)
    }

    #[test]
    fn each_thing_is_said_once_and_its_end_too() {
        let first = ask(&[
            ("FELIX_IPV6SUPPORT", "false"),
            ("FELIX_MAXIPSETSIZE", "many"),
            ("FELIX_NOPE", "1"),
        ]);
        let news_of_first = news(&first, None);
        assert_eq!(news_of_first.changed, [("Ipv6Support", Some(Source::Environment), "false")]);
        assert_eq!((news_of_first.problems.len(), news_of_first.ignored.len()), (1, 1));
        assert_eq!(news(&first, Some(&first)), News::default());
        let second = ask(&[("FELIX_MAXIPSETSIZE", "few")]);
        let news_of_second = news(&second, Some(&first));
        assert_eq!(news_of_second.changed, [("Ipv6Support", None, "")]);
        assert_eq!(news_of_second.problems.len(), 1);
    }
}
