//! Which pods rkt has: its data directory, only read.
//!
//! rkt has no daemon to ask. A pod is a directory, named by the pod's UUID, that is renamed from one
//! state's directory into the next and removed at the end. A stopped pod is still in `run` or in
//! `exited-garbage`; only one that is in none of them is gone, and its UUID never comes back.
//!
//! Locks are not looked at: whoever holds one, even shared and for a moment, makes `rkt gc` skip the
//! pod.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where a pod may be, in the order in which pods move: from each only to later ones. A pod that
/// moves while this is read in that order is seen at its old place or at its new one.
const STATES: [&str; 6] = ["embryo", "prepare", "prepared", "run", "exited-garbage", "garbage"];

/// Tells one directory from another that is mounted over it, or made in its place: device and
/// inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    /// The directory with these numbers.
    pub const fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// Every pod of rkt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// The directory that they were found in.
    pub place: Place,
    /// Their UUIDs, as their directories spell them.
    pub uuids: BTreeSet<String>,
}

/// rkt's pods are not known. That proves nothing about any of them.
#[derive(Debug, thiserror::Error)]
pub enum RktError {
    /// There is no such directory: rkt was never used here, or keeps its data elsewhere, or its file
    /// system is not mounted yet.
    #[error("{} is not there", path.display())]
    Absent {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Pods {
    /// Reads rkt's data directory (`/var/lib/rkt`). It counts only with a directory for each state:
    /// rkt makes them all at once.
    ///
    /// # Errors
    /// When one of them is missing or cannot be read.
    pub fn read(data_dir: &Path) -> Result<Self, RktError> {
        let pods = data_dir.join("pods");
        let place = place_of(&pods)?;
        let mut uuids = BTreeSet::new();
        // Once in order is enough as long as pods move forward only; twice costs nothing.
        for state in STATES.iter().chain(&STATES) {
            let path = pods.join(state);
            let failed = |source| error(&path, source);
            for entry in fs::read_dir(&path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                uuids.extend(name.to_str().filter(|name| is_uuid(name)).map(str::to_owned));
            }
        }
        // Something was mounted while it was read: half of each is nothing.
        let after = place_of(&pods)?;
        if after == place {
            Ok(Self { place, uuids })
        } else {
            Err(RktError::Read { path: pods, source: io::Error::other("it is another one now") })
        }
    }
}

fn place_of(path: &Path) -> Result<Place, RktError> {
    let metadata = fs::metadata(path).map_err(|source| error(path, source))?;
    Ok(Place { device: metadata.dev(), inode: metadata.ino() })
}

fn error(path: &Path, source: io::Error) -> RktError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => RktError::Absent { path },
        _ => RktError::Read { path, source },
    }
}

/// True for what rkt calls a pod: `c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11`, in lower case.
pub fn is_uuid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => dash(at),
            b'0'..=b'9' | b'a'..=b'f' => !dash(at),
            _ => false,
        })
}

