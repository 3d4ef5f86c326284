//! Work grows with what changed.
