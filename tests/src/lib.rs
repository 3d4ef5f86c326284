//! Hosts and pods made of network namespaces, with the real etcd, BIRD, iptables and packets.
//!
//! ```text
//!              ┌─ namespace <run>-wire: bridge `wire`, 172.18.18.1/24, etcd ─┐
//!              │                        │                                    │
//!   <run>-calico-01             <run>-calico-02                       <run>-outside
//!   172.18.18.101               172.18.18.102                         172.18.18.250
//!   calico-agent, BIRD          calico-agent, BIRD                    no route to any pod
//!      │ cali…     │ cali…
//!   <run>-frontend-1 …          one namespace per pod, wired as the CNI plugin does it
//! ```
//!
//! [`run`] names and cleans up, [`netns`] and [`process`] are the only modules that make namespaces
//! and processes, [`cluster`] puts hosts together, [`world`] writes what today's calicoctl and CNI
//! plugin would write, [`probe`] and [`ask`] send packets and [`flow`] sends them all the time, [`matrix`]
//! compares what passed with what should, and [`kernel`] reads back with the system's own tools what
//! the agent programmed ([`own_table`]: in its own table). [`dataplane`] runs a test on each dataplane. [`managers`] are other firewalls beside it. [`machine`] is
//! systemd in a container, [`virtual_machine`] a whole machine with a kernel of its own. [`document`] reads
//! the commands of the documents.

pub mod ask;
pub mod cluster;
pub mod dataplane;
pub mod document;
pub mod etcd;
pub mod etcd_cluster;
pub mod evaluator;
pub mod flow;
pub mod foreign;
pub mod holdings;
pub mod host;
pub mod kernel;
pub mod machine;
pub mod managers;
pub mod matrix;
pub mod netns;
pub mod own_table;
pub mod package;
pub mod pod;
pub mod probe;
pub mod process;
pub mod reboot;
pub mod rkt;
pub mod run;
pub mod server;
pub mod status;
pub mod tutorial;
pub mod virtual_machine;
pub mod wait;
pub mod world;
