//! The runtimes' directories: network configurations and plugins.

use std::path::{Path, PathBuf};

use calico_cni::datastore;
use calico_cni::protocol::NetConf;
use calico_datastore::location::Location;
use calico_datastore::model::Cidr;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use crate::check::judge::cni::{CniFacts, Network, NetworkFile, PROGRAMS, Runtime};
use crate::node::addresses::HostAddress;
use crate::telemetry::chain;

/// A runtime's directory of networks, the endings of the files that it reads there, and where it
/// looks for plugins.
const RUNTIMES: [(&str, &[&str], &[&str]); 2] = [
    ("etc/rkt/net.d", &["conf"], &["usr/lib/rkt/plugins/net", "etc/rkt/net.d"]),
    ("etc/cni/net.d", &["conf", "conflist", "json"], &["opt/cni/bin", "usr/lib/cni"]),
];

/// Reads everything below `root`, `/` outside of tests. `addresses`: those of this host.
pub fn probe(root: &Path, addresses: &[HostAddress]) -> CniFacts {
    let mut facts = CniFacts { host: networks_of(addresses), ..CniFacts::default() };
    for (networks, endings, plugins) in RUNTIMES {
        let directory = root.join(networks);
        if !directory.is_dir() {
            continue;
        }
        let places: Vec<PathBuf> = plugins.iter().map(|place| root.join(place)).collect();
        let executable = |program: &str| {
            let mut files = places.iter().map(|place| place.join(program));
            files.any(|file| file.is_file() && access(&file, AccessFlags::X_OK).is_ok())
        };
        facts.runtimes.push(Runtime {
            networks: directory.display().to_string(),
            plugins: places.iter().map(|place| place.display().to_string()).collect(),
            missing: PROGRAMS.into_iter().filter(|program| !executable(program)).collect(),
        });
        facts.networks.extend(files(root, &directory, endings));
    }
    facts
}

/// The networks of ours in a directory, in the order of their names.
fn files(root: &Path, directory: &Path, endings: &[&str]) -> Vec<NetworkFile> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending))
    });
    paths.sort();
    paths.into_iter().filter_map(|path| file(root, &path)).collect()
}

/// `None`: it cannot be read, or it is not about us.
fn file(root: &Path, path: &Path) -> Option<NetworkFile> {
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
    let content = match serde_json::from_str::<Value>(&text) {
        Ok(document) => Ok(network(root, &document)?),
        // What it would be nobody knows; what names us somewhere was meant for us.
        Err(error) if text.contains("calico") => Err(error.to_string()),
        Err(_) => return None,
    };
    Some(NetworkFile { path: path.display().to_string(), content })
}

/// A network whose plugin, or one of whose plugins, is ours.
fn network(root: &Path, document: &Value) -> Option<Network> {
    let list = document["plugins"].as_array();
    let single = std::slice::from_ref(document);
    let plugins = list.map_or(single, Vec::as_slice);
    let ours = plugins.iter().find(|plugin| plugin["type"] == "calico")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Network {
        name: text(&document["name"]),
        subnet: text(&ours["ipam"]["subnet"]),
        store: Some(store(root, document, ours)),
    })
}

