//! Address management by another plugin, with real processes: shell scripts that behave as plugins
//! do, and as they should not.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calico_cni::delegate::{self, Delegate};
use calico_cni::protocol::{CniError, Command, Invocation, Success};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// One test at a time: a script that is being written while another test forks is open in the
/// other's child for a moment, and then cannot be executed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A directory with a plugin named `host-local` in it.
struct Plugin {
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Plugin {
    /// Notes each command, with environment and standard input, before it runs `script`.
    async fn new(script: &str) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let dir = TempDir::new().unwrap();
        let noting = r#"d=${0%/*}; env >"$d/env.$CNI_COMMAND"; cat >"$d/stdin.$CNI_COMMAND""#;
        let plugin = Self { dir, _alone: alone };
        plugin.write("host-local", &format!("#!/bin/sh\n{noting}\n{script}\n"), 0o755);
        plugin
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn note(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.path().join(name)).ok()
    }

    fn call(&self, command: &str) -> Invocation {
        call(command, &[self.dir.path()])
    }
}

// Spaces and order are the runtime's: they must arrive as they are.
const STDIN: &str = "{ \"name\":\"net\",\n  \"type\":\"calico\", \"x\": 1.50,\n\
                     \"ipam\":{\"type\":\"host-local\",\"subnet\":\"10.1.0.0/16\"} }\n";

fn call(command: &str, path: &[&Path]) -> Invocation {
    let path = std::env::join_paths(path).unwrap();
    call_with(command, &path, STDIN)
}

fn call_with(command: &str, path: &OsString, stdin: &str) -> Invocation {
    let env = |name: &str| {
        Some(match name {
            "CNI_COMMAND" => OsString::from(command),
            "CNI_CONTAINERID" => OsString::from("c89f2f35-1b7e"),
            "CNI_NETNS" => OsString::from("/var/run/netns/x"),
            "CNI_IFNAME" => OsString::from("eth0"),
            "CNI_PATH" => path.clone(),
            _ => return None,
        })
    };
    Invocation::read(&env, stdin.as_bytes()).unwrap()
}

async fn add(plugin: &Plugin) -> Result<Success, CniError> {
    delegate::add(&plugin.call("ADD")).await
}

const GIVES: &str = r#"echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16","gateway":"10.1.0.1",
    "routes":[{"dst":"0.0.0.0/0"}]},"dns":{}}'"#;

#[tokio::test]
async fn an_address_is_given() {
    let plugin = Plugin::new(GIVES).await;
    let result = add(&plugin).await.unwrap();
    assert_eq!(result.ips.len(), 1);
    assert_eq!(result.ips[0].address, ("10.1.0.5".parse().unwrap(), 16));
    assert_eq!(result.ips[0].gateway, Some("10.1.0.1".parse().unwrap()));
    assert_eq!(result.routes.len(), 1);
    assert_eq!(plugin.note("stdin.ADD").as_deref(), Some(STDIN));
    assert_eq!(plugin.note("stdin.DEL"), None, "what succeeded is not taken back");
    let env = plugin.note("env.ADD").unwrap();
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c89f2f35-1b7e",
        "CNI_NETNS=/var/run/netns/x",
        "CNI_IFNAME=eth0",
        &format!("CNI_PATH={}", plugin.dir.path().display()),
        // All else is inherited.
        &format!("PATH={}", std::env::var("PATH").unwrap()),
    ] {
        assert!(env.lines().any(|other| other == line), "{line} is not in {env}");
    }
}

