//! Logs: plain text on a terminal, fields in the journal.
