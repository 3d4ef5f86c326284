//! The tables of a running Felix.