#[tokio::test]
async fn other_commands_are_passed_on() {
    let plugin = Plugin::new("echo not JSON").await;
    for command in [Command::Del, Command::Check, Command::Gc, Command::Status] {
        Delegate::of_call(&plugin.call("DEL")).run(command).await.unwrap();
        let name = command.as_str();
        assert_eq!(plugin.note(&format!("stdin.{name}")).as_deref(), Some(STDIN));
        let env = plugin.note(&format!("env.{name}")).unwrap();
        assert!(env.contains(&format!("CNI_COMMAND={name}\n")), "{env}");
    }
    let (path, stdin) = ([plugin.dir.path().to_owned()], b"as it was");
    let taken_back = Delegate::new("host-local", &path, stdin)
        .variable("CNI_CONTAINERID", "gone")
        .variable("CNI_ARGS", "IP=10.1.0.5")
        .variable("CNI_NETNS", "");
    taken_back.run(Command::Del).await.unwrap();
    assert_eq!(plugin.note("stdin.DEL").as_deref(), Some("as it was"));
    let env = plugin.note("env.DEL").unwrap();
    for line in ["CNI_CONTAINERID=gone", "CNI_ARGS=IP=10.1.0.5", "CNI_NETNS="] {
        assert!(env.lines().any(|other| other == line), "{line} is not in {env}");
    }
    let plugin = {
        drop(plugin);
        Plugin::new("echo '{\"code\":9,\"msg\":\"gone\"}'; exit 1").await
    };
    let error = delegate::pass_on(&plugin.call("DEL")).await.unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (9, "gone"));
}

