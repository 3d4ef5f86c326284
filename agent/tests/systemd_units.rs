//! The units as systemd reads them, and the list of what is installed where.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use calico_agent::exec::{Exec, ExecError};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Those of `calico.tmpfiles.conf`; the second is `calico.sysusers.conf`'s.
const PASSWD: &str = "root:x:0:0::/root:/bin/sh\ncalico-bird:x:998:998::/:/usr/sbin/nologin\n";

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).expect("a file of the project")
}

/// systemd-analyze says nothing about units that are right.
#[tokio::test]
async fn systemd_understands_every_line_of_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let units = ["calico-agent.service", "calico-bird.service", "calico-bird.path"];
    for unit in units {
        // What they start need not be installed here.
        let text = text(project().join("systemd").join(unit))
            .replace("=/usr/sbin/calico-agent ", "=/bin/true ")
            .replace("=birdc ", "=/bin/true ")
            .replace("=bird ", "=/bin/true ");
        std::fs::write(dir.path().join(unit), text).unwrap();
    }
    let verify = async |unit: &str| {
        let path = dir.path().join(unit);
        let args = ["verify", "--man=no", path.to_str().unwrap()];
        Exec::default().run("systemd-analyze", &args, b"").await
    };
    for unit in units {
        match verify(unit).await {
            Err(error) if error.is_missing() => {
                println!("skipped: systemd-analyze is not installed");
                return;
            }
            Err(error) => panic!("{unit}: {error}"),
            Ok(output) => assert_eq!(output.stderr, "", "{unit}"),
        }
    }
    // It would have said so: a section that does not exist, a command that is no path.
    std::fs::write(dir.path().join("bad.service"), "[Service]\nExecStart=/no/such/file\n").unwrap();
    assert!(matches!(verify("bad.service").await, Err(ExecError::Failed { .. })));
}

/// `systemd-analyze security` calls it well protected: 2.0 at most, of 10.
#[tokio::test]
async fn the_units_have_few_rights() {
    let rate = async |path: &Path| {
        let path = path.to_str().unwrap();
        let args = ["security", "--offline=true", "--threshold=20", "--no-pager", path];
        Exec::default().run("systemd-analyze", &args, b"").await
    };
    for unit in ["calico-agent.service", "calico-bird.service"] {
        let path = project().join("systemd").join(unit);
        match rate(&path).await {
            Err(error) if error.is_missing() => {
                println!("skipped: systemd-analyze is not installed");
                return;
            }
            result => drop(result.unwrap_or_else(|error| panic!("{unit}: {error}"))),
        }
        // One right more, and it says so.
        let dir = tempfile::tempdir().unwrap();
        let worse = dir.path().join(unit);
        let text = text(&path).replace("\nPrivateDevices=yes\n", "\n");
        std::fs::write(&worse, text.replace("\nNoNewPrivileges=yes\n", "\n")).unwrap();
        assert!(matches!(rate(&worse).await, Err(ExecError::Failed { .. })), "{unit}");
    }
}

/// `packaging/install` puts each file where the units and systemd look for it.
#[tokio::test]
async fn the_installed_files_are_where_they_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("calico-agent");
    std::fs::write(&binary, "").unwrap();
    let plugin = dir.path().join("calico");
    std::fs::write(&plugin, "plugin").unwrap();
    let root = dir.path().join("root");
    let script = format!(
        "export BINARY='{}' PLUGIN='{}'; '{3}' '{2}' && exec '{3}' '{2}'",
        binary.display(),
        plugin.display(),
        root.display(),
        project().join("packaging/install").display(),
    );
    Exec::default().run("sh", &["-c", &script], b"").await.unwrap();
    let installed = |path: &str| root.join(path.trim_start_matches('/'));
    let unit = text(installed("/usr/lib/systemd/system/calico-agent.service"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let program = command.split(' ').next().unwrap();
    assert!(installed(program).is_file(), "{program}");
    for wants in unit.lines().filter_map(|line| line.strip_prefix("Wants=")) {
        assert!(installed("/usr/lib/systemd/system").join(wants).is_file(), "{wants}");
    }
    // One plugin: a link that leads out of this root leads to the file in a real one.
    for name in ["calico", "calico-ipam"] {
        assert_eq!(text(installed("/opt/cni/bin").join(name)), "plugin");
        let link = std::fs::read_link(installed("/usr/lib/rkt/plugins/net").join(name)).unwrap();
        let absolute = Path::new("/usr/lib/rkt/plugins/net").join(link);
        assert!(installed(absolute.to_str().unwrap()).exists(), "{}", absolute.display());
    }
    let lock = text(installed("/usr/lib/tmpfiles.d/calico.conf"));
    assert!(lock.contains("f /run/xtables.lock 0600 root root"), "{lock}");
    let every_file = std::fs::read_dir(project().join("systemd")).unwrap().count();
    let script = text(project().join("packaging/install"));
    assert_eq!(script.matches(" systemd/").count(), every_file, "a file is not installed");
}

/// What a unit makes writable *if it is there* is made before: later it would stay read-only.
#[tokio::test]
async fn what_the_agent_may_write_to_is_there_before_it_starts() {
    let unit = text(project().join("systemd/calico-agent.service"));
    let optional = unit.lines().filter_map(|line| line.strip_prefix("ReadWritePaths=-"));
    let optional: Vec<_> = optional.flat_map(str::split_whitespace).collect();
    assert_eq!(optional, ["/run/xtables.lock", "/var/lib/cni"]);
    let root = tempfile::tempdir().unwrap();
    let given = |option: &str| format!("--{option}={}", root.path().display());
    // Users are looked up below the root.
    std::fs::create_dir(root.path().join("etc")).unwrap();
    std::fs::write(root.path().join("etc/passwd"), PASSWD).unwrap();
    std::fs::write(root.path().join("etc/group"), "root:x:0:\ncalico-bird:x:998:\n").unwrap();
    let conf = root.path().join("usr/lib/tmpfiles.d/calico.conf");
    std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
    std::fs::copy(project().join("systemd/calico.tmpfiles.conf"), &conf).unwrap();
    // A plugin with a umask of its own was here first.
    let state = root.path().join("var/lib/calico");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
    let args = ["--create", &given("root"), "calico.conf"];
    match Exec::default().run("systemd-tmpfiles", &args, b"").await {
        Err(error) if error.is_missing() => {
            println!("skipped: systemd-tmpfiles is not installed");
            let lines = text(&conf);
            assert!(optional.iter().all(|path| lines.contains(&format!(" {path} 0"))), "{lines}");
            return;
        }
        result => drop(result.unwrap()),
    }
    for path in optional {
        assert!(root.path().join(path.trim_start_matches('/')).exists(), "{path}");
    }
    assert!(root.path().join("var/lib/cni").is_dir());
    assert_eq!(state.metadata().unwrap().mode() & 0o7777, 0o755);
    // Where BIRD makes its socket, for itself and the group of the directory.
    let bird = root.path().join("run/calico/bird").metadata().unwrap();
    assert_eq!((bird.uid(), bird.gid(), bird.mode() & 0o7777), (998, 0, 0o2750));
    let link = std::fs::read_link(root.path().join("run/calico/bird.ctl")).unwrap();
    assert_eq!(link, Path::new("bird/bird.ctl"));
    let users = text(project().join("systemd/calico.sysusers.conf"));
    assert!(users.contains("\nu calico-bird - "), "{users}");
    let unit = text(project().join("systemd/calico-bird.service"));
    assert!(
        unit.contains("\nUser=calico-bird\n") && unit.contains(" -s /run/calico/bird/bird.ctl\n")
    );
}
