//! A network namespace that lives as long as a piece of work, and the system's own tools in it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Does `work` on a thread in a namespace of its own. Threads and processes that it starts are in it.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
            run(&["ip", "link", "set", "lo", "up"], "");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a program where we are; what it said, or why it failed.
pub fn try_run(command: &[&str], input: &str) -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the control is not the code under test")]
    let mut process = Command::new(command[0]);
    process.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // It may end without having read all of it; then it says why.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it was started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(answer) } else { Err(format!("{command:?}: {said}")) }
}

/// Runs a program that must succeed.
pub fn run(command: &[&str], input: &str) -> String {
    try_run(command, input).unwrap_or_else(|error| panic!("{error}"))
}
