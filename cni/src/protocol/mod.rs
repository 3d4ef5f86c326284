//! The CNI specification, 0.1.0 to 1.1.0: environment and standard input in, JSON out. Pure but for
//! [`Invocation::of_process`] and [`mod@print`].

mod address;
mod args;
mod conf;
mod error;
pub(crate) mod invocation;
mod object;
pub mod print;
mod result;
mod version;

pub use args::Args;
pub use conf::{CALICO_IPAM, IpamConf, NetConf, PortMapping, RuntimeConfig};
pub use error::{CniError, Code};
pub use invocation::{Command, Env, Invocation, MAX_STDIN};
pub use object::InvalidField;
pub use print::serve;
pub use result::{Dns, Interface, Ip, Route, Success};
pub use version::{UnknownVersion, Version};
