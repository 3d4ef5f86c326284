use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::routes::monitor::Link;
use crate::status::systemd::Watchdog;
use crate::telemetry::capture::Captured;

/// One run: when it began, why, and the generation it was given.
type Seen = (Duration, Wake, u64);

/// Answers from a script; when that is over, "everything is well".
struct Scripted {
    begin: Instant,
    script: VecDeque<Report>,
    takes: Duration,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Reconciler for Scripted {
    const NAME: &'static str = "scripted";

    async fn reconcile(&mut self, world: &World, wake: Wake) -> Report {
        let seen = (self.begin.elapsed(), wake, world.desired.generation);
        self.seen.lock().unwrap().push(seen);
        tokio::time::sleep(self.takes).await;
        self.script.pop_front().unwrap_or_default()
    }
}

struct Rig {
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    links: watch::Sender<Links>,
    kernel: Arc<Notify>,
    reports: watch::Receiver<Option<Report>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
    watchdog: Option<Watchdog>,
}

impl Rig {
    fn start(takes: Duration, script: impl IntoIterator<Item = Report>) -> Self {
        let (desired, desired_rx) = watch::channel(None);
        let (links, links_rx) = watch::channel(Links::new());
        let (reports_tx, reports) = watch::channel(None);
        let kernel = Arc::new(Notify::new());
        let mut watchdog = Watchdog::new();
        let seen = Arc::default();
        let script = script.into_iter().collect();
        let reconciler = Scripted { begin: Instant::now(), script, takes, seen: Arc::clone(&seen) };
        let inputs = Inputs { desired: desired_rx, links: links_rx, kernel: Arc::clone(&kernel) };
        let task = tokio::spawn(run(reconciler, inputs, reports_tx, watchdog.register("scripted")));
        Self { desired, links, kernel, reports, seen, task, watchdog: Some(watchdog) }
    }

    fn want(&self, generation: u64) {
        let state = DesiredState { generation, ..DesiredState::default() };
        self.desired.send_replace(Some(Arc::new(state)));
    }

