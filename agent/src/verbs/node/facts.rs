//! What is so on this host. It only reads.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::wanted::{Files, HostFile};
use super::within::within;
use crate::exec::{Exec, ExecError};
use crate::paths::Paths;
use crate::startup::ENVIRONMENT_FILES;

/// A file could not be read, or a program not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum FactsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot ask systemd about its units")]
    Systemd(#[source] ExecError),
}

/// Where the CNI plugin may be: where packages put it, then beside the agent.
const PLUGINS: &str = "/opt/cni/bin/calico";
/// Where rkt looks for plugins, besides its networks.
pub(super) const RKT_PLUGINS: &str = "/usr/lib/rkt/plugins/net";
/// rkt's networks. It looks for plugins here first.
pub(super) const RKT_NETWORKS: &str = "/etc/rkt/net.d";
/// The plugin, and the address management that it is under another name.
pub(super) const PROGRAMS: [&str; 2] = ["calico", "calico-ipam"];
/// The units, and the one whose name ours takes.
pub(super) const AGENT: &str = "calico-agent.service";
pub(super) const BIRD: &str = "calico-bird.service";
pub(super) const STOCK_BIRD: &str = "bird.service";

/// rkt on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rkt {
    /// The plugin's file, where there is one.
    pub(super) plugin: Option<PathBuf>,
    /// Programs of ours that rkt finds.
    pub(super) found: Vec<&'static str>,
    /// `/usr` takes no new file.
    pub(super) usr_read_only: bool,
    /// There is a network of ours.
    pub(super) has_network: bool,
}

/// Directories of rkt, where links lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Of [`RKT_NETWORKS`].
    pub(super) networks: PathBuf,
    /// Of [`RKT_PLUGINS`].
    pub(super) plugins: PathBuf,
}

/// A unit as systemd knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its file is there.
    pub(super) loaded: bool,
    /// It is started at boot.
    pub(super) enabled: bool,
    /// It runs, or is on the way to it.
    pub(super) active: bool,
    /// Its own name, where it was asked for by another.
    pub(super) id: String,
    /// Its main process.
    pub(super) pid: Option<u32>,
    /// What it runs is not installed.
    pub(super) lacks: Option<String>,
}

/// Everything that the plan depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `/`, or the image that is prepared.
    pub(super) root: PathBuf,
    /// systemd runs this host; false also for an image.
    pub(super) systemd: bool,
    /// By name.
    pub(super) units: BTreeMap<&'static str, Unit>,
    /// The configuration.
    pub(super) files: Files,
    /// rkt.
    pub(super) rkt: Rkt,
    /// Where its things are.
    pub(super) places: Places,
    /// A user of ours is there for systemd-sysusers.
    pub(super) sysusers: bool,
    /// The tmpfiles of ours are there for systemd-tmpfiles.
    pub(super) tmpfiles: bool,
    /// Modules that systemd-modules-load would load for us and that are not there.
    pub(super) modules: Vec<String>,
}

impl Facts {
    /// Looks at the system below `root`.
    pub(super) async fn read(root: &Path, exec: &Exec) -> Result<Self, FactsError> {
        let image = root != Path::new("/");
        let systemd = !image && Path::new("/run/systemd/system").is_dir();
        let units = match (systemd, image) {
            (true, _) => show(exec).await?,
            (false, true) => installed(root),
            (false, false) => BTreeMap::new(),
        };
        let modules = below(root, "/usr/lib/modules-load.d/calico.conf");
        let place = |path: &str| {
            let read = |source| FactsError::Read { path: below(root, path), source };
            within(root, Path::new(path)).map_err(read)
        };
        let places = Places { networks: place(RKT_NETWORKS)?, plugins: place(RKT_PLUGINS)? };
        Ok(Self {
            root: root.to_owned(),
            systemd,
            units,
            files: files(root)?,
            rkt: rkt(root, &places),
            places,
            sysusers: below(root, "/usr/lib/sysusers.d/calico.conf").exists(),
            tmpfiles: below(root, "/usr/lib/tmpfiles.d/calico.conf").exists(),
            modules: if systemd { not_loaded(&modules) } else { Vec::new() },
        })
    }
}

