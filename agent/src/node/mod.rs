//! Who this host is: its name, its addresses, its registration in the datastore.
