//! Replaces a file: whole or not at all, also when the power fails half-way.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces `path` by what `write` writes, and returns what it returns. A file that is made has the
/// permissions `mode`, less the process's umask. There must be one writer at a time.
///
/// # Errors
/// When the disk does not take it. What was there still is, unless only the last step failed: then
/// the new file is in place, and may be the old one again after a power cut.
pub fn replace<T>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>,
) -> io::Result<T> {
    let new = unfinished(path);
    let result = fill(&new, mode, write).and_then(|written| {
        fs::rename(&new, path)?;
        // The rename itself must survive a power cut, too.
        File::open(directory(path))?.sync_all()?;
        Ok(written)
    });
    if result.is_err() {
        // It may take the place that others need. The next attempt overwrites it anyway.
        let _ = fs::remove_file(&new);
    }
    result
}

/// Where the new file is until it takes the place of the old one: a write that was cut short leaves
/// it behind. It is in the same directory, or the rename would not be atomic.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".new");
    path.with_file_name(name)
}

fn directory(path: &Path) -> &Path {
    // A bare name has an empty one.
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn fill<T>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>,
) -> io::Result<T> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let written = write(&mut out)?;
    // On the disk before its name is.
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn put(path: &Path, text: &str) -> io::Result<()> {
        replace(path, 0o600, |out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        assert_eq!(unfinished(&path), dir.path().join("a.txt.new"));
        let held =
            || (fs::read_to_string(&path).unwrap(), fs::read_dir(dir.path()).unwrap().count());
        put(&path, "one, and long").unwrap();
        assert_eq!(held(), ("one, and long".to_owned(), 1));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // The rest of a write that was cut short.
        fs::write(unfinished(&path), "half of something that is longer than the next").unwrap();
        put(&path, "two").unwrap();
        assert_eq!(held(), ("two".to_owned(), 1));
        let error = replace(&path, 0o600, |out| {
            out.write_all(b"thr")?;
            Err::<(), _>(io::Error::other("no more"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no more");
        assert_eq!(held(), ("two".to_owned(), 1));
        // A device that is always full.
        symlink("/dev/full", unfinished(&path)).unwrap();
        assert_eq!(put(&path, "four").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(held(), ("two".to_owned(), 1));
    }
}
