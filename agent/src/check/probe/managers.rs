//! How NetworkManager and systemd-networkd are configured, from their files.

use std::path::{Path, PathBuf};

use crate::check::judge::interfaces::{Networkd, pattern_matches};

/// `Some(true)`: NetworkManager runs and leaves interfaces with one of `prefixes` alone. `root`:
/// `/` outside of tests.
pub fn network_manager(root: &Path, prefixes: &[String]) -> Option<bool> {
    if !root.join("run/NetworkManager").is_dir() || !runs(root, "NetworkManager") {
        return None;
    }
    let base = root.join("etc/NetworkManager");
    let mut files = vec![base.join("NetworkManager.conf")];
    for dir in ["etc", "run", "usr/lib"] {
        files.extend(files_of(&root.join(dir).join("NetworkManager/conf.d"), "conf"));
    }
    let unmanaged = |line: &str| {
        let named = line.split_once('=').filter(|(key, _)| key.trim() == "unmanaged-devices");
        named.is_some_and(|(_, list)| {
            prefixes.iter().all(|prefix| {
                list.split([';', ',']).any(|item| {
                    let name = item.trim().strip_prefix("interface-name:");
                    name.is_some_and(|pattern| {
                        pattern.ends_with('*') && pattern_matches(pattern, prefix)
                    })
                })
            })
        })
    };
    Some(files.iter().any(|file| lines(file).iter().any(|line| unmanaged(line))))
}

/// systemd-networkd, when it runs.
pub fn networkd(root: &Path, prefixes: &[String]) -> Option<Networkd> {
    // The name of a process has 15 characters at most.
    if !root.join("run/systemd/netif").is_dir() || !runs(root, "systemd-network") {
        return None;
    }
    let mut networkd = Networkd::default();
    let mut main = vec![root.join("etc/systemd/networkd.conf")];
    let mut networks = Vec::new();
    for dir in ["etc", "run", "usr/lib"] {
        main.extend(files_of(&root.join(dir).join("systemd/networkd.conf.d"), "conf"));
        networks.extend(files_of(&root.join(dir).join("systemd/network"), "network"));
    }
    let no = |text: &str| ["no", "false", "0", "off"].contains(&text.to_ascii_lowercase().as_str());
    networkd.keeps_foreign_routes = main.iter().flat_map(|file| lines(file)).any(|line| {
        line.split_once('=').is_some_and(|(k, v)| k.trim() == "ManageForeignRoutes" && no(v.trim()))
    });
    // The first file that matches decides, in the order of their names whatever the directory.
    networks.sort_by_key(|file| file.file_name().map(ToOwned::to_owned));
    // Of one name, the first directory's alone counts: it may be empty, and takes the others away.
    networks.dedup_by(|later, first| later.file_name() == first.file_name());
    for file in networks {
        let lines = lines(&file);
        let everything = matches_everything(&lines);
        if everything || matches(&lines, prefixes) {
            if !leaves_alone(&lines) {
                networkd.matching.push(file.display().to_string());
            }
            // Newer ones pass such a file over.
            if !everything {
                break;
            }
        }
    }
    Some(networkd)
}

/// True when a process of that name runs. Its directory alone outlives it.
fn runs(root: &Path, name: &str) -> bool {
    let processes = std::fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let is = |comm: PathBuf| std::fs::read_to_string(comm).is_ok_and(|comm| comm.trim() == name);
    processes.into_iter().any(|process| is(process.path().join("comm")))
}

/// A file that does not say what it is for is for all interfaces, until systemd 242.
fn matches_everything(lines: &[String]) -> bool {
    let mut section = "";
    !lines.is_empty()
        && !lines.iter().any(|line| {
            if line.starts_with('[') {
                section = line;
            }
            section == "[Match]" && line.contains('=')
        })
}

fn matches(lines: &[String], prefixes: &[String]) -> bool {
    let mut inside = false;
    let mut hit = false;
    for line in lines {
        if line.starts_with('[') {
            inside = line == "[Match]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
        match key.trim() {
            "Name" => {
                hit |= prefixes.iter().any(|prefix| {
                    value.split_whitespace().any(|pattern| pattern_matches(pattern, prefix))
                });
            }
            // Anything else narrows it: a driver, a type, an address.
            _ => return false,
        }
    }
    hit
}

fn leaves_alone(lines: &[String]) -> bool {
    lines.iter().any(|line| line.replace(' ', "").eq_ignore_ascii_case("Unmanaged=yes"))
}

fn files_of(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
}

/// The lines of a file without comments; none when it cannot be read.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_managers() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let prefixes = vec!["cali".to_owned()];
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(network_manager(root, &prefixes), None);
        assert_eq!(networkd(root, &prefixes), None);

        std::fs::create_dir_all(root.join("run/NetworkManager")).unwrap();
        assert_eq!(network_manager(root, &prefixes), None, "it does not run any more");
        write("proc/7/comm", "NetworkManager\n");
        assert_eq!(network_manager(root, &prefixes), Some(false));
        let list = "[keyfile]\nunmanaged-devices=interface-name:eth9;interface-name:cali*\n";
        write("etc/NetworkManager/conf.d/calico.conf", list);
        assert_eq!(network_manager(root, &prefixes), Some(true));
        assert_eq!(network_manager(root, &["cali".to_owned(), "tap".to_owned()]), Some(false));

        std::fs::create_dir_all(root.join("run/systemd/netif/links")).unwrap();
        write("proc/8/comm", "systemd-network\n");
        write("etc/systemd/network/50-eth.network", "[Match]\nName=eth*\n");
        assert_eq!(networkd(root, &prefixes), Some(Networkd::default()));
        write("etc/systemd/networkd.conf.d/x.conf", "[Network]\nManageForeignRoutes=no\n");
        write("usr/lib/systemd/network/80-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n");
        let found = networkd(root, &prefixes).unwrap();
        assert!(found.keeps_foreign_routes && found.matching.len() == 1, "{found:?}");
        write(
            "run/systemd/network/10-cali.network",
            "[Match]\nName=cali*\n[Link]\nUnmanaged=yes\n",
        );
        assert_eq!(networkd(root, &prefixes).unwrap().matching, [""; 0]);
        write("usr/lib/systemd/network/80-all.network", "[Match]\nDriver=x\nName=*\n");
        std::fs::remove_file(root.join("run/systemd/network/10-cali.network")).unwrap();
        assert_eq!(networkd(root, &prefixes).unwrap().matching, [""; 0]);
        // For all interfaces, or for none: that depends on the version.
        write("usr/lib/systemd/network/zz-default.network", "[Network]\nDHCP=yes\n");
        assert_eq!(networkd(root, &prefixes).unwrap().matching.len(), 1);
        write(
            "usr/lib/systemd/network/05-cali.network",
            "[Match]\nName=cali*\n[Link]\nUnmanaged=yes\n",
        );
        assert_eq!(networkd(root, &prefixes).unwrap().matching, [""; 0]);
        write("etc/systemd/network/05-cali.network", "");
        assert_eq!(networkd(root, &prefixes).unwrap().matching.len(), 1);
        write("etc/systemd/network/zz-default.network", "");
        assert_eq!(networkd(root, &prefixes).unwrap().matching, [""; 0]);
    }
}
