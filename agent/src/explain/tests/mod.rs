mod answers;
mod external;
mod names;
mod properties;
mod words;
pub(crate) mod world;
