//! Chains, address sets, sysctls and conntrack: what decides about packets.