/// An absolute path in a system that lies elsewhere.
pub(super) fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn files(root: &Path) -> Result<Files, FactsError> {
    let config = Paths::default();
    let env = config.config_dir.join("calico.env");
    let weaker = ENVIRONMENT_FILES.iter().rev().map(PathBuf::from);
    let env = [env].into_iter().chain(weaker).map(|path| file(root, path));
    Ok(Files { toml: file(root, config.agent_toml())?, env: env.collect::<Result<_, _>>()? })
}

/// A link is followed: what it points to is what is changed.
fn file(root: &Path, path: PathBuf) -> Result<HostFile, FactsError> {
    let path = match within(root, &path) {
        Ok(path) => path,
        Err(source) => return Err(FactsError::Read { path: below(root, path), source }),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(HostFile { path, text }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(HostFile { path, text: String::new() })
        }
        Err(source) => Err(FactsError::Read { path, source }),
    }
}

fn rkt(root: &Path, places: &Places) -> Rkt {
    let is_program = |path: &Path| {
        let file = within(root, path);
        file.is_ok_and(|file| file.is_file() && access(&file, AccessFlags::X_OK).is_ok())
    };
    let beside =
        std::env::current_exe().ok().and_then(|agent| Some(agent.parent()?.join("calico")));
    let packaged = Some(PathBuf::from(PLUGINS));
    // An image has nothing of the system that prepares it.
    let beside = beside.filter(|_| root == Path::new("/"));
    let plugin = [packaged, beside].into_iter().flatten();
    let plugin = plugin.into_iter().find(|path| is_program(path));
    let found = PROGRAMS.into_iter().filter(|program| {
        [RKT_NETWORKS, RKT_PLUGINS].iter().any(|place| is_program(&Path::new(place).join(program)))
    });
    Rkt {
        plugin,
        found: found.collect(),
        usr_read_only: read_only(&places.plugins),
        has_network: networks(root, &places.networks),
    }
}

/// Whether a directory, or the one where it would be, is on a disk that takes no files.
fn read_only(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there
        .and_then(|path| statvfs(path).ok())
        .is_some_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY))
}

fn networks(root: &Path, directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| Path::new(RKT_NETWORKS).join(entry.file_name()));
    paths.any(|path| {
        let file = within(root, &path).and_then(std::fs::read);
        path.extension().is_some_and(|ending| ending == "conf")
            && file.is_ok_and(|bytes| is_ours(&bytes))
    })
}

/// A network that names us, also one with a mistake: it was meant for us.
fn is_ours(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("\"calico\"")
}

/// systemd's answer about all three.
async fn show(exec: &Exec) -> Result<BTreeMap<&'static str, Unit>, FactsError> {
    let mut units = BTreeMap::new();
    for name in [AGENT, BIRD, STOCK_BIRD] {
        let args = ["show", "-p", "Id,LoadState,UnitFileState,ActiveState,MainPID,ExecStart", name];
        let output = exec.run("systemctl", &args, b"").await.map_err(FactsError::Systemd)?;
        units.insert(name, unit(&String::from_utf8_lossy(&output.stdout), &is_installed));
    }
    Ok(units)
}

/// Where systemd looks for a program without a path.
const PROGRAM_DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

fn is_installed(program: &str) -> bool {
    let is = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    match program.starts_with('/') {
        true => is(Path::new(program)),
        false => PROGRAM_DIRECTORIES.iter().any(|place| is(&Path::new(place).join(program))),
    }
}

fn unit(text: &str, is_installed: &dyn Fn(&str) -> bool) -> Unit {
    let said: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let is = |name: &str, value: &[&str]| said.get(name).is_some_and(|said| value.contains(said));
    Unit {
        loaded: is("LoadState", &["loaded"]),
        enabled: is("UnitFileState", &["enabled"]),
        active: is("ActiveState", &["active", "activating", "reloading"]),
        id: said.get("Id").copied().unwrap_or_default().to_owned(),
        // `{ path=/usr/sbin/bird ; argv[]=bird -f ; … }`
        lacks: said
            .get("ExecStart")
            .and_then(|command| command.split("path=").nth(1)?.split_whitespace().next())
            .filter(|program| !is_installed(program))
            .map(str::to_owned),
        pid: said.get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0),
    }
}

