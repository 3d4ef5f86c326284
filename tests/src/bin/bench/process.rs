//! What a process has used: `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// On a processor, with the children that it waited for.
    pub(crate) cpu: Duration,
    /// The most memory that it had at once, MiB (`VmHWM`).
    pub(crate) peak: f64,
    /// What it has now that is not the text of a program, MiB (`RssAnon`).
    pub(crate) own: f64,
    /// How often one of its threads went to sleep and was woken.
    pub(crate) wakeups: u64,
}

impl Usage {
    /// Up to now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).context(path)
        };
        let stat = read("stat")?;
        // The name in parentheses may hold spaces; utime is the twelfth behind it (proc(5)).
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let ticks = fields.split_ascii_whitespace().skip(11).take(4);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let status = read("status")?;
        let size = |key| Ok::<_, anyhow::Error>(number(&status, key)? as f64 / 1024.0);
        let (peak, own) = (size("VmHWM:")?, size("RssAnon:")?);
        let mut wakeups = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            wakeups += number(&status, "voluntary_ctxt_switches:").unwrap_or_default();
        }
        // USER_HZ is 100 on every architecture that we are built for.
        Ok(Self { cpu: Duration::from_millis(ticks * 10), peak, own, wakeups })
    }
}

fn number(status: &str, key: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("status")?;
    let word = line.split_ascii_whitespace().next().context("status")?;
    Ok(word.parse()?)
}