    /// The runs since the last call.
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn wakes(&self) -> Vec<Wake> {
        self.seen().into_iter().map(|(_, wake, _)| wake).collect()
    }
}

async fn ms(time: u64) {
    tokio::time::sleep(Duration::from_millis(time)).await;
}

fn failing() -> Report {
    Report { retry: true, ..Report::default() }
}

const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn nothing_runs_before_the_first_desired_state_and_then_it_starts() {
    let rig = Rig::start(AT_ONCE, []);
    rig.kernel.notify_one();
    rig.links.send_replace(Links::from_iter([("eth0".parse().unwrap(), link())]));
    ms(60_000).await;
    assert_eq!(rig.seen(), []);
    assert!(rig.reports.borrow().is_none());
    rig.want(1);
    ms(1).await;
    // The wake-up of the kernel that was left is none of a later time's.
    assert_eq!(rig.wakes()[0], Wake::Start);
    assert!(rig.reports.borrow().is_some());
}

fn link() -> Link {
    Link { index: 1, up: true, mac: None, mtu: 1500, ..Link::default() }
}

#[tokio::test(start_paused = true)]
async fn each_input_wakes_it_by_its_name() {
    let rig = Rig::start(AT_ONCE, []);
    rig.want(1);
    ms(1).await;
    rig.want(2);
    ms(1).await;
    rig.links.send_replace(Links::new());
    ms(1).await;
    rig.kernel.notify_one();
    ms(1).await;
    assert_eq!(rig.wakes(), [Wake::Start, Wake::Desired, Wake::Links, Wake::Kernel]);
    // Without a cause nothing runs.
    ms(3_600_000).await;
    assert_eq!(rig.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_run_skips_to_the_newest_state() {
    let rig = Rig::start(Duration::from_secs(1), []);
    rig.want(1);
    ms(1).await;
    for generation in 2..=9 {
        rig.want(generation);
        ms(10).await;
    }
    ms(10_000).await;
    let generations: Vec<_> = rig.seen().into_iter().map(|(_, _, generation)| generation).collect();
    assert_eq!(generations, [1, 9]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_growing_pauses_until_one_succeeds() {
    let mut script: Vec<_> = (0..10).map(|_| failing()).collect();
    script.push(Report::default());
    script.push(failing());
    let rig = Rig::start(AT_ONCE, script);
    rig.want(1);
    ms(120_000).await;
    let seen = rig.seen();
    assert_eq!(seen[0].1, Wake::Start);
    assert!(seen[1..].iter().all(|(_, wake, _)| *wake == Wake::Retry), "{seen:?}");
    let pauses: Vec<_> = seen.windows(2).map(|two| (two[1].0 - two[0].0).as_millis()).collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
    // After a success the next failure begins anew.
    rig.want(2);
    ms(99).await;
    assert_eq!(rig.wakes(), [Wake::Desired]);
    ms(2).await;
    assert_eq!(rig.wakes(), [Wake::Retry]);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_is_earlier_than_the_retry_goes_first_and_does_not_put_it_off() {
    let timed = |failed: bool| Report {
        retry: failed,
        wake_after: Some(Duration::from_millis(60)),
        ..Report::default()
    };
    // The second failure happens in the run of the timer: it is the same trouble, not a new try.
    let rig = Rig::start(AT_ONCE, [timed(true), timed(true), Report::default()]);
    rig.want(1);
    ms(1000).await;
    let seen: Vec<_> = rig.seen().into_iter().map(|(at, wake, _)| (at.as_millis(), wake)).collect();
    assert_eq!(seen, [(0, Wake::Start), (60, Wake::Timer), (100, Wake::Retry)]);
}

#[tokio::test(start_paused = true)]
async fn changes_all_the_time_neither_put_off_a_retry_nor_lengthen_its_pause() {
    let rig = Rig::start(AT_ONCE, (0..1000).map(|_| failing()));
    rig.want(1);
    for generation in 2..30 {
        // Never at the very moment of a retry: which of the two goes first is not promised.
        ms(31).await;
        rig.want(generation);
    }
    let seen = rig.seen();
    let retries = seen.iter().filter(|(_, wake, _)| *wake == Wake::Retry);
    let times: Vec<_> = retries.map(|(at, _, _)| at.as_millis()).collect();
    assert_eq!(times, [100, 300, 700]);
}

#[tokio::test(start_paused = true)]
async fn a_timer_goes_off_as_asked_and_only_then() {
    let timed = Report { wake_after: Some(Duration::from_secs(90)), ..Report::default() };
    let rig = Rig::start(AT_ONCE, [timed]);
    rig.want(1);
    ms(89_999).await;
    assert_eq!(rig.wakes(), [Wake::Start]);
    ms(3_600_000).await;
    assert_eq!(rig.wakes(), [Wake::Timer]);
}

#[tokio::test]
async fn the_watchdog_is_answered_while_waiting_and_not_during_a_run() {
    const LIMIT: Duration = Duration::from_millis(300);
    let mut rig = Rig::start(LIMIT * 6, []);
    let pings = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = Arc::clone(&pings);
    let count = move || pings.load(std::sync::atomic::Ordering::Relaxed);
    let watchdog = rig.watchdog.take().unwrap();
    let silent = watchdog.silent();
    std::thread::spawn(move || {
        watchdog.run(LIMIT, "", || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
    });
    // Before the first desired state it lives.
    tokio::time::sleep(LIMIT * 3).await;
    let waiting = count();
    assert!(waiting >= 4, "{waiting}");
    rig.want(1);
    tokio::time::sleep(LIMIT * 4).await;
    assert!(count() <= waiting + 1, "a run that takes long was called alive");
    assert_eq!(silent.borrow()[0].name, "scripted");
    // The run has ended: alive again, and nothing else wakes the loop.
    tokio::time::sleep(LIMIT * 5).await;
    assert!(count() > waiting + 3);
    assert!(silent.borrow().is_empty());
    assert_eq!(rig.wakes(), [Wake::Start]);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_inputs() {
    for started in [false, true] {
        let Rig { desired, links, task, .. } = Rig::start(AT_ONCE, []);
        if started {
            desired.send_replace(Some(Arc::default()));
            ms(1).await;
        }
        drop(desired);
        tokio::time::timeout(Duration::from_secs(1), task).await.unwrap().unwrap();
        drop(links);
    }
}

#[test]
fn the_pause_never_overflows() {
    assert_eq!(back_off(1), RETRY_FIRST);
    assert_eq!(back_off(u32::MAX), RETRY_MAX);
}

/// Says something while it works, and finds something.
struct Talking;

impl Reconciler for Talking {
    const NAME: &'static str = "talking";

    async fn reconcile(&mut self, world: &World, _: Wake) -> Report {
        tokio::task::yield_now().await;
        tracing::info!(endpoint = "cni/default/a/eth0", "route added");
        let generation = world.desired.generation;
        let problem = |subject: &str| Problem { subject: subject.into(), message: "no".into() };
        let missing = crate::drift::Change::Missing;
        let drift = Drift::new("route 10.0.0.1/32".into(), missing, String::new());
        let whose = WorkloadEndpointId {
            node: "host".into(),
            orchestrator: "cni".into(),
            workload: "default/b".into(),
            endpoint: "eth0".into(),
        };
        Report {
            problems: vec![problem(if generation == 1 {
                "Profile web"
            } else {
                "policy shop/web"
            })],
            drift: vec![drift.of(Some(&whose))],
            ..Report::default()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_line_about_a_run_has_its_generation() {
    let captured = Captured::begin();
    let (desired, desired_rx) = watch::channel(None);
    let (_links, links) = watch::channel(Links::new());
    let (reports, _reports) = watch::channel(None);
    let inputs = Inputs { desired: desired_rx, links, kernel: Arc::default() };
    let mut watchdog = Watchdog::new();
    let task = tokio::spawn(run(Talking, inputs, reports, watchdog.register("talking")));
    for generation in 1..=2 {
        let state = DesiredState { generation, ..DesiredState::default() };
        desired.send_replace(Some(Arc::new(state)));
        ms(10).await;
    }
    task.abort();
    let lines = captured.lines();
    let of = |generation: u64| {
        let field = format!("CALICO_GENERATION={generation}\n");
        lines.iter().filter(move |line| line.contains(&field)).collect::<Vec<_>>()
    };
    assert_eq!(of(1).len() + of(2).len(), lines.len(), "{lines:#?}");
    let said = |generation, field: &str| of(generation).iter().any(|line| line.contains(field));
    for (generation, field) in [
        (1, "CALICO_ENDPOINT=cni/default/a/eth0\n"),
        (1, "CALICO_PROFILE=web\n"),
        (1, "CALICO_EVENT=repaired\n"),
        (1, "CALICO_ENDPOINT=cni/default/b/eth0\n"),
        (2, "CALICO_POLICY=shop/web\n"),
        (2, "CALICO_EVENT=problem-over\n"),
        (2, "CALICO_PROFILE=web\n"),
    ] {
        assert!(said(generation, field), "{generation}: {field}: {lines:#?}");
    }
    assert!(!said(1, "CALICO_POLICY="), "{lines:#?}");
}
