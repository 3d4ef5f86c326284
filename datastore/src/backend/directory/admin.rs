//! The administrator's files: what each says, and what of it is in force.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::DirectoryError;
use super::stamp::Stamp;
use crate::layout::v3::manifest::{self, Manifest, Manifests};

/// The largest file that is read.
const FILE_MAX: u64 = 16 << 20;

/// How long a file must be as it is before it is read.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// How many mistakes of one file are told.
const MISTAKES_MAX: usize = 5;

/// Names of files that are read.
const SUFFIXES: [&str; 3] = [".yaml", ".yml", ".json"];

/// An object that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) value: Arc<[u8]>,
    /// The name of its file.
    pub(super) file: Arc<str>,
}

/// One file.
#[derive(Debug)]
struct Known {
    /// `None`: it could not be read.
    stamp: Option<Stamp>,
    /// What is in force of it.
    content: Vec<Manifest>,
    /// Why it is not all of it.
    refused: Option<String>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Admin {
    directory: PathBuf,
    files: BTreeMap<Arc<str>, Known>,
    objects: BTreeMap<String, Owned>,
    refused: BTreeMap<String, String>,
    /// Files that changed a moment ago, and were not read for that.
    unsettled: bool,
}

impl Admin {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
            refused: BTreeMap::new(),
            unsettled: false,
        }
    }

    /// The last scan left out a file because it changed less than [`QUIET`] ago.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// The object of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Owned> {
        self.objects.get(key)
    }

    /// Every object.
    pub(super) fn objects(&self) -> &BTreeMap<String, Owned> {
        &self.objects
    }

    /// Those whose keys begin with `prefix`.
    pub(super) fn objects_from<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Owned)> {
        let from = self.objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(key, owned)| (&**key, owned)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The whole path of the file of an object.
    pub(super) fn path_of(&self, owned: &Owned) -> PathBuf {
        self.directory.join(&*owned.file)
    }

    /// The files that are not in force as they are: path → why.
    pub(super) fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// Reads what changed. Files that somebody is writing at this moment stay as they were: those
    /// that are `busy` by their names, and, unless it is `urgent`, those that changed less than
    /// [`QUIET`] ago. True when anything is different now.
    ///
    /// # Errors
    /// When the directory cannot be read. What was read of it stays.
    pub(super) fn scan(
        &mut self,
        busy: &dyn Fn(&str) -> bool,
        urgent: bool,
    ) -> Result<bool, DirectoryError> {
        let names = names(&self.directory)
            .map_err(DirectoryError::file("read the directory", &self.directory))?;
        let mut changed = false;
        let mut before = std::mem::take(&mut self.files);
        self.unsettled = false;
        for name in names {
            let known = before.remove(&*name);
            let path = self.directory.join(&*name);
            let unsettled = !urgent && is_unsettled(&path);
            self.unsettled |= unsettled;
            // One that was not there before is read when it is whole.
            let (now, differs) =
                if unsettled || busy(&name) { (known, false) } else { look(&path, known) };
            changed |= differs;
            if let Some(now) = now {
                self.files.insert(name, now);
            }
        }
        if changed || !before.is_empty() {
            self.put_together();
            changed = true;
        }
        Ok(changed)
    }

    /// What is in force of all files: of two that define one object, the first by name has it.
    fn put_together(&mut self) {
        self.objects.clear();
        self.refused.clear();
        for (name, known) in &self.files {
            let mut reasons: Vec<String> = known.refused.iter().cloned().collect();
            for Manifest { place, key, value } in &known.content {
                if let Some(first) = self.objects.get(key) {
                    let first = self.directory.join(&*first.file);
                    let object = manifest::name_of(key);
                    reasons.push(format!(
                        "{place}: {object} is in {} already, which counts",
                        first.display()
                    ));
                    continue;
                }
                let owned = Owned { value: Arc::clone(value), file: Arc::clone(name) };
                self.objects.insert(key.clone(), owned);
            }
            if !reasons.is_empty() {
                let path = self.directory.join(&**name).display().to_string();
                self.refused.insert(path, reasons.join("; "));
            }
        }
    }
}

