//! The calculation: from objects of the datastore to the desired state, incrementally. Pure.
