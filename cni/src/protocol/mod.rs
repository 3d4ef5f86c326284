//! The CNI specification, 0.1.0 to 1.1.0: environment and standard input in, JSON out. Pure but for
//! [`Invocation::of_process`].

mod args;
mod conf;
mod error;
mod invocation;
mod result;
mod version;

pub use args::Args;
pub use conf::{IpamConf, NetConf, PortMapping, RuntimeConfig};
pub use error::{CniError, Code};
pub use invocation::{Command, Invocation};
pub use result::{Dns, Interface, Ip, Route, Success};
pub use version::Version;