/// True for the path of a namespace that rkt makes for a pod: `/var/run/netns/cni-<UUID>`, where the
/// UUID is one that it draws, not the pod's. Others that call their containers by UUIDs (Nomad,
/// Mesos) make theirs elsewhere.
pub fn is_namespace_of_rkt(path: &Path) -> bool {
    let parent = path.parent().and_then(Path::to_str);
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(parent, Some("/var/run/netns" | "/run/netns"))
        && name.and_then(|name| name.strip_prefix("cni-")).is_some_and(is_uuid)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    const POD: &str = "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11";

    fn rkt() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for state in STATES {
            fs::create_dir_all(dir.path().join("pods").join(state)).unwrap();
        }
        dir
    }

    #[test]
    fn a_pod_is_there_in_every_state() {
        for state in STATES {
            let dir = rkt();
            assert_eq!(Pods::read(dir.path()).unwrap().uuids, BTreeSet::new());
            fs::create_dir(dir.path().join("pods").join(state).join(POD)).unwrap();
            fs::write(dir.path().join("pods").join(state).join("notes.txt"), "").unwrap();
            let uuids = Pods::read(dir.path()).unwrap().uuids;
            assert_eq!(uuids.into_iter().collect::<Vec<_>>(), [POD], "{state}");
        }
    }

    #[test]
    fn what_is_missing_or_not_readable_is_an_error_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let absent = |dir: &Path| matches!(Pods::read(dir), Err(RktError::Absent { .. }));
        assert!(absent(&dir.path().join("nowhere")));
        assert!(absent(dir.path()));
        for state in STATES {
            let dir = rkt();
            let path = dir.path().join("pods").join(state);
            fs::remove_dir(&path).unwrap();
            assert!(absent(dir.path()), "{state}");
            // root reads everything, but not a directory that is none.
            fs::write(&path, "").unwrap();
            let error = Pods::read(dir.path()).unwrap_err();
            assert!(matches!(error, RktError::Read { .. }), "{error}");
            assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        }
    }

    #[test]
    fn another_directory_is_another_place() {
        let (one, other) = (rkt(), rkt());
        let place = |dir: &tempfile::TempDir| Pods::read(dir.path()).unwrap().place;
        assert_eq!(place(&one), place(&one));
        assert_ne!(place(&one), place(&other));
    }

    /// Pods are made and move through all states as fast as they can, in the three ways that rkt
    /// has. Each that was there when a read began must be in what it read.
    #[test]
    fn a_moving_pod_is_never_gone() {
        const WAYS: [&[usize]; 3] = [&[0, 1, 2, 3, 4], &[0, 1, 3, 4], &[0, 1, 5]];
        let dir = rkt();
        let pods = dir.path().join("pods");
        let name = |number: u32| format!("{number:08x}-0000-4000-8000-000000000000");
        let made = AtomicU32::new(0);
        let over = AtomicBool::new(false);
        let reads = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !over.load(Ordering::SeqCst) {
                    let there = made.load(Ordering::SeqCst);
                    let seen = Pods::read(dir.path()).unwrap().uuids;
                    for number in 0..there {
                        assert!(seen.contains(&name(number)), "{number} of {there} was missed");
                    }
                    reads += 1;
                }
                reads
            });
            for round in 0..40 {
                let round = round * 12..(round + 1) * 12;
                for number in round.clone() {
                    fs::create_dir(pods.join(STATES[0]).join(name(number))).unwrap();
                    made.store(number + 1, Ordering::SeqCst);
                }
                for step in 1..5 {
                    for number in round.clone() {
                        let way = WAYS[number as usize % WAYS.len()];
                        let Some(to) = way.get(step) else { continue };
                        let [from, to] = [way[step - 1], *to].map(|at| pods.join(STATES[at]));
                        fs::rename(from.join(name(number)), to.join(name(number))).unwrap();
                    }
                }
            }
            over.store(true, Ordering::SeqCst);
            reader.join().unwrap()
        });
        assert!(reads > 5, "only {reads} reads");
    }

    #[test]
    fn what_rkt_calls_a_pod_and_its_namespace() {
        for text in [
            "",
            "c89f2f351b7e4a579d6c0f8e2b6a4d11",
            "C89F2F35-1b7e-4a57-9d6c-0f8e2b6a4d11",
            "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d1",
            "c89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11a",
            "c89f2f351-b7e-4a57-9d6c-0f8e2b6a4d11",
            "g89f2f35-1b7e-4a57-9d6c-0f8e2b6a4d11",
        ] {
            assert!(!is_uuid(text), "{text}");
        }
        assert!(is_uuid(POD));
        for (path, rkt) in [
            (format!("/var/run/netns/cni-{POD}"), true),
            (format!("/run/netns/cni-{POD}"), true),
            (format!("/var/run/netns/{POD}"), false),
            ("/var/run/netns/cni-1".to_owned(), false),
            (format!("/run/mesos/isolators/network/cni/{POD}/ns"), false),
            ("/proc/1234/ns/net".to_owned(), false),
        ] {
            assert_eq!(is_namespace_of_rkt(Path::new(&path)), rkt, "{path}");
        }
    }
}
