//! What DEL reads of a configuration, whatever is wrong with it.

use std::path::PathBuf;

use super::read::{document, ipam, name, version};
use super::{CALICO_IPAM, IpamConf, NetConf};
use crate::protocol::CniError;
use crate::protocol::object::Object;

impl NetConf {
    /// What DEL needs. It is sent once, and the configuration may have been changed since the ADD, or
    /// be one that no ADD ever took: what is wrong in a field is overlooked, and what DEL cannot
    /// do without is [told](NetConf::overlooked).
    ///
    /// # Errors
    /// Codes 1 and 6: what stands there cannot be read at all.
    pub(in crate::protocol) fn of_del(stdin: &[u8]) -> Result<Self, CniError> {
        let document = document(stdin)?;
        let root = Object::root(&document);
        let text = |key| root.string(key).ok().flatten();
        let path = |key| text(key).map(PathBuf::from);
        let mut conf = Self {
            version: version(&root)?,
            kind: text("type").unwrap_or_default(),
            nodename: text("nodename").or_else(|| text("hostname")),
            nodename_file: path("nodename_file"),
            config_dir: path("config_dir"),
            run_dir: path("run_dir"),
            state_dir: path("state_dir"),
            ..Self::default()
        };
        match name(&root) {
            Ok(name) => conf.name = name,
            Err(error) => conf.overlooked.name = Some(error),
        }
        conf.overlooked.datastore = conf.read_datastore(&root).err();
        // What is wrong there keeps every plugin from giving an address.
        let ours = || IpamConf { kind: CALICO_IPAM.to_owned(), ..IpamConf::default() };
        conf.ipam = ipam(&root, &conf.kind).unwrap_or_else(|_| ours());
        conf.document = document;
        Ok(conf)
    }
}
