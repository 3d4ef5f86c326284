//! The name of this host: the nodename file, variables and the system's own.
#![no_main]

use arbitrary::Arbitrary;
use calico_agent::config::{Env, FileConfig, Flags, Local};
use calico_agent::node::name;
use calico_datastore::layout::v3::{self, keys};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    variable: Option<&'a str>,
    hostname: Option<&'a str>,
    file: Option<&'a str>,
    system: &'a str,
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let variables = [("NODENAME", input.variable), ("HOSTNAME", input.hostname)];
    let variables = variables.into_iter().filter_map(|(k, v)| Some((k.into(), v?.to_owned())));
    let env: Env = variables.collect();
    let Ok(local) = Local::resolve(&Flags::default(), &env, &FileConfig::default()) else { return };
    match name::choose(&local.node, input.file, input.system) {
        Ok((chosen, from)) => {
            // It is part of keys, and found there again.
            let key = keys::node(&chosen);
            assert_eq!(v3::id_of(&key).and_then(|id| keys::key_of(&id)).as_ref(), Some(&key));
            assert!(chosen.as_str().len() <= 253);
            // What the file says next time is what was chosen this time.
            let next = name::choose(&local.node, Some(chosen.as_str()), "other");
            assert_eq!(next.map(|(name, _)| name).ok(), Some(chosen), "{from:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
