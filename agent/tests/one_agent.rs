//! The real program: a second agent on one run directory ends at once and touches nothing.

use std::fs;

use calico_agent::exec::{Exec, ExecError};
use calico_agent::lock;
use calico_agent::paths::Paths;

#[tokio::test]
async fn a_second_agent_is_refused_and_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let sub = |name: &str| dir.path().join(name);
    let paths = Paths { config_dir: sub("etc"), run_dir: sub("run"), state_dir: sub("lib") };
    let endpoint = Paths::endpoint_status_dir(&paths.run_dir).join("cni a eth0");
    fs::create_dir_all(endpoint.parent().unwrap()).unwrap();
    fs::write(&endpoint, "{}").unwrap();
    fs::write(paths.api_socket(), "of the first").unwrap();
    let first = lock::take(&paths.lock()).unwrap();

    let args = [
        "run".to_owned(),
        format!("--config-dir={}", paths.config_dir.display()),
        format!("--run-dir={}", paths.run_dir.display()),
        format!("--state-dir={}", paths.state_dir.display()),
        "--nodename=calico-01".to_owned(),
        // Nobody listens there, should it come so far.
        "--etcd-endpoints=http://127.0.0.1:1".to_owned(),
    ];
    let error = Exec::default().run(env!("CARGO_BIN_EXE_calico-agent"), &args, b"").await;
    let Err(ExecError::Failed { code: Some(1), stderr, .. }) = error else {
        panic!("{error:?}");
    };
    let reason = format!("another calico-agent (pid {}) uses", std::process::id());
    assert!(stderr.contains(&reason), "{stderr}");
    assert_eq!(fs::read_to_string(paths.api_socket()).unwrap(), "of the first");
    assert!(endpoint.exists(), "the endpoint files of the first one are gone");
    assert!(!paths.nodename().exists());
    drop(first);
}
