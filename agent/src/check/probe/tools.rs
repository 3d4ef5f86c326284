//! What the host's programs say: their versions, the rules of all, the units.

use calico_datastore::model::Family;

use crate::check::judge::programs::{Absent, Program, ProgramFacts};
use crate::check::judge::systemd::{PROPERTIES, SystemdFacts, Unit};
use crate::config::Settings;
use crate::exec::{Exec, ExecError};
use crate::felix::{Dataplane, Flavour, Probed, survey};
use crate::telemetry::chain;

/// Which programs there are, and which iptables the agent would use.
pub async fn programs(
    exec: &Exec,
    settings: &Settings,
    ipv6: bool,
) -> (ProgramFacts, Option<Dataplane>) {
    let surveyed = async {
        let chosen =
            survey(exec, settings.iptables_backend).await.map(|Probed { chosen, .. }| chosen);
        let six = match &chosen {
            Ok(chosen) if ipv6 => {
                Some(version(exec, &chosen.program(Family::V6, "restore"), &["--version"]).await)
            }
            _ => None,
        };
        (chosen, six)
    };
    let ((chosen, ip6tables), bird) =
        tokio::join!(surveyed, version(exec, "bird", &["--version"]),);
    let dataplane = match &chosen {
        Ok(chosen) => Ok((chosen.flavour, chosen.to_string())),
        Err(error) => Err(chain(error)),
    };
    let facts = ProgramFacts {
        dataplane: Some(dataplane),
        iptables: chosen.as_ref().map(|chosen| chosen.version).unwrap_or_default(),
        ip6tables,
        bird: Some(bird),
    };
    (facts, chosen.ok())
}

async fn version(exec: &Exec, program: &str, args: &[&str]) -> Program {
    let version = match exec.run(program, args, b"").await {
        Ok(output) => {
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            // BIRD prints its version to standard error, behind what the libraries say.
            Ok(match out.trim() {
                "" => output.stderr.lines().last().unwrap_or_default().to_owned(),
                out => out.to_owned(),
            })
        }
        Err(error) if error.is_missing() => Err(Absent::Missing),
        Err(error) => Err(Absent::Broken(chain(&error))),
    };
    Program { name: program.to_owned(), version }
}

/// The rules of every iptables of this host. Reading makes no table.
pub async fn saves(exec: &Exec, ipv6: bool) -> Vec<(Flavour, Family, String)> {
    let mut wanted = Vec::new();
    for (flavour, suffix) in [(Flavour::Nft, "-nft"), (Flavour::Legacy, "-legacy")] {
        wanted.push((flavour, Family::V4, format!("iptables{suffix}-save")));
        if ipv6 {
            wanted.push((flavour, Family::V6, format!("ip6tables{suffix}-save")));
        }
    }
    let asked = wanted.into_iter().map(|(flavour, family, program)| async move {
        let output = exec.run::<&str>(&program, &[], b"").await.ok()?;
        Some((flavour, family, String::from_utf8_lossy(&output.stdout).into_owned()))
    });
    let mut found: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    if found.is_empty() {
        // A host with one flavour has the plain names only.
        for (family, program) in [(Family::V4, "iptables-save"), (Family::V6, "ip6tables-save")] {
            if family == Family::V6 && !ipv6 {
                continue;
            }
            if let Ok(output) = exec.run::<&str>(program, &[], b"").await {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                found.push((plain_flavour(exec).await, family, text));
            }
        }
    }
    found
}

async fn plain_flavour(exec: &Exec) -> Flavour {
    let program = version(exec, "iptables-save", &["--version"]).await;
    if program.version.is_ok_and(|said| said.contains("nf_tables")) {
        Flavour::Nft
    } else {
        Flavour::Legacy
    }
}

/// Everything that nf_tables holds, without the members of sets; `None`: `nft` does not say.
pub async fn nft(exec: &Exec) -> Option<String> {
    let output = exec.run("nft", &["-t", "list", "ruleset"], b"").await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The units, where systemd is in use.
pub async fn systemd(exec: &Exec, booted: bool) -> SystemdFacts {
    if !booted {
        return SystemdFacts::default();
    }
    let (agent, bird) =
        tokio::join!(unit(exec, "calico-agent.service"), unit(exec, "calico-bird.service"));
    SystemdFacts { booted, agent: Some(agent), bird: Some(bird) }
}

async fn unit(exec: &Exec, name: &str) -> Result<Unit, String> {
    let args = ["show", name, "--property", PROPERTIES];
    let output =
        exec.run("systemctl", &args, b"").await.map_err(|error: ExecError| chain(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}
