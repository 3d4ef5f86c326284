//! A plugin that is killed at any moment leaves nothing that DEL, or the next ADD, does not find.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{Netns, POD, World, world};

/// `CALICO_KILLS` sets how many.
fn kills() -> u64 {
    std::env::var("CALICO_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn added(world: &World) -> bool {
    let record = world.path("state/attachments").join(format!("{POD}_eth0.json"));
    std::fs::read_to_string(record).is_ok_and(|text| text.contains(r#""stage": "added""#))
}

#[test]
fn killed_at_any_moment() {
    let Some(world) = world() else { return };
    let conf = world.conf("n", json!({}));
    // Whole ADDs, to know how long one takes; the first one makes the profile and claims a block.
    let mut whole = Duration::MAX;
    for _ in 0..4 {
        let pod = Netns::new("pod");
        let began = Instant::now();
        world.call("ADD", &conf).netns(pod.path()).succeeds();
        whole = whole.min(began.elapsed());
        world.call("DEL", &conf).netns(pod.path()).succeeds();
    }
    assert_eq!(world.holdings(), [""; 0]);

    let (kills, mut unfinished) = (kills(), 0);
    for round in 0..kills {
        // Evenly over the time that an ADD takes, and a little more.
        let after = whole.mul_f64(1.2 * round as f64 / kills as f64);
        let pod = Netns::new("pod");
        let mut child = world.call("ADD", &conf).netns(pod.path()).spawn();
        std::thread::sleep(after);
        let _ = child.kill();
        let status = child.wait().unwrap();
        unfinished += u64::from(!status.success());
        match round % 4 {
            // The runtime may ask again; it may first be told to remove.
            // One that was done but for its answer has to be removed first.
            0 if !status.success() && !added(&world) => {
                world.call("ADD", &conf).netns(pod.path()).succeeds();
                assert_eq!(pod.links(), ["eth0"], "round {round}");
                world.call("DEL", &conf).netns(pod.path()).succeeds();
            }
            1 => {
                world.call("DEL", &conf).succeeds();
            }
            2 => {
                let path = pod.path();
                drop(pod);
                world.call("DEL", &conf).netns(path).succeeds();
            }
            _ => {
                // A DEL that is killed as well, and then one that is not.
                let mut child = world.call("DEL", &conf).netns(pod.path()).spawn();
                std::thread::sleep(Duration::from_millis(round % 40));
                let _ = child.kill();
                let _ = child.wait();
                world.call("DEL", &conf).netns(pod.path()).succeeds();
            }
        }
        assert_eq!(world.holdings(), [""; 0], "round {round}, killed after {after:?}");
    }
    // On a busy machine an ADD takes longer or shorter than the one that was measured.
    assert!(unfinished > kills / 6, "only {unfinished} of {kills} were killed at work");
}
