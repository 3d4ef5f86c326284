//! docs/first-hour.md, done: what it types is typed on two machines that are booted for it, what they say
//! is held against the page, and each step is timed.
//!
//! `UPDATE_EXAMPLE=1` writes the times anew, and what was said where it is not what the page has.

mod alike;
mod transcript;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_e2e::cluster::Cluster;
use calico_e2e::machine::{self, Image, Machine};
use calico_e2e::{document, package, run};

use self::transcript::Transcript;

const PAGE: &str = "docs/first-hour.md";
/// What the page promises of the whole of it.
const LIMIT: Duration = Duration::from_secs(300);
/// At this prompt each machine is told the same.
const BOTH: &str = "both";

/// Two machines on one wire. Dropped before what they stand in.
struct Lab {
    machines: Vec<(&'static str, Machine)>,
    _cluster: Cluster,
}

impl Lab {
    /// Machines with what the page says is there: the package, and on the first one etcd.
    fn new() -> Result<Self> {
        let cluster = Cluster::new("hour")?;
        let dir = cluster.run().dir().join("package");
        let package = package::build(&dir, "0.1.0")?;
        let name = package.file_name().context("a file")?.to_string_lossy().into_owned();
        let mut machines = Vec::new();
        for host in &cluster.hosts {
            let image = Image::new(cluster.run(), host.spec.name)?.with_sysctls();
            image.write("/etc/hostname", format!("{}\n", host.spec.name))?;
            image.write(&format!("/root/{name}"), std::fs::read(&package)?)?;
            for program in ["etcd", "etcdctl"] {
                image.copy(&Path::new("/usr/bin").join(program), &format!("/usr/bin/{program}"))?;
            }
            machines.push((host.spec.name, image.boot(host.ns())?));
        }
        std::fs::remove_dir_all(&dir)?;
        Ok(Self { machines, _cluster: cluster })
    }

    /// What the machine of that prompt says, and its exit code; of both, the second one's too.
    fn type_in(&self, prompt: &str, line: &str) -> Result<Vec<Vec<String>>> {
        let asked = self.machines.iter().filter(|(name, _)| *name == prompt || prompt == BOTH);
        let said = asked.map(|(_, machine)| {
            let output = machine.type_in(line)?;
            let mut lines: Vec<String> =
                output.stdout.lines().map(|line| line.trim_end().to_owned()).collect();
            let code = output.status.code().context("ended by a signal")?;
            lines.extend((code != 0).then(|| format!("[{code}]")));
            Ok(lines)
        });
        let said = said.collect::<Result<Vec<_>>>()?;
        ensure!(!said.is_empty(), "there is no machine {prompt}");
        Ok(said)
    }

    fn journals(&self) -> String {
        let mut text = String::new();
        for (name, machine) in &self.machines {
            let _ = writeln!(text, "{name}:\n{}", machine.journal("calico-agent"));
        }
        text
    }
}

/// The processor and the kernel under all of it.
fn this_machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let how = if cfg!(debug_assertions) { "without optimisation" } else { "as for a release" };
    format!(
        "one machine of {processors} processors with Linux {kernel}, which was both hosts (Debian 12 with a\n\
         systemd of its own each, booted with systemd-nspawn); the programs were built {how}"
    )
}

#[test]
fn the_first_hour_is_as_the_page_tells_it() -> Result<()> {
    if let Some(program) = package::missing().or_else(machine::missing) {
        eprintln!("skipped: {program} is not installed (scripts/setup --tests)");
        return Ok(());
    }
    if !run::can_run() {
        return Ok(());
    }
    let mut page = Transcript::parse(&document::read(PAGE)?)?;
    let lab = Lab::new()?;
    let mut times: Vec<(String, Duration)> = Vec::new();
    let mut others = String::new();
    for (step, command) in page.commands() {
        let begun = Instant::now();
        let said = lab.type_in(&command.host, &command.typed).with_context(|| lab.journals())?;
        let took = begun.elapsed();
        println!(
            "{took:>7.1?} {}# {}",
            command.host,
            command.typed.lines().next().unwrap_or_default()
        );
        match times.last_mut().filter(|(last, _)| *last == step) {
            Some((_, time)) => *time += took,
            None => times.push((step, took)),
        }
        for lines in said {
            if !alike::fits(&command.says, &lines) {
                let (host, typed) = (&command.host, &command.typed);
                let _ = writeln!(others, "{host}# {typed}\n{}", lines.join("\n"));
                command.says = lines;
            }
        }
    }
    let steps: Vec<&str> = times.iter().map(|(step, _)| step.as_str()).collect();
    let all: Duration = times.iter().map(|(_, time)| *time).sum();
    let told: String = times.iter().map(|(step, time)| format!("{step}: {time:.1?}\n")).collect();
    println!("{told}together: {all:.1?}");
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        page.set_times(&times, &this_machine());
        std::fs::write(document::project().join(PAGE), page.text())?;
        return Ok(());
    }
    ensure!(others.is_empty(), "{PAGE} does not say:\n{others}\n{}", lab.journals());
    ensure!([&steps[..], &["together"]].concat() == page.timed_steps(), "other steps are timed");
    ensure!(all < LIMIT, "it took {all:?}:\n{told}");
    Ok(())
}
