//! `CNI_ARGS`.
#![no_main]

use calico_cni::protocol::Args;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Args::parse(text) {
        Ok(args) => {
            // Written again, it says the same.
            let ips = args.ips.iter().map(|ip| format!("IP={ip}"));
            let labels = args.labels.iter().map(|(key, value)| format!("label.{key}={value}"));
            let others = args.others.iter().map(|(key, value)| format!("{key}={value}"));
            let again: Vec<_> = ips.chain(labels).chain(others).collect();
            assert_eq!(Args::parse(&again.join(";")), Ok(args));
        }
        Err(error) => assert!(error.code == 4 && error.msg.starts_with("CNI_ARGS: "), "{error}"),
    }
});
