//! Felix on a real kernel: each test makes a host and its pods out of network namespaces, programs
//! a desired state built by hand, and sends packets. Every test runs on the legacy and on the nft
//! flavour of iptables, and on a table of our own where it means the same, with IPv4 and IPv6 side by
//! side.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

#[path = "felix/abuse.rs"]
mod abuse;
#[path = "felix/chaos.rs"]
mod chaos;
#[path = "felix/churn.rs"]
mod churn;
#[path = "felix/connections.rs"]
mod connections;
#[path = "felix/conntrack.rs"]
mod conntrack;
#[path = "felix/contention.rs"]
mod contention;
#[path = "felix/counters.rs"]
mod counters;
#[path = "felix/denied.rs"]
mod denied;
#[path = "felix/disk.rs"]
mod disk;
#[path = "felix/dispatch.rs"]
mod dispatch;
#[path = "felix/economy.rs"]
mod economy;
#[path = "felix/holes.rs"]
mod holes;
#[path = "felix/holes_frame.rs"]
mod holes_frame;
#[path = "felix/holes_nat.rs"]
mod holes_nat;
#[path = "felix/host.rs"]
mod host;
#[path = "felix/hosts.rs"]
mod hosts;
#[path = "felix/hosts_change.rs"]
mod hosts_change;
#[path = "felix/large_sets.rs"]
mod large_sets;
#[path = "felix/leftovers.rs"]
mod leftovers;
#[path = "felix/machines.rs"]
mod machines;
#[path = "felix/nat.rs"]
mod nat;
#[path = "felix/native.rs"]
mod native;
#[path = "felix/neighbours.rs"]
mod neighbours;
#[path = "felix/netns.rs"]
mod netns;
#[path = "felix/openstack.rs"]
mod openstack;
#[path = "felix/others_bugs.rs"]
mod others_bugs;
#[path = "felix/policy.rs"]
mod policy;
#[path = "felix/probing.rs"]
mod probing;
#[path = "felix/refused.rs"]
mod refused;
#[path = "felix/responsive.rs"]
mod responsive;
#[path = "felix/restarted.rs"]
mod restarted;
#[path = "felix/rewriting.rs"]
mod rewriting;
#[path = "felix/sets.rs"]
mod sets;
#[path = "felix/spelling.rs"]
mod spelling;
#[path = "felix/spoofing.rs"]
mod spoofing;
#[path = "felix/switching.rs"]
mod switching;
#[path = "felix/tampering.rs"]
mod tampering;
#[path = "felix/together.rs"]
mod together;
#[path = "felix/tools.rs"]
mod tools;
#[path = "felix/verdicts.rs"]
mod verdicts;
#[path = "felix/watching.rs"]
mod watching;
#[path = "felix/world.rs"]
mod world;
