//! Host endpoints: which interface each of them is about, and what has to be said of them.

pub mod choose;
pub mod judge;
pub mod lifelines;
