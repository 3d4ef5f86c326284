//! What is calculated comes back from disk as it went, and is the same text whoever calculated it.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use calico_datastore::model::FelixConfiguration;
use proptest::prelude::*;

use super::strategies::{SMALL, update};
use super::{Bench, HOST, assert_same};
use crate::desired::DesiredState;
use crate::stored::StoreSettings;
use crate::stored::format::{Draft, content_of, read, write};

fn text(state: &Arc<DesiredState>, settings: &StoreSettings) -> Vec<u8> {
    let draft = Draft {
        node: HOST.into(),
        boot: "b".to_owned(),
        written: UNIX_EPOCH,
        state: Arc::clone(state),
        settings: settings.clone(),
    };
    let mut out = Vec::new();
    let length = write(&draft, &mut out).unwrap();
    assert_eq!(length, out.len() as u64);
    out
}

fn settings() -> StoreSettings {
    let parameters = [("LogSeverityScreen".into(), "debug \"\n\u{e4}".into())].into();
    StoreSettings { node: None, cluster: Some(Arc::new(FelixConfiguration { parameters })) }
}

proptest! {
    #[test]
    fn every_calculated_state_comes_back(
        updates in proptest::collection::vec(update(&SMALL), 0..40),
        cut in 0..40_usize,
    ) {
        // One that has seen everything come and go, one that sees only what is there now.
        let (mut long, mut fresh) = (Bench::new(), Bench::new());
        let (first, rest) = updates.split_at(cut.min(updates.len()));
        long.apply(first.to_vec());
        let state = long.apply(rest.to_vec());
        let bytes = text(&state, &settings());
        let stored = read(&bytes).unwrap();
        // Overlays are not kept: nothing programs them.
        let kept = DesiredState { overlays: imbl::OrdMap::new(), ..(*state).clone() };
        assert_same(&stored.state, &kept);
        prop_assert_eq!(stored.state.revision, state.revision);
        prop_assert_eq!(&stored.settings, &settings());

        let mut last = std::collections::BTreeMap::new();
        for update in updates {
            last.insert(update.id(), update);
        }
        let same = fresh.apply(last.into_values());
        let again = text(&same, &settings());
        prop_assert_eq!(content_of(&again), content_of(&bytes));
        prop_assert!(content_of(&bytes).is_some_and(|content| content.len() > 100), "no content");
    }

    #[test]
    fn what_was_damaged_is_an_error(
        updates in proptest::collection::vec(update(&SMALL), 0..20),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let bytes = text(&Bench::new().apply(updates), &settings());
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        changed[at] = byte;
        prop_assert_eq!(read(&changed).is_ok(), bytes[at] == byte, "byte {}", at);
        prop_assert!(read(&bytes[..at]).is_err(), "cut off at {}", at);
        changed.remove(at);
        prop_assert!(read(&changed).is_err());
    }
}
