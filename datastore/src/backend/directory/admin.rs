//! The administrator's files: what each says, and what of it is in force.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::error::DirectoryError;
use super::stamp::Stamp;
use crate::layout::v3::manifest::{self, Manifest, Manifests};

/// The largest file that is read.
const FILE_MAX: u64 = 16 << 20;

/// How long a file must be as it is before it is read.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// How long a file must be missing before it is gone: some programs remove or rename the old one
/// before they make the new one.
const GONE: Duration = Duration::from_millis(200);

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
    /// What is in force of it. `None`: it was never read without a mistake, and nothing is.
    content: Option<Vec<Manifest>>,
    /// Why it is not what stands there.
    refused: Option<String>,
    /// Since when it is not there. It is as it was for another [`GONE`].
    missing: Option<Instant>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Admin {
    directory: PathBuf,
    files: BTreeMap<Arc<str>, Known>,
    objects: BTreeMap<String, Owned>,
    refused: BTreeMap<String, String>,
    /// Files that changed or went a moment ago, and are as they were for that.
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

    /// The last scan left out a file because it changed less than [`QUIET`] ago, or keeps one that
    /// went less than [`GONE`] ago.
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

    /// The files of which nobody knows what they are to say, and why: they could not be read, or
    /// had a mistake whenever they were.
    pub(super) fn unknown(&self) -> Option<String> {
        let unknown = self.files.iter().filter(|(_, known)| known.content.is_none());
        let told = unknown.filter_map(|(name, known)| {
            let path = self.directory.join(&**name);
            Some(format!("{}: {}", path.display(), known.refused.as_deref()?))
        });
        let told: Vec<_> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Reads what changed. Files that somebody is writing at this moment stay as they were: those
    /// that are `busy` by their names, and, unless it is `urgent`, those that changed less than
    /// [`QUIET`] ago or went less than [`GONE`] ago. True when anything is different now.
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
            let path = self.directory.join(&*name);
            // Since its name was read, or it is a link to nothing.
            if fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                continue;
            }
            let known = before.remove(&*name).map(|known| Known { missing: None, ..known });
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
        for (name, known) in before {
            let since = known.missing.unwrap_or_else(Instant::now);
            if urgent || since.elapsed() >= GONE {
                changed = true;
            } else {
                self.unsettled = true;
                self.files.insert(name, Known { missing: Some(since), ..known });
            }
        }
        if changed {
            self.put_together();
        }
        Ok(changed)
    }

    /// What is in force of all files: of two that define one object, the first by name has it.
    fn put_together(&mut self) {
        self.objects.clear();
        self.refused.clear();
        for (name, known) in &self.files {
            let mut reasons: Vec<String> = known.refused.iter().cloned().collect();
            for Manifest { place, key, value } in known.content.iter().flatten() {
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

/// Told of a file that is not in force as it is.
const STAYS: &str = "what the file said before stays in force";
const NOTHING: &str = "nothing of the file is in force";

/// A file counts whole or not at all. One with a mistake keeps what it said before, and so does one
/// that is empty: programs that write in place empty it first, and a full disk leaves it so.
fn judge(stamp: Stamp, found: Manifests, known: Option<Known>) -> (Option<Known>, bool) {
    let Manifests { good, mistakes, blank } = found;
    let before = known.as_ref().and_then(|known| known.content.as_ref());
    let mut told: Vec<String> = mistakes.iter().take(MISTAKES_MAX).map(|m| m.to_string()).collect();
    if mistakes.len() > MISTAKES_MAX {
        told.push(format!("and {} more", mistakes.len() - MISTAKES_MAX));
    }
    if blank && before.is_some_and(|before| !before.is_empty()) {
        told.push("it is empty; remove the file to remove what it says".to_owned());
    }
    let (content, refused) = if told.is_empty() {
        (Some(good), None)
    } else {
        told.push(if before.is_some() { STAYS } else { NOTHING }.to_owned());
        (before.cloned(), Some(told.join("; ")))
    };
    let differs = known.is_none_or(|before| before.content != content || before.refused != refused);
    (Some(Known { stamp: Some(stamp), content, refused, missing: None }), differs)
}

fn unreadable(error: &io::Error, known: Option<Known>) -> (Option<Known>, bool) {
    let (content, before) = known.map_or((None, None), |known| (known.content, known.refused));
    let stays = if content.is_some() { STAYS } else { NOTHING };
    let refused = Some(format!("cannot be read: {error}; {stays}"));
    let differs = before != refused;
    (Some(Known { stamp: None, content, refused, missing: None }), differs)
}
