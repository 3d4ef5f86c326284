mod answers;
mod external;
mod hosts;
mod names;
mod properties;
mod strays;
mod words;
pub(crate) mod world;