/// In an image nothing runs.
fn installed(root: &Path) -> BTreeMap<&'static str, Unit> {
    let is_there = |path: PathBuf| within(root, &path).is_ok_and(|path| path.exists());
    let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
    let wants = within(root, wants).unwrap_or_else(|_| below(root, wants));
    let unit = |name: &'static str| {
        let places = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
        let loaded = places.iter().any(|place| is_there(Path::new(place).join(name)));
        let enabled = wants.join(name).symlink_metadata().is_ok();
        (name, Unit { loaded, enabled, id: name.to_owned(), ..Unit::default() })
    };
    [AGENT, BIRD].map(unit).into()
}

/// Modules of a modules-load.d(5) file that the kernel does not have.
fn not_loaded(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let names = text.lines().map(str::trim);
    let names = names.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    names
        .filter(|name| !Path::new("/sys/module").join(name.replace('-', "_")).exists())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_as_systemctl_shows_it() {
        let text = "Id=calico-bird.service\nLoadState=loaded\nActiveState=activating\nUnitFileState=enabled\nMainPID=12\n";
        let expected = Unit {
            loaded: true,
            enabled: true,
            active: true,
            id: "calico-bird.service".to_owned(),
            pid: Some(12),
            lacks: None,
        };
        assert_eq!(unit(text, &|_| true), expected);
        let command = format!("{text}ExecStart={{ path=bird ; argv[]=bird -f -R ; status=0/0 }}\n");
        assert_eq!(unit(&command, &|program| program == "bird"), expected);
        assert_eq!(unit(&command, &|_| false).lacks.as_deref(), Some("bird"));
        assert!(is_installed("sh") && is_installed("/bin/sh") && !is_installed("no-such-program"));
        let none =
            "Id=x.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nMainPID=0\n";
        assert_eq!(unit(none, &|_| true), Unit { id: "x.service".to_owned(), ..Unit::default() });
    }

    #[test]
    fn an_image_is_looked_at_from_outside() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str, mode: u32| {
            let path = below(root.path(), path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let places = Places {
            networks: below(root.path(), RKT_NETWORKS),
            plugins: below(root.path(), RKT_PLUGINS),
        };
        let rkt = || rkt(root.path(), &places);
        assert_eq!(rkt(), Rkt::default());
        put(PLUGINS, "", 0o755);
        put("/etc/rkt/net.d/10-a.conf", r#"{"name": "a", "type": "bridge"}"#, 0o644);
        put("/usr/lib/rkt/plugins/net/x", "", 0o755);
        symlink("/opt/cni/bin/calico", places.plugins.join("calico")).unwrap();
        symlink("/opt/cni/bin/missing", places.plugins.join("calico-ipam")).unwrap();
        let plugin = Some(PathBuf::from(PLUGINS));
        let expected = Rkt { plugin, found: vec!["calico"], ..Rkt::default() };
        assert_eq!(rkt(), expected);
        put("/etc/rkt/net.d/10-b.conf", r#"{"name": "b", "type": "calico"}"#, 0o644);
        assert!(rkt().has_network);
        put("/usr/lib/systemd/system/calico-agent.service", "", 0o644);
        let units = installed(root.path());
        assert!(units[AGENT].loaded && !units[AGENT].enabled && !units[BIRD].loaded);
    }

    #[tokio::test]
    async fn a_link_of_an_image_leads_to_the_images_own_file() {
        use std::os::unix::fs::symlink;
        let (root, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs = host.path().join("agent.toml");
        std::fs::write(&theirs, "[node]\nip = \"10.0.0.9\"\n").unwrap();
        std::fs::create_dir(host.path().join("net")).unwrap();
        let own = below(root.path(), "/etc/calico");
        std::fs::create_dir_all(&own).unwrap();
        symlink(&theirs, own.join("agent.toml")).unwrap();
        std::fs::create_dir_all(below(root.path(), "/usr/lib/rkt/plugins")).unwrap();
        symlink(host.path().join("net"), below(root.path(), RKT_PLUGINS)).unwrap();
        let facts = Facts::read(root.path(), &Exec::default()).await.unwrap();
        let inside = below(root.path(), &theirs);
        assert_eq!(facts.files.toml, HostFile { path: inside, text: String::new() });
        assert_eq!(facts.places.plugins, below(root.path(), host.path().join("net")));
    }
}
