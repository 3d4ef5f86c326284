//! Configuration: where each setting comes from and what it means.

mod settings;

pub use settings::{AllowAction, DenyAction, HostAction, InsertMode, IptablesBackend, Settings};
