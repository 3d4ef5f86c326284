//! `agent.toml`.
#![no_main]

use calico_agent::config::{Env, FileConfig, Settings, Sources, resolve};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match FileConfig::parse(text) {
        Ok(file) => {
            assert_eq!(FileConfig::parse(text).as_ref(), Ok(&file));
            // Every value was checked, so nothing is left to complain about.
            let (env, defaults) = (Env::default(), Settings::default());
            let sources = Sources { env: &env, file: &file, node: None, global: None };
            let resolution = resolve(&sources, &defaults, None);
            assert!(resolution.problems.is_empty(), "{:?}", resolution.problems);
            assert_eq!(resolution.given.len(), file.felix.len());
            let values =
                file.datastore.values().chain(file.node.values()).chain(file.felix.values());
            assert!(values.map(String::len).sum::<usize>() <= 2 * text.len());
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.len() <= 4 * text.len() + 4);
            let lines = text.matches('\n').count() + 1;
            for mistake in mistakes {
                assert!((1..=lines).contains(&mistake.line), "{mistake:?}");
                assert!((1..=text.len() + 1).contains(&mistake.column), "{mistake:?}");
                assert!(!mistake.message.is_empty());
            }
        }
    }
});
