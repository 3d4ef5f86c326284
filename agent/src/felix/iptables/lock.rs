//! Who holds the lock that the legacy tools share. It is never taken here: the tools do that.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Where the tools keep it unless told otherwise (XTABLES_LOCKFILE).
const DEFAULT: &str = "/run/xtables.lock";

/// The file that it is about.
pub(in crate::felix) fn path() -> PathBuf {
    std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
}

/// The program that holds the lock now: its name and number, as far as `/proc` tells.
pub(super) fn holder() -> Option<String> {
    let file = fs::metadata(path()).ok()?;
    let dev = file.dev();
    let device = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process = held_by(&locks, device, file.ino())?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let name = if name.trim().is_empty() { "a program" } else { name.trim() };
    Some(format!("{name} (process {process})"))
}

/// The process that holds a lock on that file, from the text of `/proc/locks` (proc(5)):
/// `1: FLOCK  ADVISORY  WRITE 708 08:01:1310 0 EOF`. Those that wait have an arrow.
fn held_by(locks: &str, device: (u64, u64), inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, _, _, process, file, ..] = words.as_slice() else { return None };
        let parts: Vec<&str> = file.split(':').collect();
        let [major, minor, number] = parts.as_slice() else { return None };
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let this = (hex(major)?, hex(minor)?) == device && number.parse() == Ok(inode);
        // Processes of another namespace have the number 0 or -1.
        process.parse().ok().filter(|process| this && *process > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 12 00:27:3 0 EOF
2: FLOCK  ADVISORY  WRITE 31419 00:27:2 0 EOF
2: -> FLOCK  ADVISORY  WRITE 99 00:27:2 0 EOF
3: FLOCK  ADVISORY  WRITE 7 08:0a:2 0 EOF
4: FLOCK  ADVISORY  WRITE -1 08:0b:2 0 EOF
";

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        assert_eq!(held_by(LOCKS, (0, 0x27), 2), Some(31419));
        assert_eq!(held_by(LOCKS, (8, 0x0a), 2), Some(7));
        assert_eq!(held_by(LOCKS, (8, 0x0b), 2), None);
        assert_eq!(held_by(LOCKS, (0, 0x27), 9), None);
        assert_eq!(held_by("nonsense\n", (0, 0x27), 2), None);
    }
}
