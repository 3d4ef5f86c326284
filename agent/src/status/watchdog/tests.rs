use std::sync::atomic::AtomicUsize;

use super::*;

const LIMIT: Duration = Duration::from_millis(600);

/// What the watchdog did.
struct Rig {
    pings: Arc<AtomicUsize>,
    silent: watch::Receiver<Vec<Silence>>,
}

impl Rig {
    fn start(watchdog: Watchdog) -> Self {
        let pings = Arc::new(AtomicUsize::new(0));
        let (counter, silent) = (pings.clone(), watchdog.silent());
        std::thread::spawn(move || {
            watchdog.run(LIMIT, "", || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
        });
        Self { pings, silent }
    }

    fn pings(&self) -> usize {
        self.pings.load(Ordering::Relaxed)
    }

    fn silent(&self) -> Vec<&'static str> {
        self.silent.borrow().iter().map(|silence| silence.name).collect()
    }

    async fn until_silent(&mut self, names: &[&str]) {
        let same = |all: &Vec<Silence>| all.iter().map(|one| one.name).eq(names.iter().copied());
        let wait = self.silent.wait_for(same);
        tokio::time::timeout(LIMIT * 20, wait).await.expect("not noticed").unwrap();
    }
}

fn answer_for_ever(mut heartbeat: Heartbeat) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            heartbeat.beat().await;
        }
    })
}

#[tokio::test]
async fn loops_that_only_wait_are_alive() {
    let mut watchdog = Watchdog::new();
    for name in ["datastore", "felix", "routes"] {
        answer_for_ever(watchdog.register(name));
    }
    let rig = Rig::start(watchdog);
    tokio::time::sleep(LIMIT * 4).await;
    assert!(rig.pings() >= 6, "{}", rig.pings());
    assert!(rig.silent().is_empty());
}

#[tokio::test]
async fn one_loop_that_hangs_silences_all_and_is_named() {
    let mut watchdog = Watchdog::new();
    answer_for_ever(watchdog.register("datastore"));
    let mut slow = watchdog.register("felix");
    let other = watchdog.register("bird");
    let mut rig = Rig::start(watchdog);
    rig.until_silent(&["felix", "bird"]).await;
    assert_eq!(rig.pings(), 0);
    // One ends as it should; the other was only slow: one answer, one ping, and silence again.
    other.retire();
    rig.until_silent(&["felix"]).await;
    slow.beat().await;
    rig.until_silent(&[]).await;
    rig.until_silent(&["felix"]).await;
    assert_eq!(rig.pings(), 1);
}

#[tokio::test]
async fn a_loop_that_died_is_noticed_and_one_that_retired_is_not() {
    let mut watchdog = Watchdog::new();
    let dying = answer_for_ever(watchdog.register("felix"));
    answer_for_ever(watchdog.register("routes"));
    watchdog.register("starter").retire();
    let mut rig = Rig::start(watchdog);
    tokio::time::sleep(LIMIT).await;
    assert!(rig.pings() > 0);
    dying.abort();
    rig.until_silent(&["felix"]).await;
}

#[tokio::test]
async fn a_beat_that_is_cut_off_is_not_lost() {
    let mut watchdog = Watchdog::new();
    let mut heartbeat = watchdog.register("felix");
    let rig = Rig::start(watchdog);
    tokio::spawn(async move {
        loop {
            // Something else in the select is always faster.
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
                () = heartbeat.beat() => {}
            }
        }
    });
    tokio::time::sleep(LIMIT * 3).await;
    assert!(rig.pings() >= 4, "{}", rig.pings());
}

#[tokio::test]
async fn a_long_run_lives_as_long_as_its_steps_end() {
    let mut watchdog = Watchdog::new();
    let (step, steps) = watch::channel(0);
    let mut stepping = watchdog.register("felix").with_steps(steps);
    let mut rig = Rig::start(watchdog);
    let run = tokio::spawn(async move {
        let work = async {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT / 6).await;
                step.send_modify(|count| *count += 1);
            }
            // And then none ends any more.
            std::future::pending::<()>().await;
        };
        stepping.during(work).await;
    });
    tokio::time::sleep(LIMIT * 3).await;
    assert!(rig.silent().is_empty() && rig.pings() >= 3, "{}: {:?}", rig.pings(), rig.silent());
    rig.until_silent(&["felix"]).await;
    run.abort();
}

#[tokio::test]
async fn a_step_of_an_earlier_run_is_no_sign_of_life_of_this_one() {
    let mut watchdog = Watchdog::new();
    let (step, steps) = watch::channel(0);
    let mut heartbeat = watchdog.register("felix").with_steps(steps);
    step.send_replace(7);
    let mut rig = Rig::start(watchdog);
    let run = tokio::spawn(async move { heartbeat.during(std::future::pending::<()>()).await });
    rig.until_silent(&["felix"]).await;
    assert_eq!(rig.pings(), 0);
    run.abort();
}
