mod answers;
mod names;
mod properties;
mod words;
pub(crate) mod world;
