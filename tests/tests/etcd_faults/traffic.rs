//! Packets that go on all the time and are counted: one flow that is allowed, one that is not.
//!
//! Every datagram leaves from a socket of its own, so each is a new connection and is judged.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use calico_e2e::cluster::Cluster;
use calico_e2e::netns::enter;
use calico_e2e::tutorial::DNS;

/// From here…
const FROM: &str = "frontend-1";
/// …to here, on the other host, everything may go…
const OPEN: &str = "frontend-2";
/// …and to here nothing.
const CLOSED: &str = "backend-1";

const ALLOWED: &[u8] = b"allowed";
const DENIED: &[u8] = b"denied";

/// How long an answer is waited for. Nothing is sent twice: one that is lost is lost.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(5);

/// The running flows. Dropping it ends them.
pub(crate) struct Traffic {
    over: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    answered: AtomicU64,
    denied: AtomicU64,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    /// Allowed datagrams of which the answer came, or should have.
    pub(crate) sent: u64,
    /// Of those, without an answer.
    pub(crate) lost: u64,
    /// Datagrams that should not arrive.
    pub(crate) denied: u64,
    /// Of those, arrived.
    pub(crate) passed: u64,
}

impl Count {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            lost: self.lost - before.lost,
            denied: self.denied - before.denied,
            passed: self.passed - before.passed,
        }
    }
}

impl Traffic {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let from = cluster.pod(FROM)?.ns().name().to_owned();
        let open: IpAddr = cluster.pod(OPEN)?.spec.v4.into();
        let closed: IpAddr = cluster.pod(CLOSED)?.spec.v4.into();
        let over = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let mut threads = Vec::new();
        for (to, payload) in [(open, ALLOWED), (closed, DENIED)] {
            let (from, over, counters) = (from.clone(), Arc::clone(&over), Arc::clone(&counters));
            threads.push(std::thread::spawn(move || {
                enter(&from, || {
                    while !over.load(Ordering::Relaxed) {
                        send(to, payload, &counters)?;
                        std::thread::sleep(PAUSE);
                    }
                    Ok(())
                })
            }));
        }
        Ok(Self { over, counters, threads })
    }

    pub(crate) fn count(&self, cluster: &Cluster) -> Result<Count> {
        // What is under way is counted as sent when its answer is there or given up.
        let passed = cluster.server(CLOSED)?.arrivals(DENIED).len();
        let (sent, answered) = (&self.counters.sent, &self.counters.answered);
        let answered = answered.load(Ordering::Acquire);
        let sent = sent.load(Ordering::Acquire);
        let denied = self.counters.denied.load(Ordering::Relaxed);
        Ok(Count { sent, lost: sent.saturating_sub(answered + 1), denied, passed: passed as u64 })
    }

    /// Ends the flows and counts for the last time.
    pub(crate) fn stop(&mut self, cluster: &Cluster) -> Result<Count> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let mut count = self.count(cluster)?;
        count.lost = count.sent - self.counters.answered.load(Ordering::Relaxed);
        Ok(count)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(to: IpAddr, payload: &[u8], counters: &Counters) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("no socket")?;
    if payload == DENIED {
        socket.send_to(payload, (to, DNS)).context("denied before it left")?;
        counters.denied.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    counters.sent.fetch_add(1, Ordering::Release);
    socket.set_read_timeout(Some(PATIENCE))?;
    // A refusal is a loss as well.
    let answered = socket.connect((to, DNS)).and_then(|()| socket.send(payload));
    if answered.and_then(|_| socket.recv(&mut [0; 64])).is_ok() {
        counters.answered.fetch_add(1, Ordering::Release);
    }
    Ok(())
}
