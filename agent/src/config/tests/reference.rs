//! `docs/configuration.md` follows from the same tables as parsing does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::collector::COLLECTOR_KEYS;
use super::super::file::{DATASTORE_KEYS, NODE_KEYS};
use super::super::params::{OnBad, PARAMS, Param};
use super::super::unsupported::UNSUPPORTED;

const HEAD: &str = "\
# Configuration

Generated from the agent's own tables (`UPDATE_EXAMPLE=1 cargo test -p calico-agent --lib config`).

A setting is looked for in this order, and the first that says something counts:

1. the command line: `calico-agent run --help`
2. [the environment](#the-environment) ([example](../packaging/calico.env.example))
3. `/etc/calico/agent.toml`, which the CNI plugin reads, too ([example](../packaging/agent.toml.example))
4. FelixConfiguration `node.<name>` in the datastore (`calicoctl`)
5. FelixConfiguration `default` in the datastore

Changes in the datastore count at once, those of `[felix]` in `agent.toml` after `systemctl reload calico-agent`,
those of `[datastore]`, `[node]`, `[collector]` and of the environment after `systemctl restart calico-agent`.
Policy stays in force meanwhile. An unknown key or a bad value in `agent.toml` is an error that names line and
column: at a reload what was read before goes on to count, at the start the agent does not start. `calico-agent
check` looks at all of it beforehand.

## The environment

The unit reads `/etc/default/calico-agent`, `/etc/sysconfig/calico-agent` and `/etc/calico/calico.env`; each goes before
those named before it. Commands that look at the configuration (`check`, `plan`, `diags`, …) read the same files, and
the environment that they are typed in goes before all three; `run` by hand reads none of them. Empty counts as not set.

The CNI plugin reads none of these files: it asks the network's file, then `agent.toml`, then the runtime's own
environment (`CALICO_DATASTORE`, `ETCD_…`).

| Name | Meaning |
| --- | --- |
| `CALICO_DATASTORE` | `etcd`, `etcdv2`, `directory` or `dir:/path`. As `type` in `[datastore]`. |
| `ETCD_ENDPOINTS` | URLs of etcd with commas between. As `endpoints`. |
| `ETCD_AUTHORITY`, `ETCD_SCHEME` | The old way to say it, without `ETCD_ENDPOINTS`: `host:port`, and `http` (if nothing is said) or `https`. |
| `ETCD_CA_CERT_FILE`, `ETCD_CERT_FILE`, `ETCD_KEY_FILE`, `ETCD_USERNAME`, `ETCD_PASSWORD` | As the keys of `[datastore]`. |
| `FELIX_ETCDENDPOINTS`, `FELIX_ETCDADDR`, `FELIX_ETCDSCHEME`, `FELIX_ETCDCAFILE`, `FELIX_ETCDCERTFILE`, `FELIX_ETCDKEYFILE`, `FELIX_ETCDUSERNAME`, `FELIX_ETCDPASSWORD` | The same, after those and before `agent.toml`. |
| `NODENAME`, `IP`, `IP6`, `AS` | Who this host is. As `[node]`. |
| `FELIX_FELIXHOSTNAME` | The host's name, when neither `NODENAME` nor `[node]` says it. |
| `HOSTNAME` | The same, when nobody says it and `/var/lib/calico/nodename` is not there either. |
| `CLUSTER_TYPE` | For a cluster that has no ClusterInformation yet (`bgp`). |
| `DISABLE_NODE_IP_CHECK` | `true`: do not look whether another node has the address. |
| `FELIX_<Name>` | The parameters [below](#felix-in-agenttoml-felixconfiguration-felix_). |
| `CALICO_CONFIG_DIR`, `CALICO_RUN_DIR`, `CALICO_STATE_DIR` | As `--config-dir`, `--run-dir`, `--state-dir`; not from the three files when a command is typed. |
| `RUST_LOG` | What is logged, as of any program in Rust. Goes before `LogSeverityScreen`. |
| `XTABLES_LOCKFILE` | The lock of legacy iptables, as for its own tools. |

What calico/node also takes is not read here, and nobody complains of it:

| Name | Instead |
| --- | --- |
| `IP_AUTODETECTION_METHOD`, `IP6_AUTODETECTION_METHOD` | Say `IP`, `IP6`. With `autodetect` the stored address stays, and `status` says so. |
| `CALICO_IPV4POOL_…`, `CALICO_IPV6POOL_…`, `NO_DEFAULT_POOLS` | No pool is made by the agent: `calicoctl`, or `subnet` in a network's file. |
| `CALICO_NETWORKING_BACKEND` | Routes go by BIRD; without it policy works and routes stay local. |
| `DATASTORE_TYPE` | `CALICO_DATASTORE`. |
| `WAIT_FOR_DATASTORE` | The agent always waits. |
";

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn section(name: &str, keys: &[(&str, &str)]) -> String {
    let mut text = format!("\n## `[{name}]` in agent.toml\n\n| Key | Meaning |\n| --- | --- |\n");
    for (key, doc) in keys {
        text += &format!("| `{key}` | {} |\n", cell(doc));
    }
    text
}

fn row(param: &Param) -> String {
    let default = match param.default {
        "" => "none".to_owned(),
        // Lists of ports break only at spaces.
        default => format!("`{}`", default.replace(',', ", ")),
    };
    let bad = match param.on_bad {
        OnBad::KeepLast => "kept",
        OnBad::NextSource => "passed over",
    };
    format!(
        "| `{}`<br>`{}` | {} | {} | {default} | {bad} |\n",
        param.name,
        param.snake_case(),
        cell(param.doc),
        cell(&param.allowed()),
    )
}

fn reference() -> String {
    let mut text = HEAD.to_owned();
    text += &section("datastore", DATASTORE_KEYS);
    text += &section("node", NODE_KEYS);
    text += &section("collector", COLLECTOR_KEYS);
    text += "
## `[felix]` in agent.toml, FelixConfiguration, `FELIX_…`

The names are Felix's: `FELIX_<Name>` in the environment (in any case), `<name>` with its first letter small
in FelixConfiguration, and the second name below in agent.toml. A bad value is *passed over*, so that the next
source is asked; or, where falling through could open the host, what counted before is *kept*. `status` and the
journal name it in either case.

| Name | Meaning | Takes | Default | A bad value is |
| --- | --- | --- | --- | --- |
";
    PARAMS.iter().for_each(|param| text += &row(param));
    text += "
## Names of Felix that have no effect here

In FelixConfiguration and in the environment they may stay; the agent passes over them, and says so at
`debug`. `agent.toml` refuses them with the reason. `felix.cfg` is not read at all: `agent.toml` takes its
place.

| Why | Names |
| --- | --- |
";
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, reason) in UNSUPPORTED {
        reasons.entry(reason).or_default().push(format!("`{name}`"));
    }
    for (reason, names) in reasons {
        text += &format!("| {} | {} |\n", cell(reason), names.join(", "));
    }
    text
}

/// `UPDATE_EXAMPLE=1` writes the file anew.
#[test]
fn the_reference_lists_exactly_the_tables() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text == reference(), "docs/configuration.md: run the test with UPDATE_EXAMPLE=1");
}
