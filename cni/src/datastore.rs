//! The datastore of a call: which one, and whether it may be used.

use std::path::{Path, PathBuf};

use calico_datastore::layout::v3::{LAYOUT, READY_KEY};
use calico_datastore::location::{self, Location, LocationError, Setting};
use calico_datastore::store::{AnyStore, Store, StoreError, Stored};

use crate::directories::Directories;
use crate::failure;
use crate::protocol::{CniError, Code, NetConf};

/// Opens the store that the configuration says, else `agent.toml`, else the environment, else etcd
/// on this host. Nothing is asked yet.
///
/// # Errors
/// When what was said cannot be meant, or a certificate cannot be read.
pub(crate) fn open(conf: &NetConf) -> Result<AnyStore, CniError> {
    let invalid = |details: String| {
        CniError::new(Code::InvalidConfig, "where the datastore is cannot be told", details)
    };
    if let Some(error) = &conf.overlooked.datastore {
        return Err(error.clone());
    }
    let toml = agent_toml(conf);
    let toml = match std::fs::read_to_string(&toml) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(invalid(format!("cannot read {}: {error}", toml.display()))),
    };
    let env = |name: &str| std::env::var(name).ok();
    let location = location(conf, toml.as_deref(), &env);
    let location = location.map_err(|error| invalid(failure::chain(&error)))?;
    if let Location::Etcd2(_) = location {
        return Err(CniError::new(
            Code::InvalidConfig,
            "this plugin does not write to etcd's v2 API",
            "the datastore is etcdv2: use the plugin that came with Calico 2.6 or older, or \
             migrate to v3",
        ));
    }
    location.open().map_err(|error| invalid(error.chain()))
}

/// The agent's configuration, which is asked after a network's.
pub fn agent_toml(conf: &NetConf) -> PathBuf {
    Directories::of(conf).config.join("agent.toml")
}

/// Where the datastore of a network is: what its configuration says goes first, then the text of
/// `agent.toml`, then the environment.
///
/// # Errors
/// When what was said cannot be meant.
pub fn location(
    conf: &NetConf,
    agent_toml: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Location, LocationError> {
    let first = |setting| said(conf, setting);
    location::locate_after(&first, env, agent_toml, &Directories::of(conf).state)
}

/// What a network's configuration says of the datastore.
fn said(conf: &NetConf, setting: Setting) -> Option<(String, String)> {
    let path = |path: &Option<PathBuf>| path.as_deref().and_then(Path::to_str).map(str::to_owned);
    let (name, value) = match setting {
        Setting::Type => ("datastore", conf.datastore.clone()),
        Setting::Directory => return None,
        Setting::Endpoints => {
            let list = conf.etcd_endpoints.join(",");
            ("etcd_endpoints", Some(list))
        }
        Setting::CaCert => ("etcd_ca_cert_file", path(&conf.etcd_ca)),
        Setting::Cert => ("etcd_cert_file", path(&conf.etcd_cert)),
        Setting::Key => ("etcd_key_file", path(&conf.etcd_key)),
        Setting::Username => ("etcd_username", conf.etcd_username.clone()),
        Setting::Password => ("etcd_password", conf.etcd_password.clone()),
    };
    let value = value.filter(|value| !value.is_empty())?;
    Some((format!("{name:?} in the network's configuration"), value))
}

/// Opens the store, and asks whether it may be used.
///
/// # Errors
/// When it cannot be told or reached, or is not ready.
pub(crate) async fn open_ready(conf: &NetConf) -> Result<AnyStore, CniError> {
    let store = open(conf)?;
    let ready = readiness(&store).await;
    let ready = ready.map_err(|error| failure::store("the datastore cannot be read", &error))?;
    must_be_ready(&store, ready.as_ref())?;
    Ok(store)
}

/// Reads whether the store may be used.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn readiness<S: Store>(store: &S) -> Result<Option<Stored>, StoreError> {
    store.get(READY_KEY).await
}

/// Judges what [`readiness`] read. A directory of this host is ready when it says nothing.
///
/// # Errors
/// Code 11, with why, when the store is not to be used now.
pub(crate) fn must_be_ready(store: &AnyStore, ready: Option<&Stored>) -> Result<(), CniError> {
    if LAYOUT.is_ready(ready.map(|stored| stored.value.as_slice())) {
        return Ok(());
    }
    let why = match (ready, store) {
        (None, AnyStore::Directory(_)) => return Ok(()),
        (None, AnyStore::Etcd3(_) | AnyStore::Etcd2(_)) => {
            "it has no ClusterInformation: calico-agent or calicoctl makes it"
        }
        (Some(_), _) => {
            "its ClusterInformation has no \"datastoreReady\": true; somebody upgrades or restores it"
        }
    };
    Err(CniError::new(Code::TryAgainLater, "the datastore is not ready", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_speaks_for_itself() {
        let conf = NetConf {
            etcd_endpoints: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
            etcd_username: Some("u".to_owned()),
            ..NetConf::default()
        };
        let value = |setting| said(&conf, setting).map(|(_, value)| value);
        assert_eq!(value(Setting::Endpoints).as_deref(), Some("http://a:1,http://b:2"));
        assert_eq!(value(Setting::Username).as_deref(), Some("u"));
        assert_eq!(value(Setting::Password), None);
        assert_eq!(said(&NetConf::default(), Setting::Endpoints), None);
    }

    #[test]
    fn an_etcd_must_say_that_it_is_ready_and_a_directory_need_not() {
        use calico_datastore::backend::directory::{Directory, DirectoryConfig};
        use calico_datastore::backend::etcd3::{Etcd3, Etcd3Config};
        let endpoints = vec!["http://127.0.0.1:1".to_owned()];
        let etcd = Etcd3::new(Etcd3Config { endpoints, ..Etcd3Config::default() }).unwrap();
        let (admin, state) = ("/nowhere".into(), "/nowhere".into());
        let etcd = AnyStore::Etcd3(etcd);
        let dir = AnyStore::Directory(Directory::new(DirectoryConfig { admin, state }));
        let stored = |text: &str| Stored { value: text.as_bytes().to_vec(), revision: 1 };
        let yes = stored(r#"{"spec":{"datastoreReady":true}}"#);
        let no = stored(r#"{"spec":{"datastoreReady":false}}"#);
        for (store, ready, fine) in [
            (&etcd, Some(&yes), true),
            (&etcd, Some(&no), false),
            (&etcd, None, false),
            (&dir, Some(&yes), true),
            (&dir, Some(&no), false),
            (&dir, None, true),
        ] {
            let judged = must_be_ready(store, ready);
            assert_eq!(judged.is_ok(), fine, "{ready:?}: {judged:?}");
            if let Err(error) = judged {
                assert_eq!(error.code, 11);
            }
        }
    }
}
