//! BIRD: renders its configuration, checks it, swaps it, and asks it how it is.
