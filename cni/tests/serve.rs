//! The frame of a plugin, as a process: variables and standard input in, one document and an exit
//! code out.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Seek as _, Write as _};
use std::process::{ExitCode, Stdio};

use calico_cni::protocol::{CniError, Code, Ip, MAX_STDIN, Success, serve};

/// The plugin: this file's only "test" that is one when the variable is set. Its address is ours,
/// its DEL fails.
#[test]
fn plugin() {
    if std::env::var_os("CNI_TEST_PLUGIN").is_none() {
        return;
    }
    let code = serve(|invocation| match invocation.command.as_str() {
        "ADD" => Ok(Some(Success {
            ips: vec![Ip {
                address: ("10.1.0.1".parse().unwrap(), 32),
                gateway: None,
                interface: None,
            }],
            ..Success::default()
        })),
        "DEL" => Err(CniError::new(Code::Datastore, "etcd does not answer", "is it up?")),
        _ => Ok(None),
    });
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

/// Exit code and what was printed, without the line of the test runner.
fn run(command: &str, stdin: &[u8]) -> (Option<i32>, String) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stdin).unwrap();
    file.rewind().unwrap();
    #[expect(clippy::disallowed_methods, reason = "this test again, as a plugin")]
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    let output = process
        .args(["--exact", "plugin", "--nocapture"])
        .env("CNI_TEST_PLUGIN", "1")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c89f2f35-1b7e")
        .env("CNI_NETNS", "/var/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .stdin(Stdio::from(file))
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let printed = stdout.trim_start().strip_prefix("running 1 test\n").unwrap();
    (output.status.code(), printed.to_owned())
}

#[test]
fn each_outcome_has_its_document_and_its_exit_code() {
    for (command, stdin, code, printed) in [
        (
            "ADD",
            r#"{"name":"n"}"#,
            0,
            r#"{"cniVersion":"0.1.0","ip4":{"ip":"10.1.0.1/32"},"dns":{}}"#,
        ),
        (
            "ADD",
            r#"{"cniVersion":"1.1.0","name":"n"}"#,
            0,
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.1/32"}]}"#,
        ),
        ("STATUS", r#"{"cniVersion":"1.1.0","name":"n"}"#, 0, ""),
        (
            "VERSION",
            r#"{"cniVersion":"0.3.1"}"#,
            0,
            r#"{"cniVersion":"0.3.1","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        ),
        (
            "DEL",
            r#"{"cniVersion":"0.4.0","name":"n"}"#,
            1,
            r#"{"cniVersion":"0.4.0","code":102,"msg":"etcd does not answer","details":"is it up?"}"#,
        ),
        (
            "ADD",
            r#"{"cniVersion":"0.4.0"}"#,
            1,
            r#"{"cniVersion":"0.4.0","code":7,"msg":"\"name\" is missing or empty","details":"a network has a name; its default profile has the same"}"#,
        ),
        (
            "ADD",
            "",
            1,
            r#"{"cniVersion":"1.1.0","code":6,"msg":"standard input is empty","details":"a network configuration is expected there"}"#,
        ),
    ] {
        let expected = if printed.is_empty() { String::new() } else { format!("{printed}\n") };
        assert_eq!(run(command, stdin.as_bytes()), (Some(code), expected), "{command} {stdin}");
    }
}

#[test]
fn standard_input_has_a_bound() {
    let conf = |len: usize| {
        let mut conf = br#"{"name":"n"}"#.to_vec();
        conf.resize(len, b' ');
        conf
    };
    assert_eq!(run("ADD", &conf(MAX_STDIN)).0, Some(0));
    let (code, printed) = run("ADD", &conf(MAX_STDIN + 1));
    assert_eq!(code, Some(1));
    assert_eq!(
        printed,
        "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"standard input cannot be read to its end\",\
         \"details\":\"it has more than 4194304 bytes\"}\n"
    );
}
