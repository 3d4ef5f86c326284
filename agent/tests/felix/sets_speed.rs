//! How long the kernel's address sets take us, beside the program `ipset`.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use calico_agent::felix::ipset::{Command, SetType};
use calico_datastore::model::Family;

use crate::netns::sh;
use crate::sets::{Kernel, add, address, alone, spec};

const SET: &str = "cali40large";

/// The least of some times: others are at work on this machine, too.
fn least(times: usize, mut work: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| work()).min().unwrap()
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn ours(kernel: &Kernel, commands: &[Command]) -> Duration {
    timed(|| assert_eq!(kernel.write(commands), []))
}

/// The same commands in a file for the program.
fn its(commands: &[Command]) -> Duration {
    let mut text = String::new();
    for command in commands {
        let _ = writeln!(text, "{command}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let run = format!("exec ipset restore -exist < {}", file.path().display());
    timed(|| drop(sh(&run)))
}

fn print(what: &str, ours: Duration, its: Duration) {
    let ratio = ours.as_secs_f64() / its.as_secs_f64();
    println!("{what:34} {ours:>12.3?} {its:>12.3?} {ratio:>8.3}");
}

/// In release: `cargo test --release -p calico-agent --test felix sets_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn beside_the_program() {
    alone(|kernel| {
        let all = spec(SetType::Net, Family::V4, 1 << 20);
        let create = Command::Create(SET.to_owned(), all);
        let destroy = || drop(sh("ipset destroy"));
        println!("{:34} {:>12} {:>12} {:>8}", "", "ours", "ipset", "ratio");
        let mut last = Duration::ZERO;
        for count in [10_000_u32, 100_000] {
            let mut commands = vec![create.clone()];
            commands.extend((0..count).map(|n| add(SET, &address(n * 7))));
            let fresh = |work: &dyn Fn() -> Duration| {
                destroy();
                work()
            };
            let us = least(3, || fresh(&|| ours(&kernel, &commands)));
            let it = least(3, || fresh(&|| its(&commands)));
            print(&format!("{count} members into a new set"), us, it);
        }
        // Into the large one, which is there now.
        for what in ["one member into 100000", "one member out of 100000"] {
            let mut n = 0;
            let mut next = || {
                n += 1;
                let entry = address(n * 7 + 1);
                vec![if what.contains("into") {
                    add(SET, &entry)
                } else {
                    Command::Delete(SET.to_owned(), entry)
                }]
            };
            let us = least(50, || ours(&kernel, &next()));
            let it = least(50, || its(&next()));
            print(what, us, it);
            last = last.max(us);
        }
        let us = least(5, || timed(|| assert!(kernel.read()[SET].members.len() >= 100_000)));
        let it = least(5, || timed(|| assert!(sh("ipset save").len() > 1_000_000)));
        print("read 100000 back", us, it);
        destroy();
        let names: Vec<String> = (0..200).map(|n| format!("cali40s:{n}")).collect();
        let create: Vec<_> = names.iter().map(|name| Command::Create(name.clone(), all)).collect();
        let us = least(3, || {
            destroy();
            ours(&kernel, &create)
        });
        let it = least(3, || {
            destroy();
            its(&create)
        });
        print("200 new sets", us, it);
        let remove: Vec<_> = names.into_iter().map(Command::Destroy).collect();
        let us = ours(&kernel, &remove);
        kernel.write(&create);
        let it = its(&remove);
        print("200 sets away", us, it);
        assert!(last < Duration::from_micros(50) || cfg!(debug_assertions), "{last:?}");
    });
}
