//! Any looks.

use proptest::prelude::*;

use super::*;

/// What may be true of the one thing that a look shows.
#[derive(Clone, Debug)]
struct Facts {
    there: bool,
    known: bool,
    wired: bool,
    lived_in: bool,
}

fn facts() -> impl Strategy<Value = Facts> {
    let odds = || prop::bool::weighted(0.2);
    (odds(), odds(), any::<bool>(), odds()).prop_map(|(there, unknown, wired, lived_in)| Facts {
        there,
        known: !unknown,
        wired,
        lived_in,
    })
}

impl Facts {
    fn look(&self) -> Look {
        let mut look = with_record(record(GONE, Stage::Added));
        look.pods = self.known.then(|| pods(if self.there { &[GONE] } else { &[] }));
        look = if self.wired { wired(look) } else { look };
        if self.lived_in { lived_in(look) } else { look }
    }

    fn accuse(&self) -> bool {
        self.known && !self.there && !(self.wired && self.lived_in)
    }
}

proptest! {
    /// Whatever happens: collected exactly when every look for a grace period accused it, and there
    /// were at least two.
    #[test]
    fn collected_exactly_when_every_look_of_a_grace_period_accused(
        steps in prop::collection::vec((1..100_u64, facts()), 1..40),
    ) {
        let mut at = 0;
        let mut accused_since = None;
        let mut looks = Vec::new();
        let mut expected = Vec::new();
        for (wait, facts) in steps {
            at += wait;
            accused_since = if facts.accuse() { accused_since.or(Some(at)) } else { None };
            expected.push(accused_since.is_some_and(|since| at - since >= GRACE.as_secs()));
            looks.push((at, facts.look()));
        }
        let said = judged(&looks).into_iter().map(|said| matches!(said, Said::Collect(_)));
        prop_assert_eq!(said.collect::<Vec<_>>(), expected);
    }
}
