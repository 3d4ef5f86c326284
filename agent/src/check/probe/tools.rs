//! What the host's programs say: their versions, the rules of all, the units.

use calico_datastore::model::Family;

use crate::check::judge::programs::{Absent, Program, ProgramFacts};
use crate::check::judge::systemd::{PROPERTIES, SystemdFacts, Unit};
use crate::config::Settings;
use crate::exec::{Exec, ExecError};
use crate::felix::Dataplane;
use crate::felix::pick::{Pick, PickError, pick};
use crate::telemetry::chain;

/// Which programs there are, and which iptables the agent would use.
pub async fn programs(
    exec: &Exec,
    settings: &Settings,
    ipv6: bool,
) -> (ProgramFacts, Option<Dataplane>) {
    let surveyed = async {
        let picked = pick(exec, settings.wanted_dataplane(), false).await.map(|one| one.pick);
        let six = match &picked {
            Ok(Pick::Iptables(chosen)) if ipv6 => {
                Some(version(exec, &chosen.program(Family::V6, "restore"), &["--version"]).await)
            }
            _ => None,
        };
        (picked, six)
    };
    let ((picked, ip6tables), bird) = tokio::join!(surveyed, version(exec, "bird", &["--version"]));
    let facts = ProgramFacts { bird: Some(bird), ..ProgramFacts::default() };
    let (dataplane, chosen) = match picked {
        Ok(Pick::Iptables(chosen)) => (Ok((chosen.flavour, chosen.to_string())), Some(chosen)),
        // It needs none of the programs.
        Ok(Pick::Nftables { why }) => {
            return (ProgramFacts { nftables: Some(Ok(why)), ..facts }, None);
        }
        Err(PickError::Nftables(why)) => {
            return (ProgramFacts { nftables: Some(Err(why)), ..facts }, None);
        }
        Err(error @ PickError::Iptables(_)) => (Err(chain(&error)), None),
    };
    let iptables = chosen.as_ref().map(|chosen| chosen.version).unwrap_or_default();
    let dataplane = Some(dataplane);
    (ProgramFacts { dataplane, iptables, ip6tables, ..facts }, chosen)
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
