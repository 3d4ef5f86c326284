//! What a CNI runtime tells the plugin: variables, and a network configuration on standard input.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use calico_cni::protocol::{Command, Invocation, Success, Version};

const NAMES: [&str; 4] = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

// A configuration alone; or a digit for the command, the variables and the configuration with NUL
// between. Both can be read by people.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let parts = bytes.splitn(NAMES.len() + 2, |byte| *byte == 0);
    let alone = [b"0", &b"c"[..], b"eth0", b"", b""].into_iter().chain([bytes]);
    let parts: Vec<&[u8]> = if bytes.starts_with(b"{") { alone.collect() } else { parts.collect() };
    let [digit, id, ifname, args, path, stdin] = parts[..] else { return };
    let words = [id, ifname, args, path];
    let digit = usize::from(digit.first().copied().unwrap_or_default());
    let command = Command::ALL[digit % Command::ALL.len()];
    let env = |name: &str| match name {
        "CNI_COMMAND" => Some(OsString::from(command.as_str())),
        "CNI_NETNS" => Some(OsString::from("/var/run/netns/x")),
        name => {
            let word = words[NAMES.iter().position(|other| *other == name)?];
            Some(OsString::from_vec(word.to_vec()))
        }
    };
    match Invocation::read(&env, stdin) {
        Ok(invocation) => {
            assert_eq!(invocation.stdin, stdin);
            let conf = &invocation.conf;
            if command == Command::Version {
                assert!(invocation.version_answer()["cniVersion"].is_string());
                return;
            }
            // A DEL goes on without a name, and tells so.
            assert!(!conf.name.is_empty() || command == Command::Del);
            assert_eq!(conf.name.is_empty(), conf.overlooked.name.is_some());
            assert!(!conf.ipam.kind.contains('/'));
            assert_eq!(conf.version, Version::of_input(stdin));
            assert!(command != Command::Gc || conf.valid_attachments.is_some());
            if let Some(previous) = &conf.previous {
                let json = previous.to_json(Version::LATEST);
                assert_eq!(Success::from_json(&json).as_ref(), Ok(previous));
            }
        }
        Err(error) => {
            assert!(matches!(error.code, 1 | 2 | 4 | 6 | 7), "{error}");
            assert!(!error.msg.is_empty());
        }
    }
});
