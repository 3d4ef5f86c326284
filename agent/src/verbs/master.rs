//! `calico-agent master`: calicoctl 0.0.6 started a master container, which told the hosts their
//! policy. Every agent calculates its own host's policy from the datastore.

use clap::Args;

use crate::cli::exit;
use crate::terminal::say;
use crate::verbs::place::etcd_urls;

/// `calico-agent master`: everything is accepted and nothing is done.
#[derive(Clone, Debug, Args)]
pub struct MasterArgs {
    /// No effect: no host is the master.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// No effect.
    #[arg(long, value_name = "ADDRESS", value_parser = etcd_urls)]
    pub etcd: Option<String>,
}

/// Says that there is nothing to do. The exit code: a script of old goes on to `node`.
pub fn main(args: &MasterArgs) -> u8 {
    let etcd = args.etcd.as_ref().map_or(String::new(), |etcd| format!(" --etcd={etcd}"));
    say(&format!(
        "No master is needed any more: the agent of each host reads the datastore itself. On each \
         host:\n  calico-agent node --ip=<its address>{etcd}\n"
    ));
    exit::OK
}
