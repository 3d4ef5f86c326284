//! What the journal would get from this thread, for tests.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

use super::journal::Journal;

/// What the last datagram says.
const END: &str = "the end";

/// A journal, until its lines are asked for.
pub(crate) struct Captured {
    guard: DefaultGuard,
    path: PathBuf,
    reader: JoinHandle<Vec<String>>,
    _dir: TempDir,
}

impl Captured {
    /// From now on.
    pub(crate) fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = Journal::connect(&path).unwrap();
        // Read along: a socket holds ten datagrams on some hosts.
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            let mut datagrams = Vec::new();
            loop {
                let length = journal.recv(&mut buffer).unwrap();
                let datagram = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if datagram == END {
                    return datagrams;
                }
                datagrams.push(datagram);
            }
        });
        let subscriber = tracing_subscriber::registry().with(layer);
        let guard = tracing::subscriber::set_default(subscriber);
        Self { guard, path, reader, _dir: dir }
    }

    /// The datagrams.
    pub(crate) fn lines(self) -> Vec<String> {
        drop(self.guard);
        UnixDatagram::unbound().unwrap().send_to(END.as_bytes(), &self.path).unwrap();
        self.reader.join().unwrap()
    }
}
