//! The value of one of Felix's parameters, as it stands in the environment.
#![no_main]

use arbitrary::Arbitrary;
use calico_agent::config::{PARAMS, Settings};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    which: u8,
    value: &'a str,
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let param = &PARAMS[usize::from(input.which) % PARAMS.len()];
    let defaults = Settings::default();
    let mut settings = defaults.clone();
    match param.apply(input.value, &mut settings) {
        Ok(()) => {
            let mut again = settings.clone();
            assert_eq!(param.apply(input.value, &mut again), Ok(()));
            assert_eq!(again, settings, "twice is once");
            let mut padded = defaults.clone();
            assert_eq!(param.apply(&format!(" {}\n", input.value), &mut padded), Ok(()));
            assert_eq!(padded, settings, "spaces around a value do not count");
        }
        Err(bad) => {
            assert_eq!(settings, defaults, "a refused value changes nothing");
            assert_eq!((bad.name, bad.value.as_str()), (param.name, input.value));
        }
    }
});
