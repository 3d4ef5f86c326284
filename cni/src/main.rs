//! `calico` and `calico-ipam`: one binary, which knows by its name what it is asked for.

use std::path::Path;
use std::process::ExitCode;

use calico_cni::{protocol, run};

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.ends_with("calico-ipam") {
        protocol::serve(|call| run::calico_ipam(&call))
    } else {
        protocol::serve(|call| run::calico(&call))
    }
}
