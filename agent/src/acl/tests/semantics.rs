//! One rule of the semantics each.