/// Where the plugin keeps the pods of a network, or what it says to its configuration. Which
/// environment a runtime has is not known here; nearly always there is nothing in it.
fn store(root: &Path, document: &Value, plugin: &Value) -> Result<Location, String> {
    // As a runtime hands over one plugin of a list.
    let mut conf = plugin.clone();
    for key in ["name", "cniVersion"] {
        if let (Some(fields), Some(value)) = (conf.as_object_mut(), document.get(key)) {
            fields.insert(key.to_owned(), value.clone());
        }
    }
    let conf = NetConf::parse(conf.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let toml = datastore::agent_toml(&conf);
    let toml = std::fs::read_to_string(root.join(toml.strip_prefix("/").unwrap_or(&toml))).ok();
    let location = datastore::location(&conf, toml.as_deref(), &|_| None);
    location.map_err(|error| chain(&error))
}

/// The networks that an address says it is in.
fn networks_of(addresses: &[HostAddress]) -> Vec<Cidr> {
    let networks = addresses.iter().filter(|own| !own.address.is_loopback());
    let networks = networks.filter_map(|own| Cidr::new(own.address, own.prefix_len).ok());
    let mut networks: Vec<Cidr> =
        networks.filter(|net| !net.is_host() && !is_link_local(net)).collect();
    networks.sort();
    networks.dedup();
    networks
}

fn is_link_local(net: &Cidr) -> bool {
    match net.address() {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use calico_datastore::backend::etcd3::Etcd3Config;

    use super::*;

    #[test]
    fn nothing_is_asked_of_a_host_without_a_runtime() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(probe(root.path(), &[]), CniFacts::default());
    }

    #[test]
    fn what_is_there_is_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str, mode| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let ipam = r#""ipam":{"type":"calico-ipam","subnet":"10.1.0.0/16"}"#;
        let ours = format!(r#"{{"name":"network1","type":"calico",{ipam}}}"#);
        write("etc/rkt/net.d/10-calico-network1.conf", &ours, 0o644);
        write("etc/rkt/net.d/20-bridge.conf", r#"{"name":"b","type":"bridge"}"#, 0o644);
        write("etc/rkt/net.d/30-broken.conf", r#"{"type":"calico",}"#, 0o644);
        write("etc/rkt/net.d/40-broken.conf", r#"{"type":"bridge",}"#, 0o644);
        // rkt reads no lists.
        write("etc/rkt/net.d/50.conflist", r#"{"type":"calico",}"#, 0o644);
        write("usr/lib/rkt/plugins/net/calico", "", 0o755);
        write("usr/lib/rkt/plugins/net/calico-ipam", "", 0o644);
        let list = r#"{"name":"k","plugins":[{"type":"calico"},{"type":"portmap"}]}"#;
        write("etc/cni/net.d/10.conflist", list, 0o644);
        write("opt/cni/bin/calico", "", 0o755);
        write("usr/lib/cni/calico-ipam", "", 0o755);
        let own = |address: &str, prefix_len| HostAddress {
            address: address.parse().unwrap(),
            prefix_len,
        };
        let addresses = [
            own("127.0.0.1", 8),
            own("172.18.18.101", 24),
            own("192.168.0.64", 32),
            own("fe80::1", 64),
            own("fd00::1", 64),
        ];
        let facts = probe(root.path(), &addresses);
        assert_eq!(facts.runtimes[0].missing, ["calico-ipam"], "root may not execute it either");
        assert_eq!(facts.runtimes[1].missing, [""; 0]);
        let of = |name: &str| {
            let files: Vec<_> = facts.networks.iter().filter(|f| f.path.ends_with(name)).collect();
            files.first().map(|file| file.content.clone())
        };
        let (name, subnet) = (Some("network1".to_owned()), Some("10.1.0.0/16".to_owned()));
        let default = ["http://127.0.0.1:2379", "http://127.0.0.1:4001"];
        let store = Some(Ok(etcd(&default)));
        assert_eq!(of("10-calico-network1.conf"), Some(Ok(Network { name, subnet, store })));
        assert!(of("30-broken.conf").unwrap().is_err());
        let store = Some(Ok(etcd(&default)));
        let named = Network { name: Some("k".to_owned()), subnet: None, store };
        assert_eq!(of("net.d/10.conflist"), Some(Ok(named)));
        assert_eq!(facts.networks.len(), 3, "{:?}", facts.networks);
        let host: Vec<Cidr> =
            ["172.18.18.0/24", "fd00::/64"].map(|net| net.parse().unwrap()).to_vec();
        assert_eq!(facts.host, host);
    }

    fn etcd(endpoints: &[&str]) -> Location {
        let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
        Location::Etcd3(Etcd3Config { endpoints, ..Etcd3Config::default() })
    }

    #[test]
    fn the_plugin_asks_the_network_then_the_agents_file() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        };
        write("etc/rkt/net.d/1.conf", r#"{"name":"n","type":"calico"}"#);
        let own = r#"{"name":"n","type":"calico","etcd_endpoints":"http://own:1"}"#;
        write("etc/rkt/net.d/2.conf", own);
        let list = r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"calico","mtu":1400}]}"#;
        write("etc/cni/net.d/3.conflist", list);
        let bad = r#"{"name":"n","type":"calico","mtu":"wide"}"#;
        write("etc/cni/net.d/4.conf", bad);
        let stores = || -> Vec<_> {
            let networks = probe(root.path(), &[]).networks.into_iter();
            networks.map(|file| file.content.unwrap().store.unwrap()).collect()
        };
        let default = etcd(&["http://127.0.0.1:2379", "http://127.0.0.1:4001"]);
        let found = stores();
        assert_eq!(found[..3], [Ok(default.clone()), Ok(etcd(&["http://own:1"])), Ok(default)]);
        assert!(found[3].as_ref().unwrap_err().contains("mtu"), "{found:?}");
        write("etc/calico/agent.toml", "[datastore]\nendpoints = [\"http://file:1\"]\n");
        let file = Ok(etcd(&["http://file:1"]));
        assert_eq!(stores()[..3], [file.clone(), Ok(etcd(&["http://own:1"])), file]);
        write("etc/calico/agent.toml", "[datastore\n");
        assert!(stores()[0].as_ref().unwrap_err().contains("agent.toml"));
    }
}
