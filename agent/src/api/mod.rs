//! The unix socket: `status`.
