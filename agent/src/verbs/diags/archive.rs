//! The archive: a tar file, compressed, for root alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

/// An archive that is being written, beside the place where it will be.
pub(super) struct Archive {
    builder: Builder<GzEncoder<File>>,
    /// All its files are in one directory of this name.
    directory: String,
    seconds: u64,
    unfinished: PathBuf,
    path: PathBuf,
}

impl Archive {
    /// Begins one. Nobody but its owner may read it: what is not known to be secret may still be.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn create(path: &Path, directory: String) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = path.with_file_name(name);
        // New: in a directory where others write, a link of theirs might be in the place.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let builder = Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { builder, directory, seconds, unfinished, path: path.to_owned() })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        header.set_size(text.len() as u64);
        let path = format!("{}/{name}", self.directory);
        self.builder.append_data(&mut header, path, text.as_bytes())
    }

    /// It is whole, and takes its place.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.builder.finish()?;
        self.builder.get_mut().try_finish()?;
        self.builder.get_ref().get_ref().sync_all()?;
        std::fs::rename(&self.unfinished, &self.path)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar.gz");
        let mut archive = Archive::create(&path, "top".to_owned()).unwrap();
        let long = format!("sub/{}.txt", "x".repeat(150));
        archive.add("one.txt", "1").unwrap();
        archive.add(&long, "2").unwrap();
        assert!(!path.exists());
        archive.finish().unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let mut found = Vec::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((name, text));
        }
        let expected =
            [("top/one.txt".to_owned(), "1".to_owned()), (format!("top/{long}"), "2".to_owned())];
        assert_eq!(found, expected);
        drop(Archive::create(&path, "top".to_owned()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Archive::create(Path::new("/nowhere/x"), String::new()).is_err());
    }
}
