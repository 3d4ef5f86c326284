use super::children::REMEMBERED;
use super::*;

const NONE: [&str; 0] = [];

#[tokio::test]
async fn output_and_input_go_through() {
    let exec = Exec::default();
    let output = exec.run("cat", &NONE, &vec![b'x'; 1 << 20]).await.unwrap();
    assert_eq!(output.stdout.len(), 1 << 20);
    assert_eq!(exec.spawned(), 1);
}

#[tokio::test]
async fn children_are_known_while_they_run_and_until_they_are_forgotten() {
    let exec = Exec::default();
    let children = exec.children();
    let output = exec.run("sh", &["-c", "cat >&2; echo $$"], b"x").await.unwrap();
    let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(children.contains(pid));
    assert_eq!(children.ended(), [pid]);
    // One that runs under the same number is not forgotten.
    children.started(pid);
    children.forget(&[pid]);
    assert!(children.contains(pid) && children.ended().is_empty());
    children.end(pid, 1);
    children.forget(&[pid]);
    assert!(!children.contains(pid));
    (0..1000).for_each(|n| children.end(n, u64::from(n)));
    assert_eq!(children.ended().len(), REMEMBERED);
    assert!(children.contains(999) && !children.contains(0));
}

#[tokio::test]
async fn a_failure_carries_what_the_program_said() {
    let error = Exec::default().run("sh", &["-c", "echo no >&2; exit 4"], b"").await.unwrap_err();
    let ExecError::Failed { code, stderr, .. } = error else { panic!("{error:?}") };
    assert_eq!((code, stderr.as_str()), (Some(4), "no"));
}

#[tokio::test]
async fn a_missing_program_is_told_apart() {
    let error = Exec::default().run("no-such-program", &NONE, b"").await.unwrap_err();
    assert!(error.is_missing(), "{error:?}");
}

#[tokio::test]
async fn a_hanging_program_is_ended() {
    let exec = Exec::new(Duration::from_millis(50));
    let error = exec.run("sleep", &["60"], b"").await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn the_end_of_a_program_is_a_step_also_when_it_was_killed() {
    let exec = Exec::new(Duration::from_millis(50));
    let mut steps = exec.steps();
    let _ = exec.run("true", &NONE, b"").await;
    assert_eq!(*steps.borrow_and_update(), 1);
    let _ = exec.run("sleep", &["60"], b"").await;
    assert_eq!(*steps.borrow_and_update(), 2);
}

#[tokio::test]
async fn what_a_killed_program_has_started_is_not_waited_for() {
    // The grandchild holds the pipes open.
    let exec = Exec::new(Duration::from_millis(100));
    for _ in 0..MOST_LEFT_BEHIND * 2 {
        let error = exec.run("sh", &["-c", "sleep 2 & sleep 60"], b"").await.unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
    }
}

/// A group whose frozen processes do not even end when they are killed: what a program looks
/// like that hangs in the kernel.
struct Freezer(std::path::PathBuf);

impl Freezer {
    fn new() -> Option<Self> {
        let name = format!("calico-exec-test-{}", std::process::id());
        let dir = std::path::Path::new("/sys/fs/cgroup/freezer").join(name);
        std::fs::create_dir(&dir).ok()?;
        Some(Self(dir))
    }

    fn thaw(&self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_killed_blocks_nobody_and_is_not_multiplied() {
    let Some(freezer) = Freezer::new() else {
        eprintln!("skipped: no freezer (cgroup v1, root)");
        return;
    };
    let exec = Exec::new(Duration::from_millis(300));
    let script = format!(
        "echo $$ >{0}/cgroup.procs; echo FROZEN >{0}/freezer.state; true",
        freezer.0.display()
    );
    for _ in 0..MOST_LEFT_BEHIND {
        let error = exec.run("sh", &["-c", &script], b"").await.unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
    }
    let started = exec.spawned();
    let error = exec.run("true", &NONE, b"").await.unwrap_err();
    assert!(error.to_string().contains("true is not started: 4 programs"), "{error}");
    assert_eq!(exec.spawned(), started);
    freezer.thaw();
    tokio::time::sleep(Duration::from_millis(300)).await;
    exec.run("true", &NONE, b"").await.unwrap();
}