/// What one look into the directory says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// How many objects of it count.
    pub objects: usize,
    /// What does not count, and why, naming the document.
    pub refused: Option<String>,
}

/// Reads every file once, for those who only look.
///
/// # Errors
/// When the directory cannot be read.
pub fn survey(directory: &Path) -> Result<Vec<FileReport>, DirectoryError> {
    let mut admin = Admin::new(directory.to_owned());
    admin.scan(&|_| false, true)?;
    let report = |name: &Arc<str>| {
        let path = directory.join(&**name);
        FileReport {
            objects: admin.objects.values().filter(|owned| owned.file == *name).count(),
            refused: admin.refused.get(&path.display().to_string()).cloned(),
            path,
        }
    };
    Ok(admin.files.keys().map(report).collect())
}

/// The names of the files that are read, in order. One that is not UTF-8 is none of them.
fn names(directory: &Path) -> io::Result<Vec<Arc<str>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if is_read(&name) {
            found.push(Arc::from(name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Hidden files are temporary ones, and so is what ends otherwise (`x.yaml~`, `x.yaml.swp`).
pub(super) fn is_read(name: &str) -> bool {
    !name.starts_with('.') && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn is_unsettled(path: &Path) -> bool {
    let stamp = fs::metadata(path).map(|metadata| Stamp::of(&metadata));
    stamp.is_ok_and(|stamp| !stamp.is_settled(SystemTime::now(), QUIET))
}

/// A file now, and whether that is another than before. `None`: it is gone, or no file.
fn look(path: &Path, known: Option<Known>) -> (Option<Known>, bool) {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return (None, known.is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => return (None, known.is_some()),
        Err(error) => return unreadable(&error, known),
    };
    let stamp = Stamp::of(&metadata);
    if let Some(before) = known.as_ref()
        && before.stamp == Some(stamp)
        && stamp.is_settled(SystemTime::now(), QUIET)
    {
        return (known, false);
    }
    match read(path, &metadata) {
        Ok(text) => judge(stamp, manifest::read(&text), known),
        Err(error) => unreadable(&error, known),
    }
}

fn read(path: &Path, metadata: &Metadata) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if metadata.len() <= FILE_MAX {
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut text)?;
    }
    if metadata.len().max(text.len() as u64) > FILE_MAX {
        return Err(io::Error::other(format!("it is larger than {} MiB", FILE_MAX >> 20)));
    }
    Ok(text)
}

/// A file with a mistake keeps what it said before; one that is read for the first time has
/// nothing to keep, and what is good of it counts.
fn judge(stamp: Stamp, found: Manifests, known: Option<Known>) -> (Option<Known>, bool) {
    let Manifests { good, mistakes } = found;
    let mut told: Vec<String> = mistakes.iter().take(MISTAKES_MAX).map(|m| m.to_string()).collect();
    if mistakes.len() > MISTAKES_MAX {
        told.push(format!("and {} more", mistakes.len() - MISTAKES_MAX));
    }
    let (content, refused) = match &known {
        _ if mistakes.is_empty() => (good, None),
        Some(before) => {
            told.push("what the file said before stays in force".to_owned());
            (before.content.clone(), Some(told.join("; ")))
        }
        None => {
            if !good.is_empty() {
                told.push(format!("the other {} objects of the file are in force", good.len()));
            }
            (good, Some(told.join("; ")))
        }
    };
    let differs = known.is_none_or(|before| before.content != content || before.refused != refused);
    (Some(Known { stamp: Some(stamp), content, refused }), differs)
}

fn unreadable(error: &io::Error, known: Option<Known>) -> (Option<Known>, bool) {
    let stays = if known.is_some() { "; what the file said before stays in force" } else { "" };
    let refused = Some(format!("cannot be read: {error}{stays}"));
    let (content, before) = match known {
        Some(known) => (known.content, known.refused),
        None => (Vec::new(), None),
    };
    let differs = before != refused;
    (Some(Known { stamp: None, content, refused }), differs)
}
