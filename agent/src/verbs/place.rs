//! Where a command finds the datastore and the files of this host.

use clap::Args;

use crate::cli::{DirectoryArgs, RunArgs};

/// What every command that looks at the datastore takes.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// Where etcd is: host:port or URLs, with commas between [default: what the configuration says].
    #[arg(long, value_name = "ADDRESS", alias = "etcd-endpoints", value_parser = etcd_urls)]
    pub etcd: Option<String>,
    /// Which datastore: etcd, or dir:/path with manifests [env: CALICO_DATASTORE].
    #[arg(long, value_name = "STORE")]
    pub datastore: Option<String>,
    /// This host's name in the cluster [env: NODENAME].
    #[arg(long, value_name = "NAME")]
    pub nodename: Option<String>,
    /// Where its files are.
    #[command(flatten)]
    pub directories: DirectoryArgs,
}

impl PlaceArgs {
    /// The same as options of `run`.
    pub fn run(&self) -> RunArgs {
        RunArgs {
            directories: self.directories.clone(),
            nodename: self.nodename.clone(),
            etcd_endpoints: self.etcd.clone(),
            datastore: self.datastore.clone(),
            ..RunArgs::default()
        }
    }
}

/// `10.0.0.1:2379`, as calicoctl took it, and URLs; as URLs.
///
/// # Errors
/// When there is no address in it.
pub fn etcd_urls(text: &str) -> Result<String, String> {
    let urls = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let urls = urls.map(|part| match part.contains("://") {
        true => part.to_owned(),
        false => format!("http://{part}"),
    });
    let urls: Vec<String> = urls.collect();
    if urls.is_empty() {
        return Err("it takes host:port, or URLs with commas between".to_owned());
    }
    Ok(urls.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_old_become_urls() {
        assert_eq!(etcd_urls("10.0.0.1:4001").unwrap(), "http://10.0.0.1:4001");
        let mixed = etcd_urls("https://a:1, b:2,").unwrap();
        assert_eq!(mixed, "https://a:1,http://b:2");
        assert!(etcd_urls(" ,").is_err());
    }
}
