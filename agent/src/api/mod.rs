//! The unix socket: HTTP/1.1 on `agent.sock` in the run directory.
//!
//! | path | answer |
//! |---|---|
//! | `/status` | the status document |
//! | `/ready` | 200 when the desired state is in force, else 503 |
//! | `/live` | 200, or 503 with the loops of the agent that hang |
//! | `/explain?from=…&to=…&protocol=…&port=…` | what policy says about a packet, and why: a document; 400 with the reason when it cannot be told |
//! | `/graph?protocol=…&port=…` | who reaches whom on this host: a document; without a query about every port that policies name |
//!
//! `curl --unix-socket /run/calico/agent.sock http://agent/status` works as well as
//! `calico-agent status`. Only root can open the socket.

pub mod client;
pub mod server;
pub mod table;
