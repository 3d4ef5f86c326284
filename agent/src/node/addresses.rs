//! The addresses of the host's interfaces, asked from the kernel.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;

/// An address of an interface of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix, 0–32 or 0–128.
    pub prefix_len: u8,
}

/// The kernel did not say which addresses the host has.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The dump failed.
    #[error("cannot read the addresses of this host")]
    Dump(#[source] rtnetlink::Error),
    /// It took too long.
    #[error("the kernel did not list the addresses of this host within {LIMIT:?}")]
    TimedOut,
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Every address of every interface in this network namespace, sorted.
///
/// # Errors
/// When netlink does not work.
pub async fn host_addresses() -> Result<Vec<HostAddress>, AddressError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Socket)?;
    let connection = tokio::spawn(connection);
    let dump = async {
        let mut messages = handle.address().get().execute();
        let mut found = vec![];
        while let Some(message) = messages.try_next().await? {
            let prefix_len = message.header.prefix_len;
            let mut local = None;
            let mut address = None;
            for attribute in &message.attributes {
                match attribute {
                    // On a point-to-point interface ADDRESS is the other end (rtnetlink(7)).
                    AddressAttribute::Local(ip) => local = Some(*ip),
                    AddressAttribute::Address(ip) => address = Some(*ip),
                    _ => {}
                }
            }
            let own = local.or(address);
            found.extend(own.map(|address| HostAddress { address, prefix_len }));
        }
        found.sort_unstable();
        Ok(found)
    };
    let found = tokio::time::timeout(LIMIT, dump).await;
    connection.abort();
    found.map_err(|_| AddressError::TimedOut)?.map_err(AddressError::Dump)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_among_them() {
        let found = host_addresses().await.unwrap();
        let loopback = HostAddress { address: IpAddr::from([127, 0, 0, 1]), prefix_len: 8 };
        assert!(found.contains(&loopback), "{found:?}");
    }
}
