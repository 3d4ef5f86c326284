//! Reads what others have: with the programs of the host, and writes nothing. Reading makes no table.

use calico_datastore::model::Family;

use super::nft;
use super::rules::Table;
use crate::exec::Exec;
use crate::felix::Flavour;
use crate::felix::nftables::TABLE as OWN_TABLE;
use crate::telemetry::chain;

/// The rules of every iptables of this host, as its `save` prints them.
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
        let flavour = plain_flavour(exec).await;
        for (family, program) in [(Family::V4, "iptables-save"), (Family::V6, "ip6tables-save")] {
            if family == Family::V6 && !ipv6 {
                continue;
            }
            if let Ok(output) = exec.run::<&str>(program, &[], b"").await {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                found.push((flavour, family, text));
            }
        }
    }
    found
}

async fn plain_flavour(exec: &Exec) -> Flavour {
    let said = exec.run("iptables-save", &["--version"], b"").await;
    match said {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("nf_tables") => Flavour::Nft,
        _ => Flavour::Legacy,
    }
}

/// Every table of nf_tables that drops packets and is neither ours nor one of iptables; `None`: there
/// is no `nft` to say.
///
/// Chains are asked for first: rules of iptables are many, and they are read as such.
///
/// # Errors
/// In words, when `nft` fails, or says something that is not understood.
pub async fn nft(exec: &Exec) -> Result<Option<Vec<Table>>, String> {
    let list = |args: Vec<String>| async move {
        let output = exec.run("nft", &args, b"").await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let chains = match list(words("-j list chains")).await {
        Ok(chains) => chains,
        Err(error) if crate::exec::ExecError::is_missing(&error) => return Ok(None),
        Err(error) => return Err(chain(&error)),
    };
    let mut tables = Vec::new();
    for table in nft::parse(&chains).map_err(|error| not_understood(&error))? {
        if table.name.split_once(' ').is_some_and(|(_, name)| name == OWN_TABLE) {
            continue;
        }
        match list(words(&format!("-j list table {}", table.name))).await {
            Ok(text) => tables.extend(nft::parse(&text).map_err(|error| not_understood(&error))?),
            // Gone since.
            Err(crate::exec::ExecError::Failed { stderr, .. })
                if stderr.contains("No such file") => {}
            Err(error) => return Err(chain(&error)),
        }
    }
    Ok(Some(tables))
}

fn not_understood(error: &impl std::fmt::Display) -> String {
    format!("nft says what is not understood: {error}")
}
