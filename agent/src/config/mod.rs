//! Configuration: where each setting comes from and what it means.
//!
//! * [`PARAMS`] is the one table of names; [`Settings`] is what they mean.
//! * [`resolve()`] decides which source wins: environment, `agent.toml`, FelixConfiguration of the
//!   node, FelixConfiguration `default`, defaults. It is pure and is asked again when the
//!   datastore changes.
//! * [`Local`] is what only this host can say: how the datastore is reached, who the host is.
//!
//! Nothing here reads the environment but [`Env::of_process`], or a file but
//! [`FileConfig::load_as_far`].

mod announce;
mod collector;
mod env;
mod failsafe;
mod file;
mod kind;
mod local;
mod params;
mod pattern;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;
mod unsupported;

pub use announce::announce;
pub use collector::{COLLECTOR_KEYS, CollectorConfig};
pub use env::Env;
pub use failsafe::Failsafe;
pub use file::{DATASTORE_KEYS, FileConfig, FileError, Mistake, NODE_KEYS};
pub use kind::{BIRD_PROTOCOL, Field, Kind, Word, duration};
pub use local::{AddressChoice, Flags, Local, LocalError, NodeConfig};
pub use params::{BadValue, OnBad, PARAMS, Param};
pub use pattern::InterfacePattern;
pub use resolve::{Ignored, Resolution, Source, Sources, resolve, set_locally};
pub use settings::{
    AllowAction, DataplaneSetting, DenyAction, HostAction, InsertMode, InvalidPolicy,
    IptablesBackend, METADATA_SERVICE, NftablesDispatch, NftablesMode, OPENSTACK_PREFIX,
    RKT_METADATA_PORT, Settings, Wanted,
};
pub use unsupported::{UNSUPPORTED, why_unsupported};
