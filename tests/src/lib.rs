//! Hosts and pods made of network namespaces.