#[tokio::test]
async fn directories_are_searched_in_order_and_may_be_relative() {
    let plugin = Plugin::new(GIVES).await;
    // The first has no such file, the second one that is not executable, the third a directory.
    let others: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    fs::write(others[1].path().join("host-local"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::create_dir(others[2].path().join("host-local")).unwrap();
    let here = std::env::current_dir().unwrap();
    let mut relative: PathBuf = here.components().skip(1).map(|_| "..").collect();
    relative.push(plugin.dir.path().strip_prefix("/").unwrap());
    assert!(relative.is_relative() && relative.join("host-local").exists());
    let mut path: Vec<&Path> = others.iter().map(TempDir::path).collect();
    path.push(&relative);
    let result = Delegate::of_call(&call("ADD", &path)).add().await.unwrap();
    assert_eq!(result.ips[0].address.1, 16);
    let env = plugin.note("env.ADD").unwrap();
    assert!(env.contains(&format!(":{}\n", relative.display())), "the entry stays as it is: {env}");
    // An earlier directory is before a later one.
    let worse = TempDir::new().unwrap();
    fs::write(worse.path().join("host-local"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(worse.path().join("host-local"), fs::Permissions::from_mode(0o755))
        .unwrap();
    let path = [plugin.dir.path(), worse.path()];
    assert!(Delegate::of_call(&call("ADD", &path)).add().await.is_ok());
    let path = [worse.path(), plugin.dir.path()];
    assert!(Delegate::of_call(&call("ADD", &path)).add().await.is_err());
}

#[tokio::test]
async fn a_plugin_that_is_nowhere_is_named() {
    let dir = TempDir::new().unwrap();
    let error = Delegate::of_call(&call("ADD", &[dir.path()])).add().await.unwrap_err();
    assert_eq!(error.code, 106);
    assert_eq!(error.msg, "the IPAM plugin \"host-local\" is not found");
    assert!(error.details.contains(&dir.path().display().to_string()), "{}", error.details);
    let error = Delegate::of_call(&call("ADD", &[])).add().await.unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (4, "CNI_PATH is missing"));
    // A configuration that names a path does not come this far, but a caller may.
    let mut invocation = call("ADD", &[dir.path()]);
    for name in ["../host-local", "/bin/true", "", ".."] {
        invocation.conf.ipam.kind = name.to_owned();
        let error = Delegate::of_call(&invocation).add().await.unwrap_err();
        assert_eq!(error.code, 7, "{name:?}");
        assert!(error.msg.contains(&format!("{name:?}")), "{error}");
    }
}

#[tokio::test]
async fn its_own_error_is_passed_through_and_what_it_gave_is_taken_back() {
    let plugin = Plugin::new(
        r#"[ $CNI_COMMAND = DEL ] || {
        echo '{"cniVersion":"0.2.0","code":11,"msg":"no lease","details":"in 5 s"}'; exit 3; }"#,
    )
    .await;
    let error = add(&plugin).await.unwrap_err();
    assert_eq!(
        (error.code, error.msg.as_str(), error.details.as_str()),
        (11, "no lease", "in 5 s")
    );
    assert_eq!(plugin.note("stdin.DEL").as_deref(), Some(STDIN));
    assert!(plugin.note("env.DEL").unwrap().contains("CNI_COMMAND=DEL\n"));
}

#[tokio::test]
async fn failures_without_an_error_say_what_stood_on_standard_error() {
    for (script, details) in [
        (
            "echo first >&2; echo the disk is full >&2; exit 3",
            "exit status: 3; first\nthe disk is full",
        ),
        ("echo '{\"code\":0}'; exit 1", "exit status: 1; nothing on standard error"),
        ("kill -9 $$", "signal: 9 (SIGKILL); nothing on standard error"),
    ] {
        let plugin = Plugin::new(script).await;
        let error = add(&plugin).await.unwrap_err();
        assert_eq!(error.code, 106, "{script}");
        assert_eq!(error.msg, "ADD of the IPAM plugin \"host-local\" failed");
        assert_eq!(error.details, details, "{script}");
    }
    let plugin = Plugin::new("seq 1000 >&2; exit 1").await;
    let error = add(&plugin).await.unwrap_err();
    assert!(error.details.ends_with("999\n1000") && error.details.len() < 2_100, "{error}");
}

#[test]
fn standard_error_is_passed_on() {
    #[expect(clippy::disallowed_methods, reason = "this test again, to see its standard error")]
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "failures_without_an_error_say_what_stood_on_standard_error"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("first\nthe disk is full\n") && stderr.contains("\n1000\n"),
        "{stderr}"
    );
}

#[tokio::test]
async fn answers_that_are_no_results_are_refused() {
    for (script, details) in [
        ("echo hello", "its answer is not JSON: "),
        ("true", "its answer is not JSON: "),
        ("echo '[]'", "its answer is not a result: \"result\" is not an object"),
        ("echo '{}'", "its answer has no address"),
        ("echo '{\"code\":7,\"msg\":\"no\"}'", "its answer has no address"),
        ("echo '{\"ips\":[{\"address\":\"x\"}]}'", "its answer is not a result: \"result.ips[0]"),
        ("head -c 2000000 /dev/zero", "its answer has more than 1048576 bytes"),
    ] {
        let plugin = Plugin::new(script).await;
        let error = add(&plugin).await.unwrap_err();
        assert_eq!(error.code, 106, "{script}");
        assert!(error.details.starts_with(details), "{script}: {}", error.details);
        assert!(plugin.note("stdin.DEL").is_some(), "{script}: nothing was taken back");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_started_is_named() {
    let plugin = Plugin::new(GIVES).await;
    plugin.write("host-local", "#!/no/such/interpreter\n", 0o755);
    let error = add(&plugin).await.unwrap_err();
    assert_eq!(error.code, 106);
    assert!(error.details.contains("host-local cannot be started: "), "{}", error.details);
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_has_started() {
    let plugin =
        Plugin::new(r#"[ $CNI_COMMAND = DEL ] && exit; sleep 60 & echo $! >"$d/pid"; wait"#).await;
    let started = Instant::now();
    let limit = Duration::from_millis(500);
    let error = Delegate::of_call(&plugin.call("ADD")).within(limit).add().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(error.code, 106);
    assert_eq!(error.details, "it did not end within 500ms and was killed");
    let pid = plugin.note("pid").unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(5);
    // An orphan may wait for its new parent as a zombie.
    while !stat().is_empty() && !stat().contains(") Z ") {
        assert!(Instant::now() < deadline, "the plugin's child still runs: {}", stat());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(plugin.note("stdin.DEL").is_some());
}

#[tokio::test]
async fn what_it_has_left_running_is_not_waited_for() {
    let plugin = Plugin::new(&format!("{GIVES}; sleep 20 & echo $! >\"$d/pid\"")).await;
    let started = Instant::now();
    assert!(add(&plugin).await.is_ok());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let pid: i32 = plugin.note("pid").unwrap().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
