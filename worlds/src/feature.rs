pub struct Feature;
pub const FEATURES: &[Feature] = &[];
