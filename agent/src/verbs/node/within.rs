//! Paths in a system that lies below a directory. It only reads.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

/// As many links as the kernel follows on one way.
const LINKS: u32 = 40;

/// Where `path` leads in the system below `root`, as that system sees it: an absolute link begins at
/// `root`, and none leads above it. What is not there keeps its name. (With `/` as root it is what
/// the kernel does.)
///
/// # Errors
/// When the links go round in circles.
pub(super) fn within(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut found = PathBuf::new();
    let mut ahead: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        let next = found.join(part);
        // An error: it is no link, or not there.
        let Ok(target) = std::fs::read_link(root.join(&next)) else {
            found = next;
            continue;
        };
        links += 1;
        if links > LINKS {
            return Err(Errno::ELOOP.into());
        }
        if target.is_absolute() {
            found = PathBuf::new();
        }
        ahead.extend(parts(&target));
    }
    Ok(root.join(found))
}

/// The names that a path has one after another, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_an_image_stay_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("image");
        std::fs::create_dir_all(root.join("usr/share/oem")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("usr/share/oem/file"), "").unwrap();
        for (target, path) in [
            ("/usr/share/oem", "etc/absolute"),
            ("../usr/share/oem/file", "etc/relative"),
            ("../../../../usr/share/oem/file", "etc/above"),
            ("absolute/file", "etc/over"),
            ("/nowhere/file", "etc/dangling"),
            ("circle", "etc/circle"),
        ] {
            symlink(target, root.join(path)).unwrap();
        }
        for (path, leads) in [
            ("/etc/absolute/file", "usr/share/oem/file"),
            ("/etc/absolute/../new", "usr/share/new"),
            ("/etc/relative", "usr/share/oem/file"),
            ("/etc/above", "usr/share/oem/file"),
            ("/etc/over", "usr/share/oem/file"),
            ("/etc/dangling", "nowhere/file"),
            ("/etc/calico/agent.toml", "etc/calico/agent.toml"),
            ("/../../x", "x"),
        ] {
            assert_eq!(within(&root, Path::new(path)).unwrap(), root.join(leads), "{path}");
        }
        assert!(within(&root, Path::new("/etc/circle/x")).is_err());
    }

    #[test]
    fn of_this_host_it_says_what_the_kernel_does() {
        for path in ["/proc/self", "/etc/mtab", "/dev/fd", "/etc/hostname"] {
            if let Ok(there) = std::fs::canonicalize(path) {
                assert_eq!(within(Path::new("/"), Path::new(path)).unwrap(), there);
            }
        }
    }
}
